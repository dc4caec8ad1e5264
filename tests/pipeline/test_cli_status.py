"""`metadrift status` on state files, and what the verbs make of the daemon's answer."""

import json
import sqlite3
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from pipeline import arrivals
from pipeline.cli import app
from pipeline.commands.control import _answer
from pipeline.core_state import Core
from pipeline.json_schemas import json_schemas
from pipeline.records import ModelsFound
from pipeline.settings import load_settings
from tests.pipeline.made_state import (
    HERE,
    core_in_canary,
    decision,
    digest,
    write_config,
    write_state,
)


def status(config: Path, *more: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, ["status", "-c", str(config), *more], env={"COLUMNS": "200"})
    assert found.exit_code == code, found.output
    return found.stderr if code else found.stdout


def test_a_canary_is_shown_with_its_numbers(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(
        tmp_path / "state", core_in_canary(), [decision(1, "signal", "loss rose")], waiting=3
    )
    found = json.loads(status(config, "--json"))
    jsonschema.validate(found, json_schemas()["status"])
    assert found["owner"]["state"] == "stopped"
    assert (found["events"], found["labels"], found["served_loss"]) == (500, 100, 0.25)
    route = found["routes"]["*"]
    assert route["champion"] == "1-aaaaaaaa"
    assert route["episode"] is None and route["probation"] is None
    rollout = route["rollout"]
    assert (rollout["phase"], rollout["weight_pct"], rollout["labels"]) == ("canary", 5, 8)
    assert (rollout["wins"], rollout["losses"], rollout["gain"]) == (8, 0, 1.0)
    assert rollout["e_needed"] == pytest.approx(20.0)
    assert rollout["packet"] == "feedbeef"
    assert found["risk"]["left"] == pytest.approx(0.45)
    assert found["outbox"] == 3
    assert found["positions"] == {"events/0": 500, "labels/0": 100}
    assert [d["reason"] for d in found["decisions"]] == ["loss rose"]


def test_people_read_the_same(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(tmp_path / "state", core_in_canary(), [decision(1, "signal", "loss [rose]")])
    said = status(config)
    for words in (
        "champion 1-aaaaaaaa",
        "1: 2-bbbbbbbb against 1-aaaaaaaa, canary, step 1 of 3 at 5 % (auto)",
        "8 labels, gain 1.000, 8 wins and 0 losses",
        "0.45 of 0.5 wrong promotions in 30 days",
        "signal: loss [rose]",
        "stopped",
    ):
        assert words in said, said


def test_ignored_features_are_named(tmp_path: Path) -> None:
    core = core_in_canary()
    core.extra_features = {f"extra{i}": i for i in range(1, 13)}
    write_state(tmp_path / "state", core, [])
    config = write_config(tmp_path)
    assert json.loads(status(config, "--json"))["ignored_features"]["extra12"] == 12
    assert "extra12 12, extra11 11" in status(config) and "extra3 3 and 2 more" in status(config)


def test_owner_running_silent_or_gone(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(tmp_path / "state", Core(), [], stopped=False)
    found = json.loads(status(config, "--json"))
    assert (found["owner"]["state"], found["owner"]["pid"]) == ("running", HERE)
    path = tmp_path / "state" / "state.sqlite"
    for column, value, expected in (("heard_s", 5, "silent"), ("pid", 99_999_999, "gone")):
        with sqlite3.connect(path) as db:
            db.execute(f"UPDATE owner SET {column} = ?", (value,))  # noqa: S608 - two literals
        db.close()
        assert json.loads(status(config, "--json"))["owner"]["state"] == expected


def test_models_that_wait_are_shown(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(tmp_path / "state", Core(), [])
    arrivals.announce(tmp_path / "state", ModelsFound(champion=digest("c"), meta_init=digest("d")))
    found = json.loads(status(config, "--json"))
    assert found["waiting_champion"] == digest("c")
    assert found["waiting_meta_init"] == digest("d")
    assert "a first champion and a meta-init for the daemon's next start" in status(config)
    assert "champion none" in status(config)


def test_another_models_state_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(tmp_path / "state", Core(), [], model="other")
    assert "belongs to model 'other', not 'm'" in status(config, code=2)


def test_a_file_that_is_no_state_is_named(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.sqlite").write_text("something else entirely" * 100)
    assert "file is not a database" in status(config, code=2)


def test_a_command_is_accepted_refused_or_not_answered(tmp_path: Path) -> None:
    settings = load_settings(write_config(tmp_path))
    assert _answer(settings, "x", 0.1) == ("no answer", "")
    core = core_in_canary()
    core.commands = ["yes", "no", "quiet"]
    decisions = [
        decision(1, "command", "pause by ada: lunch", command="yes"),
        decision(2, "command", "resume by ada: no reason given", command="no"),
        decision(3, "command-refused", "resume by ada: it is not paused", command="no"),
    ]
    write_state(tmp_path / "state", core, decisions)
    assert _answer(settings, "yes", 1) == ("accepted", "pause by ada: lunch")
    assert _answer(settings, "no", 1) == ("refused", "resume by ada: it is not paused")
    assert _answer(settings, "quiet", 1) == ("accepted", "")
    assert _answer(settings, "other", 0.1) == ("no answer", "")
