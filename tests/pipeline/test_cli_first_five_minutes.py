"""From a CSV file to a promoted candidate, by commands alone, over a real broker."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from tests.pipeline.shift_files import history, live, write_shifts
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.leashed_process import LeashedProcess

METADRIFT = [sys.executable, "-c", "from pipeline.cli import main; main()"]
TOPICS = ("events", "labels", "control", "predictions", "decisions", "dead_letters")


def call(*args: str, code: int = 0) -> str:
    """Run a command in this process; return what it printed."""
    found = CliRunner().invoke(app, list(args))
    assert found.exit_code == code, found.output
    return found.stdout


def started(log: Path, *args: str) -> LeashedProcess:
    """Start a command as a process of its own."""
    return LeashedProcess([*METADRIFT, *args], log=log)


@pytest.mark.integration
def test_first_five_minutes(
    broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    past, stream = history(tmp_path / "history.csv"), live(tmp_path / "live.csv")
    told = json.loads(
        call(
            *("init", "--data", str(past), "--label", "label", "--task", "shift", "--id", "id"),
            *("--name", "shifts", "--bootstrap-servers", broker.bootstrap_servers, "--json"),
        )
    )
    assert told["features"] == {"colour": "category", "x": "tensor(6)"}
    assert told["tasks"] == 30
    configure(Path("metadrift.yaml"))

    made = json.loads(call("init", "--topics", "--partitions", "2", "--json"))["topics"]
    assert made == {f"five-{t}": "made" for t in TOPICS}
    again = json.loads(call("init", "--topics", "--json"))["topics"]
    assert again["five-events"] == "exists with 2 partitions, left as it is"
    assert again["five-control"] == "exists with 1 partitions, left as it is"
    assert "nothing is wrong" in call("check")

    output = call("meta-train", str(past), "--max-seconds", "4", "--json")
    trained = json.loads(output[output.index("{\n") :])
    assert trained["champion"] and trained["mlflow"]["version"] == "1", trained
    assert trained["champion_loss"] < 0.35

    daemon = started(tmp_path / "daemon.log", "run", "--json")
    producer = None
    try:
        daemon.wait_for(lambda: '"ready"' in daemon.output(), what="ready", within_s=240)
        producer = started(tmp_path / "produce.log", "produce", str(stream), "--rate", "60")
        seen: dict[str, Any] = {}

        def promoted() -> bool:
            seen.update(json.loads(call("status", "--json", "--decisions", "200")))
            return any(d["kind"] == "promotion" for d in seen["decisions"])

        daemon.wait_for(promoted, what="a promotion", within_s=240)
        command_it(daemon, tmp_path)
        assert daemon.terminate(within_s=60) == 0
    finally:
        for process in (producer, daemon):
            if process is not None:
                process.kill()
    route = seen["routes"]["*"]
    assert route["champion"].startswith("2-") and route["earlier"][0].startswith("1-")
    assert seen["counts"].get("dead_letters", 0) == 0
    promotion = next(d for d in seen["decisions"] if d["kind"] == "promotion")
    assert promotion["position"] > 250, "nothing was to be promoted before the rule changed"
    assert {v["recipe"] for v in seen["versions"]} >= {"joint"}
    assert any(
        d["kind"] == "signal" and d["facts"]["signal"]["kind"] == "error" for d in seen["decisions"]
    )
    call("pause", "--wait", "0.5", code=8)
    after = json.loads(call("status", "--json"))
    assert after["owner"]["state"] == "stopped"
    assert after["routes"]["*"]["champion"] == route["champion"]


def command_it(daemon: LeashedProcess, folder: Path) -> None:
    """Every command reaches the daemon, and its answer comes back."""
    refused = call("reject", "--by", "ada", "--json", code=7)
    assert json.loads(refused)["outcome"] == "refused"
    assert "there is nothing to review" in json.loads(refused)["why"]
    paused = json.loads(call("pause", "--by", "ada", "-m", "lunch", "--json"))
    assert paused["why"] == "pause by ada: lunch"
    assert json.loads(call("status", "--json"))["routes"]["*"]["probation"]["paused"]
    call("resume")
    assert json.loads(call("signal", "force", "--json"))["outcome"] == "accepted"
    examples = write_shifts(folder / "examples.csv", [("night", 4, 20)], seed=3)
    call("signal", "new-task", "--task", "night", "--examples", str(examples), "--by", "ada")

    def adapted() -> bool:
        found = json.loads(call("status", "--json", "--decisions", "200"))["decisions"]
        announced = [d for d in found if d["facts"].get("episode_kind") == "announced"]
        number = announced[0]["facts"]["episode"] if announced else None
        bakes = [d for d in found if d["kind"] == "bake-off" and d["facts"]["episode"] == number]
        return any(sum(map(len, d["facts"]["labels"].values())) == 20 for d in bakes)

    daemon.wait_for(adapted, what="a bake-off over the 20 announced examples", within_s=180)


def configure(path: Path) -> None:
    """Choose settings in the configuration that `init` wrote."""
    settings = yaml.safe_load(path.read_text())
    settings["kafka"]["topics"] = {t: f"five-{t}" for t in TOPICS}
    settings["http"]["port"] = 0
    settings["gate"] |= {"target_from": 0.5, "target_to": 0.15}
    settings["rollout"] |= {"steps": [25, 50], "least_labels": 5, "probation_labels": 2000}
    path.write_text(yaml.safe_dump(settings))
