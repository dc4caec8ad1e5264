"""`metadrift check`: what is wrong ends it with 2, what follows from the settings is said."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline import arrivals
from pipeline.cli import app
from pipeline.config_checks import check_packages
from pipeline.records import ModelsFound
from pipeline.tracking_store import StoreError, reach_store
from tests.pipeline.made_state import core_in_canary, digest, write_config, write_state

METADRIFT = [sys.executable, "-c", "from pipeline.cli import main; main()"]


def check(config: Path, *more: str, code: int = 0) -> dict[str, list[dict[str, str]]]:
    """Return the findings by what they are about."""
    found = CliRunner().invoke(app, ["check", "-c", str(config), "--json", *more])
    assert found.exit_code == code, found.output
    document: dict[str, Any] = json.loads(found.stdout)
    assert document["ok"] is (code == 0)
    by_key: dict[str, list[dict[str, str]]] = {}
    for finding in document["findings"]:
        by_key.setdefault(finding["about"], []).append(finding)
    return by_key


def test_a_good_configuration_says_what_it_implies(tmp_path: Path) -> None:
    found = check(write_config(tmp_path), "--offline")
    assert found["detect.error"][0]["says"].startswith("HDDMA(drift_confidence=0.001")
    assert "from 56 holdout labels on" in found["gate"][0]["says"]
    assert "with chance 0.29" in found["episode.holdout"][0]["says"]
    assert "needs 80 labels" in found["episode"][0]["says"]
    assert "116 for the gate's verdict" in found["episode"][0]["says"]
    assert "at most 0.05 (evidence of 20); 0.5 of 0.5" in found["rollout"][0]["says"]
    assert found["champion"][0]["level"] == "warning"
    assert "reptile and maml need a meta-init" in found["episode.recipes"][0]["says"]


def test_people_read_it_too(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["check", "--offline", "-c", str(write_config(tmp_path))])
    assert found.stdout.splitlines()[-1] == "nothing is wrong"
    assert "warning champion: none yet" in found.stdout


def test_the_state_and_what_waits_are_looked_at(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(tmp_path / "state", core_in_canary(), [])
    found = check(config, "--offline")
    assert found["champion"][0]["says"] == "1-aaaaaaaa"
    assert "0.45 of 0.5" in found["rollout"][0]["says"]
    assert "500 events" in found["state_dir"][0]["says"]
    arrivals.announce(tmp_path / "state", ModelsFound(champion="", meta_init=digest("d")))
    assert check(config, "--offline")["meta-init"][0]["says"] == digest("d")[:15]


@pytest.mark.parametrize(
    ("text", "about", "says"),
    [
        ("detect: {error: {name: HDDM}}", "detect.error", "choose one of ADWIN, "),
        (
            "detect: {error: {name: ADWIN, params: {delta: high}}}",
            "detect.error",
            "ADWIN, parameter 'delta'",
        ),
        ("detect: {also: [{name: ADWIN, params: {p: 1}}]}", "detect.also.0", "it has the param"),
        ("gate: {target_from: 0.3, target_to: 0.299}", "gate", "set a larger effect"),
        ("episode: {buffer_examples: 100}", "episode.buffer_examples", "the gate needs 116"),
        ("rollout: {dwell_s: 9.0, longest_wait_s: 1.0}", "rollout", "no step could ever end"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(
    tmp_path: Path, text: str, about: str, says: str
) -> None:
    found = check(write_config(tmp_path, text), "--offline", code=2)
    wrong = [f for f in found[about] if f["level"] == "error"]
    assert says in wrong[0]["says"]


def test_a_wrong_key_is_a_finding(tmp_path: Path) -> None:
    config = write_config(tmp_path, "gate: {risky: 1}")
    found = check(config, "--offline", code=2)
    assert found[str(config)][0]["says"].startswith("gate.risky: 1: no such key")


def test_warnings_do_not_fail(tmp_path: Path) -> None:
    text = "http: {host: 0.0.0.0}\nepisode: {deadline_labels: 50}\nrollout: {mode: recommend}"
    found = check(write_config(tmp_path, text), "--offline")
    assert "without authentication" in found["http.host"][0]["says"]
    assert "below the 80 labels" in found["episode.deadline_labels"][0]["says"]
    assert "waits for approval" in found["rollout.mode"][0]["says"]


def test_a_state_of_another_model_is_wrong(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(tmp_path / "state", core_in_canary(), [], model="other")
    assert "belongs to model 'other'" in check(config, "--offline", code=2)["state_dir"][0]["says"]


def test_broker_and_store_that_are_away_are_told_in_time(tmp_path: Path) -> None:
    text = (
        "kafka: {bootstrap_servers: '127.0.0.1:1'}\n"
        "registry: {tracking_uri: 'http://127.0.0.1:1'}\n"
    )
    config = write_config(tmp_path, text)
    # In a process of its own: a client that never connected leaves its sockets to the collector.
    args = ["check", "-c", str(config), "--timeout", "1"]
    found = subprocess.run(
        [*METADRIFT, *args], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 2, found.stderr
    assert "kafka: kafka.bootstrap_servers: no broker answers at 127.0.0.1:1" in found.stdout
    assert "no server answers at http://127.0.0.1:1" in found.stdout
    assert found.stdout.splitlines()[-1] == "2 wrong"


def test_a_name_that_another_distribution_installs_is_wrong() -> None:
    def installed() -> Mapping[str, Sequence[str]]:
        return {"pipeline": ["metadrift", "some-pipeline"], "deploy": ["metadrift"]}

    (found,) = check_packages(installed)
    assert (found.level, found.about) == ("error", "package pipeline")
    assert "some-pipeline installs a package of this name too" in found.says
    assert [f.level for f in check_packages()] == ["ok"]


def test_a_package_that_resolves_elsewhere_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.machinery
    import importlib.util

    real = importlib.util.find_spec

    def elsewhere(name: str) -> object:
        if name != "deploy":
            return real(name)
        other = importlib.machinery.ModuleSpec(name, None, is_package=True)
        other.submodule_search_locations = [str(tmp_path / "deploy")]
        return other

    monkeypatch.setattr(importlib.util, "find_spec", elsewhere)
    (found,) = check_packages(dict)
    assert found.about == "package deploy" and str(tmp_path) in found.says


def test_stores(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    assert "made when it is first used" in reach_store(f"sqlite:///{path}", 1)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE cats (name TEXT)")
    db.close()
    with pytest.raises(StoreError, match="is no MLflow store"):
        reach_store(f"sqlite:///{path}", 1)
    path.write_text("plain text, long enough to be no database at all" * 50)
    with pytest.raises(StoreError, match="cannot be read"):
        reach_store(f"sqlite:///{path}", 1)
    with pytest.raises(StoreError, match=r"registry\.tracking_uri: .*link-local"):
        reach_store("http://169.254.169.254", 1)
