"""`metadrift meta-evaluate`: one command from a file to an answer in words."""

import csv
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from typer.testing import CliRunner

from pipeline import meta_evaluation_run
from pipeline.cli import app
from pipeline.data_file import Columns, DataFile, DataFileError, open_data_file
from pipeline.inference import infer
from pipeline.json_schemas import json_schemas
from pipeline.report.evaluation_document import EvaluationDocument, ToldMLflow
from tests.pipeline.gate_files import write_gates
from tests.pipeline.made_state import write_config

QUICK = (
    *("--episodes", "2", "--query", "12", "--meta-seconds", "1", "--processes", "1"),
    *("--algorithms", "maml"),
)
PNG = b"\x89PNG\r\n\x1a\n"


def run(*args: str | Path, code: int = 0) -> str:
    found = CliRunner().invoke(app, ["meta-evaluate", *[str(a) for a in args]])
    assert found.exit_code == code, found.output
    return found.stderr if code else found.stdout


def test_it_answers_writes_and_records(tmp_path: Path) -> None:
    past = without_two_cells(write_gates(tmp_path / "gates.csv", halls=12, rows=30, turned=True))
    out = tmp_path / "out"
    told = run(
        *(past, "--label", "gate", "--task", "hall", "--time", "at", "--shots", "2"),
        *("--test-tasks", "h10,h11", *QUICK, "--out", out),
    )
    written = (out / "meta-evaluation.json").read_bytes()
    found = msgspec.json.decode(written, type=EvaluationDocument)
    jsonschema.Draft202012Validator(json_schemas()["meta-evaluation"]).validate(json.loads(written))
    assert (out / "meta-evaluation.png").read_bytes().startswith(PNG)
    flat = " ".join(told.split())
    for said in ("2 labels per class, 2 episodes, 2 unseen tasks", "worth it?", "by 'at'"):
        assert said in flat
    for score in found.evaluation.scores:
        assert score.recipe in told
    assert "left out 1: no label" in told and "left out 1: no task" in told
    assert found.data.left_out == {"no label": 1, "no task": 1}
    assert found.order == "time" and found.data.time == "at" and found.data.rows == 358
    assert found.evaluation.test_tasks == ("h10", "h11")
    trained = {*found.training.train_tasks, *found.training.validation_tasks}
    assert trained == {f"h{i}" for i in range(10)}
    for cost in (*found.training.costs, *found.evaluation.training_costs):
        assert cost.seconds > 0 and cost.peak_bytes is not None, cost
    (maml,) = found.training.costs
    assert maml.peak_bytes is not None and maml.peak_bytes > 16 * 64 * 64 * 4  # 16 tasks' weights
    assert "training s" in told
    assert found.mlflow.run and found.mlflow.away is None
    assert recorded(out, found.mlflow.run)["verdict"] == found.evaluation.verdict


def recorded(out: Path, run_id: str) -> dict[str, str]:
    """Return a run's parameters from the store; it must hold every score."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{out}/mlflow.db")
    run = client.get_run(run_id)
    assert {"2-shot.maml.score", "2-shot.joint_frozen.score", "seconds"} <= set(run.data.metrics)
    assert {"2-shot.maml.over.scratch.low", "training.maml.seconds"} <= set(run.data.metrics)
    for name in ("meta-evaluation.json", "meta-evaluation.png", "meta-evaluation.txt"):
        kept = Path(client.download_artifacts(run_id, name, str(out.parent))).read_bytes()
        if name.endswith("json"):
            whole = msgspec.json.decode(kept, type=EvaluationDocument)
            ours = msgspec.json.decode((out / name).read_bytes(), type=EvaluationDocument)
            assert whole == msgspec.structs.replace(ours, mlflow=ToldMLflow())
        else:
            assert kept == (out / name).read_bytes()
    return dict(run.data.params)


def test_json_and_mlflow_away(tmp_path: Path) -> None:
    past = write_gates(tmp_path / "gates.csv", halls=8, rows=30, turned=False)
    config = write_config(tmp_path, "registry: {tracking_uri: 'http://127.0.0.1:1'}\n")
    found = CliRunner().invoke(
        app,
        [
            *("meta-evaluate", str(past), "--label", "gate", "--task", "hall", "--features", "x"),
            *("--test-fraction", "0.25", "--shots", "1", *QUICK, "--episodes", "1", "--json"),
            *("-c", str(config), "--out", str(tmp_path / "out")),
        ],
    )
    assert found.exit_code == 9, found.output
    assert "run this again with the same seed" in " ".join(found.stderr.split())
    told = msgspec.json.decode(found.stdout.encode(), type=EvaluationDocument)
    assert "127.0.0.1" in (told.mlflow.away or "")
    assert len(told.evaluation.test_tasks) == 2 and told.order == "random"


def test_help_says_that_later_tasks_train_too_and_what_time_orders() -> None:
    told = " ".join(run("--help").replace("\u2502", " ").split())
    assert "do not judge train, later ones too" in told
    assert "within each class of a task" in told


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "--label: missing; name the column"),
        (["--label", "gate"], 2, "--task: missing; name the column"),
        (["--label", "gate", "--task", "room"], 3, "has no column 'room' (--task)"),
        (
            ["--label", "gate", "--task", "hall", "--test-tasks", "h1,h9"],
            3,
            "column 'hall': 'h9': is no task with labelled rows (--test-tasks); choose from: h0",
        ),
        (
            ["--label", "gate", "--task", "hall", "--test-tasks", "h1", "--test-fraction", "0.5"],
            2,
            "give one of them",
        ),
        (["--label", "gate", "--task", "hall", "--test-fraction", "1"], 2, "--test-fraction: 1.0"),
        (["--label", "gate", "--task", "hall", "--shots", "one"], 2, "--shots: 'one'; write whole"),
        (["--label", "gate", "--task", "hall", "--algorithms", "magic"], 2, "algorithms is"),
        (["--label", "gate", "--task", "hall"], 3, "bring more tasks"),
    ],
)
def test_what_it_cannot_use_is_named(tmp_path: Path, args: list[str], code: int, says: str) -> None:
    past = write_gates(tmp_path / "gates.csv", halls=3, rows=20, turned=False)
    told = " ".join(run(past, *args, "--out", tmp_path / "out", code=code).split())
    assert says in told


def without_two_cells(past: Path) -> Path:
    """Take the task of one row and the label of another away."""
    with past.open(newline="") as file:
        lines = list(csv.reader(file))
    lines[3][0] = ""
    lines[4][-1] = ""
    with past.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return past


def test_groups_on_two_sides_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_evaluation_run, "meta_train", refusing)
    past = write_gates(tmp_path / "gates.csv", halls=8, rows=30, turned=False)
    with past.open(newline="") as file:
        lines = [
            [*line, f"g{i % 200}" if i else "group"] for i, line in enumerate(csv.reader(file))
        ]
    with past.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    usual = ("--label", "gate", "--task", "hall", "--features", "x", "--shots", "1", *QUICK)
    grouped = (*usual, "--group", "group", "--test-tasks", "h0", "--out", tmp_path / "out")
    assert "put tasks that share rows or groups into one set" in " ".join(
        run(past, *grouped, code=3).split()
    )


def test_several_columns_name_the_task_together(tmp_path: Path) -> None:
    past = write_gates(tmp_path / "gates.csv", halls=4, rows=30, turned=False)
    with past.open(newline="") as file:
        lines = [
            [*line, ("wet", "dry")[i % 2] if i else "season"]
            for i, line in enumerate(csv.reader(file))
        ]
    with past.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    usual = (past, "--label", "gate", "--out", tmp_path / "out")
    told = run(*usual, "--task", "hall,season", "--test-tasks", "h9/dry", code=3)
    assert "choose from: h0/dry, h0/wet, h1/dry" in " ".join(told.split())
    told = run(*usual, "--task", "hall,hall", code=2)
    assert "task is 'hall,hall': name each column once" in " ".join(told.split())
    told = run(*usual, "--task", "hall,room", code=3)
    assert "has no column 'room' (--task)" in " ".join(told.split())
    found = open_data_file(past, Columns("gate", task="hall, season"))
    assert [row.task for row in found.rows()][:3] == ["h0/dry", "h0/wet", "h0/dry"]
    assert [feature.name for feature in found.schema.features] == ["at", "x"]
    counts = infer(past, Columns("gate", task="hall,season")).tasks
    assert counts == {f"h{hall}/{season}": 15 for hall in range(4) for season in ("dry", "wet")}
    slashed = tmp_path / "slashed.csv"
    slashed.write_text(past.read_text().replace("h3,", "h/3,"))
    with pytest.raises(DataFileError, match=r"row 90 \(from 0\): 'h/3' has a slash"):
        infer(slashed, Columns("gate", task="hall,season"))
    with pytest.raises(DataFileError, match="'h/3' has a slash"):
        schema = found.schema
        columns = Columns("gate", task="hall,season")
        list(DataFile(slashed, columns, task_type="classification", schema=schema).rows())


def refusing(*_: object) -> None:
    raise AssertionError("it trained")
