"""`metadrift get` and `metadrift watch --once` on state files."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from deploy.rollout import Phase, apply_verb
from pipeline.cli import app
from tests.pipeline.made_state import core_in_canary, write_config, write_state
from tests.servers.leashed_process import LeashedProcess


def run(*words: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert found.exit_code == code, found.output
    return found.output


def test_get_and_watch_show_the_tree(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(tmp_path / "state", core_in_canary(), [])
    for said in (run("get", "-c", str(config)), run("watch", "--once", "-c", str(config))):
        for words in (
            "route *: champion 1-aaaaaaaa",
            "rollout 1: 2-bbbbbbbb against 1-aaaaaaaa, canary (auto)",
            "candidate 5 %, stable 95 %",
            "> step 1: 5 %",
            "- step 2: 25 %",
            "paired evidence: 8 labels, gain 1.000",
            "canary: passed",
        ):
            assert words in said, said


def test_in_probation_the_candidate_is_said_to_answer_everything(tmp_path: Path) -> None:
    config, core = write_config(tmp_path), core_in_canary()
    route = core.routes["*"]
    assert route.rollout is not None
    route.probation, route.rollout = replace(route.rollout, phase=Phase.PROBATION), None
    route.champion = 2
    write_state(tmp_path / "state", core, [])
    said = run("get", "-c", str(config))
    assert "2-bbbbbbbb answers everything, 1-aaaaaaaa can come back" in said
    assert "stable 100 %" not in said


def test_watch_as_json_prints_a_line_for_each_change(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(tmp_path / "state", core_in_canary(), [])
    (line,) = run("watch", "--once", "--json", "-c", str(config)).splitlines()
    assert json.loads(line)["*"]["rollout"]["weight_pct"] == 5
    program = [str(Path(sys.executable).with_name("metadrift")), "watch", "--json"]
    log = tmp_path / "watch.log"
    watching = LeashedProcess([*program, "-c", str(config), "--every", "0.1"], log=log)
    try:
        watching.wait_for(lambda: watching.output().count("\n") == 1, what="a line", within_s=120)
        core = core_in_canary()
        route = core.routes["*"]
        assert route.rollout is not None
        route.ended, route.rollout = apply_verb(route.rollout, "abort", "ada", 950.0, "no"), None
        write_state(tmp_path / "state", core, [])
        watching.wait_for(lambda: watching.output().count("\n") == 2, what="another", within_s=120)
        assert json.loads(watching.output().splitlines()[1])["*"]["rollout"] is None
    finally:
        watching.kill()


def test_get_as_json_and_an_ended_rollout(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    core = core_in_canary()
    route = core.routes["*"]
    assert route.rollout is not None
    route.ended, route.rollout = apply_verb(route.rollout, "abort", "ada", 950.0, "[no]"), None
    write_state(tmp_path / "state", core, [])
    found = json.loads(run("get", "--json", "-c", str(config)))["*"]
    assert found["rollout"] is None
    assert found["ended"]["phase"] == "rolled_back"
    assert [h["phase"] for h in found["ended"]["history"]] == [
        "validating",
        "canary",
        "rolled_back",
    ]
    said = run("get", "-c", str(config))
    assert "no rollout in progress" in said and "abort by ada: [no]" in said


def test_without_a_state_they_end_with_code_2(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert "error: state_dir" in run("get", "-c", str(config), code=2)
    assert "error: state_dir" in run("watch", "--once", "-c", str(config), code=2)
