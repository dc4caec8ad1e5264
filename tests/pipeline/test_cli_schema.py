"""`metadrift schema`, and that the published schemas are those of the code."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.json_schemas import json_schemas
from pipeline.messages import Control, Decision, Event

PUBLISHED = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.mark.parametrize("name", json_schemas())
def test_the_published_schemas_are_current(name: str) -> None:
    published = json.loads((PUBLISHED / f"{name}.json").read_text())
    assert published == json_schemas()[name], "write them: metadrift schema --out docs/schemas"


def test_nothing_else_is_published() -> None:
    assert {p.stem for p in PUBLISHED.iterdir()} == set(json_schemas())


@pytest.mark.parametrize("name", json_schemas())
def test_they_are_json_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schemas()[name])


def test_messages_of_the_code_fit_and_others_do_not() -> None:
    def valid(name: str, message: object) -> bool:
        return jsonschema.Draft202012Validator(json_schemas()[name]).is_valid(message)

    event = Event(id="a", ts=1, features={"x": 1.5, "scan": [1, 2.0], "c": None}, label=True)
    assert valid("events", msgspec.to_builtins(event))
    assert not valid("events", {"id": "a"})
    assert not valid("events", {"id": "a", "features": {"x": {"deep": 1}}})
    assert valid("control", msgspec.to_builtins(Control(verb="pause", id="1")))
    assert not valid("control", {"verb": "explode", "id": "1"})
    told = Decision(
        *(),
        key="m-1",
        kind="gate",
        model="m",
        route="*",
        position=1,
        labels=1,
        at_ms=1,
        reason="r",
        facts={"any": [1, {"thing": None}]},
    )
    assert valid("decisions", msgspec.to_builtins(told))


def test_the_command_prints_one_or_writes_all(tmp_path: Path) -> None:
    run = CliRunner().invoke
    one = run(app, ["schema", "events"])
    assert json.loads(one.stdout) == json_schemas()["events"]
    assert json.loads(run(app, ["schema"]).stdout) == json_schemas()
    written = run(app, ["schema", "--out", str(tmp_path / "s"), "--json"])
    assert len(json.loads(written.stdout)["written"]) == len(json_schemas())
    assert json.loads((tmp_path / "s" / "report.json").read_text()) == json_schemas()["report"]
    wrong = run(app, ["schema", "dead-letters"])
    assert wrong.exit_code == 2 and "choose one of events, labels" in wrong.stderr
