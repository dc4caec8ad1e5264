"""`metadrift init --data`: from a file to a configuration that loads and a features file."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.feature_schema import Feature
from pipeline.cli import app
from pipeline.feature_file import load_beside
from pipeline.settings import Settings, load_settings

TABLE = """when,who,age,plan,scan.0,scan.1,answer,shop
2026-01-01T00:00:00Z,a,30,gold,0.1,0.2,yes,x
2026-01-02T00:00:00Z,b,,silver,0.3,0.4,no,x
2026-01-03T00:00:00Z,c,50,gold,0.5,0.6,yes,y
"""


def init(folder: Path, *more: str, code: int = 0) -> str:
    (folder / "Our shops.csv").write_text(TABLE)
    found = CliRunner().invoke(
        app,
        ["init", "--data", str(folder / "Our shops.csv"), "-c", str(folder / "m.yaml"), *more],
    )
    assert found.exit_code == code, found.output
    return found.output if code else found.stdout


def test_a_file_becomes_a_configuration_and_a_features_file(tmp_path: Path) -> None:
    said = init(
        *(tmp_path, "--label", "answer", "--task", "shop", "--time", "when", "--id", "who"),
        *("--bootstrap-servers", "kafka:9092", "--json"),
    )
    told = json.loads(said)
    assert told["features"] == {
        "age": "number, may be missing",
        "plan": "category",
        "scan": "tensor(2)",
    }
    assert (told["classes"], told["tasks"], told["rows"]) == ({"no": 1, "yes": 2}, 2, 3)
    assert told["next"][2] == f"metadrift meta-train {tmp_path}/Our shops.csv -c {tmp_path}/m.yaml"
    settings = load_settings(tmp_path / "m.yaml")
    expected = {"name": "Our-shops", "task_type": "classification", "route_by": None}
    assert settings.model.model_dump() == expected
    assert settings.kafka.bootstrap_servers == "kafka:9092"
    assert settings.gate == Settings.model_fields["gate"].default
    assert "# Percent of answers served by the candidate" in (tmp_path / "m.yaml").read_text()
    known = load_beside(tmp_path / "m.yaml")
    assert known is not None
    assert known.schema.features == (
        Feature("age", "number", (), nullable=True),
        Feature("plan", "category"),
        Feature("scan", "tensor", (2,)),
    )
    columns = known.columns
    assert (columns.label, columns.task, columns.time, columns.id) == (
        *("answer", "shop", "when", "who"),
    )
    assert known.class_names == ("no", "yes")


def test_what_a_person_should_look_at_is_printed(tmp_path: Path) -> None:
    said = init(tmp_path, "--label", "answer", "--task", "shop", "--id", "who")
    assert "look at" in said
    assert "when: '2026-01-01T00:00:00Z' looks like a time: name the column with --time" in said
    said = init(tmp_path, *("--label", "answer", "--id", "who", "--time", "when", "--force"))
    assert "look at" not in said


def test_a_regression_configuration_loads(tmp_path: Path) -> None:
    init(tmp_path, "--label", "age", "--task-type", "regression", "--features", "scan,plan")
    settings = load_settings(tmp_path / "m.yaml")
    assert settings.model.task_type == "regression"
    assert not settings.detect.confidence
    known = load_beside(tmp_path / "m.yaml")
    assert known is not None and known.class_names == ()


def test_what_exists_is_kept_unless_forced(tmp_path: Path) -> None:
    init(tmp_path, "--label", "answer")
    (tmp_path / "m.yaml").write_text("mine")
    assert "m.yaml" in init(tmp_path, "--label", "answer", code=7)
    assert (tmp_path / "m.yaml").read_text() == "mine"
    init(tmp_path, "--label", "answer", "--force")
    load_settings(tmp_path / "m.yaml")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["init"], 2, "give --data FILE --label COLUMN, or --topics -c CONFIG"),
        (["init", "--data", "t.csv"], 2, "--label: missing"),
        (["init", "--data", "none.csv", "--label", "a"], 3, "none.csv: no such file"),
        (["init", "--data", "t.csv", "--label", "b"], 3, "choose from: a"),
        (["init", "--data", "t.csv", "--label", "a", "--name", "a b"], 2, "pattern '^[A-Za-z0-9]"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,x\nyes,1\nno,2\n")
    found = CliRunner().invoke(app, args)
    assert found.exit_code == code
    assert says in found.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv"]


def test_a_features_file_that_was_spoilt_is_named(tmp_path: Path) -> None:
    init(tmp_path, "--label", "answer")
    path = tmp_path / "m.features.json"
    path.write_text(path.read_text().replace('"tensor"', '"tenser"'))
    found = CliRunner().invoke(
        app, ["meta-train", str(tmp_path / "Our shops.csv"), "-c", str(tmp_path / "m.yaml")]
    )
    assert found.exit_code == 2
    assert "tenser" in found.stderr and "metadrift init --data FILE --force" in found.stderr
