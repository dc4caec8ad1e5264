"""Tasks by detected segments: the cuts are where the truth changed, and no task is in two sets."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from adapters.meta_settings import MetaTrainData
from adapters.task_frames import data_of_frame, schema_of_frame
from adapters.task_splits import TaskSplit
from deploy.registry_records import TrainingRecord
from detectors.detector_errors import DetectorError
from pipeline import training_registration
from pipeline.cli import app
from pipeline.data_file import Columns, DataFileError, open_data_file
from pipeline.detected_segments import DetectionSettings, detected_starts, tasks_by_detection
from pipeline.task_examples import task_examples
from tests.pipeline.made_state import write_config

LENGTHS = (400, 300, 500, 350, 450)
CHANGES = np.cumsum(LENGTHS)[:-1].tolist()
NEAR = 60
"""Rows that an estimate may be away from the truth."""
FEATURES = ["a", "b", "c", "d"]


def frame(lengths: tuple[int, ...] = LENGTHS, seed: int = 100, noise: float = 0.0) -> pd.DataFrame:
    """Return rows of several regimes, each with a feature and a sign that decide."""
    draw = np.random.default_rng(seed)
    regime = np.repeat(np.arange(len(lengths)), lengths)
    x = draw.normal(size=(len(regime), 4))
    telling = x[np.arange(len(regime)), regime % 4] * np.where(regime % 2, -1, 1)
    wrong = draw.random(len(regime)) < noise
    made = pd.DataFrame(x.round(4), columns=FEATURES)
    made["truth"] = np.where((telling > 0) ^ wrong, "yes", "no")
    return made


def starts_of(table: pd.DataFrame, detector: str | None = None) -> list[int]:
    found = tasks_by_detection(
        table,
        schema_of_frame(table, FEATURES),
        label="truth",
        settings=DetectionSettings(detector=detector),
    )
    return [int(rows[0]) for rows in found.rows.values()][1:]


def test_known_changes_are_found_and_a_still_stretch_is_not_cut() -> None:
    found, all_true = 0, 0
    for seed in (100, 101, 102):
        starts = starts_of(frame(seed=seed))
        all_true += len(CHANGES)
        found += sum(any(abs(at - true) <= NEAR for at in starts) for true in CHANGES)
        assert all(any(abs(at - true) <= NEAR for true in CHANGES) for at in starts), starts
    assert found == all_true
    assert starts_of(frame((2000,))) == []
    assert starts_of(frame((2000,), noise=0.1)) == []


def test_a_cut_depends_on_no_row_after_its_alarm() -> None:
    whole = frame()
    cut = starts_of(whole)
    later = whole.copy()
    flipped = later.index >= CHANGES[1] + 150
    later.loc[flipped, "truth"] = "no"
    assert starts_of(later)[:2] == cut[:2]


def test_segments_are_tasks_and_none_is_in_two_sets() -> None:
    table = frame()
    schema = schema_of_frame(table, FEATURES)
    tasks = tasks_by_detection(table, schema, label="truth", least=200)
    assert tasks.names == tuple(f"segment-{i}" for i in range(5))
    data = data_of_frame(table, tasks, schema, label="truth")
    assert isinstance(data, MetaTrainData)
    split = TaskSplit.with_test(data, ["segment-3", "segment-4"], ["segment-2"])
    sets = [split.train, split.validation, split.test]
    rows = [row for part in sets for name in part for row in split.rows_of(name).tolist()]
    assert sorted(rows) == list(range(len(table)))


def test_regression_and_another_detector() -> None:
    table = frame((400, 400))
    schema = schema_of_frame(table, FEATURES)
    table["truth"] = np.where(np.arange(800) < 400, table["a"], 5 - table["a"])
    (at,) = [
        int(rows[0])
        for rows in tasks_by_detection(table, schema, label="truth", regression=True).rows.values()
    ][1:]
    assert abs(at - 400) <= NEAR
    assert any(abs(at - CHANGES[0]) <= NEAR for at in starts_of(frame(), "ShiryaevRoberts"))
    with pytest.raises(DetectorError, match="Nothing"):
        starts_of(frame(), "Nothing")
    with pytest.raises(ValueError, match="learn is 3"):
        DetectionSettings(learn=3)


def write(path: Path, lengths: tuple[int, ...] = LENGTHS) -> Path:
    table, regime = frame(lengths), np.repeat(np.arange(len(lengths)), lengths)
    times = pd.date_range("2026-01-01", periods=len(table), freq="min", tz="UTC")
    table.assign(plan=regime, at=times.strftime("%Y-%m-%dT%H:%M:%SZ")).to_csv(path, index=False)
    return path


def test_a_file_is_cut_by_column_by_position_and_by_detection(tmp_path: Path) -> None:
    path = write(tmp_path / "past.csv")
    by_column = open_data_file(path, Columns("truth", time="at", boundaries="plan"))
    read = task_examples(by_column, "boundaries")
    assert [read.found.tasks.count(f"segment-{i}") for i in range(5)] == list(LENGTHS)
    assert [f.name for f in by_column.schema.features] == FEATURES
    positions = Columns("truth", time="at", features=tuple(FEATURES), boundaries=(700,))
    at = task_examples(open_data_file(path, positions), "boundaries").found.tasks
    assert (at[699], at[700]) == ("segment-0", "segment-1")
    plain = open_data_file(path, Columns("truth", time="at", features=tuple(FEATURES)))
    found = task_examples(plain, "detection")
    cuts = [i for i in range(1, len(at)) if found.found.tasks[i] != found.found.tasks[i - 1]]
    assert tuple(cuts) == detected_starts(plain.schema, found.found.examples)
    assert len(cuts) == len(CHANGES)
    assert found.by == "detected changes"


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "past.csv")
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *reversed(rows)])
    mixed = open_data_file(path, Columns("truth", time="at", boundaries="plan"))
    with pytest.raises(DataFileError, match=r"earlier than the row before.*sort the file"):
        task_examples(mixed, "boundaries")


def test_the_commands_train_and_judge_on_detected_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[TrainingRecord] = []

    def register(*, training: TrainingRecord, **_: object) -> tuple[str, str]:
        told.append(training)
        return "run-1", "1"

    monkeypatch.setattr(training_registration, "register_training", register)
    monkeypatch.setattr(training_registration, "record_run", lambda **_: "run-2")
    path, out = write(tmp_path / "past.csv", (180,) * 4), tmp_path / "out"
    config = write_config(tmp_path)
    columns = ("--label", "truth", "--time", "at", "--features", ",".join(FEATURES))
    quick = ("--algorithms", "maml", "--processes", "1")

    def run(*args: object, code: int = 0) -> str:
        found = CliRunner().invoke(app, [str(arg) for arg in args])
        assert found.exit_code == code, found.output
        return found.stderr if code else found.stdout

    evaluated = run(
        *("meta-evaluate", path, *columns, "--boundaries", "detect", "--test-tasks", "segment-3"),
        *("--episodes", "2", "--query", "12", "--shots", "2", "--meta-seconds", "1", *quick),
        *("--out", out, "--json"),
    )
    document = json.loads(evaluated)
    assert document["data"]["task"] == "detected changes"
    training = document["training"]
    trained = [*training["train_tasks"], *training["validation_tasks"]]
    assert sorted(trained) == [f"segment-{i}" for i in range(3)]
    assert document["evaluation"]["test_tasks"] == ["segment-3"]
    budget = ("--max-seconds", "1", "--no-champion", "--support", "4", "--query", "8")
    trained_on = run(
        *("meta-train", path, *columns, "--boundaries", "detect", *budget, *quick, "--json"),
        *("-c", config),
    )
    assert json.loads(trained_on)["examples"] == 4 * 180
    assert told[0].params["tasks"] == "detected changes"
    for command in ("meta-train", "meta-evaluate"):
        both = (command, path, *columns, "--boundaries", "detect", "--task", "plan", "-c", config)
        assert "--boundaries and --task: give one" in run(*both, code=2)
    ways = ("meta-train", path, *columns, "--boundaries", "900", "--ways", "2", "-c", config)
    assert "--boundaries: leave out --ways" in run(*ways, code=2)
