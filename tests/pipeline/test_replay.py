"""Replay: the whole loop over a file, and what its report says."""

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data_columns import Columns
from pipeline.replay import Replayed
from pipeline.replay_run import ReplayError, ReplayPlan, run_replay, set_aside
from pipeline.report.report_schema import report_json_schema
from pipeline.settings import Settings, parse_settings

TRAIN, SHIFT, ROWS = 400, 900, 2000


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two features; which of them decides the class changes at row 900."""
    path = tmp_path_factory.mktemp("files") / "shifted.csv"
    x = np.random.default_rng(5).normal(size=(ROWS, 2))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "world", "y"])
        for i, (a, b) in enumerate(x.tolist()):
            world = "old" if i < SHIFT else "new"
            label = "up" if (a if i < SHIFT else b) > 0 else "down"
            writer.writerow([f"{a:.4f}", f"{b:.4f}", world, label])
    return path


def settings(out: Path) -> Settings:
    return parse_settings(
        {
            "model": {"name": "shifted"},
            "state_dir": str(out),
            "trigger": {"warm_up_labels": 10, "cool_down_labels": 10},
            "gate": {"target_from": 0.5, "target_to": 0.05},
            "rollout": {"steps": [20, 50], "least_labels": 5, "risk_per_rollout": 0.1},
        }
    )


def plan(file: Path, out: Path, **changes: object) -> ReplayPlan:
    values: dict[str, object] = {
        "file": file,
        "columns": Columns(label="y", features=("a", "b"), boundaries="world"),
        "out": out,
        "train_until": TRAIN,
        "label_fraction": 0.5,
        "label_delay": 20,
        "meta_seconds": 0,
        "seed": 3,
    }
    return ReplayPlan(**{**values, **changes})  # type: ignore[arg-type]


def quiet(what: str, done: int, of: int) -> None:
    assert 0 <= done <= of, (what, done, of)


@pytest.fixture(scope="module")
def first(shifted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("first")
    run_replay(plan(shifted, out), settings(out), quiet)
    return out, json.loads((out / "report.json").read_text())


def test_a_change_is_found_adapted_to_and_promoted(first: tuple[Path, dict]) -> None:
    out, report = first
    (boundary,) = report["boundaries"]
    assert boundary["position"] == SHIFT - TRAIN
    assert boundary["outcome"] == "decided"
    assert boundary["alarm"] > boundary["position"]
    assert boundary["promoted"] > boundary["alarm"]
    last = boundary["last_quarter"]
    assert last["served"]["accuracy"] > last["frozen"]["accuracy"] + 0.2
    before = report["overall"]["whole"]["served"]["accuracy"]
    assert 0.5 < report["overall"]["whole"]["frozen"]["accuracy"] < before
    assert (out / "timeline.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_report_follows_its_schema_and_its_counts_add_up(first: tuple[Path, dict]) -> None:
    _, report = first
    jsonschema.validate(report, report_json_schema())
    counts = report["counts"]
    assert counts["events"] == ROWS - TRAIN
    assert counts["dead_letters"] == 0
    assert counts["promotions"] == sum(r["promoted"] is not None for r in report["rollouts"])
    winners = [r["name"] for e in report["episodes"] for r in e["recipes"] if r["winner"]]
    assert winners == [e["winner"] for e in report["episodes"] if e["recipes"]]


def test_the_same_seed_gives_the_same_report(
    shifted: Path, first: tuple[Path, dict], tmp_path: Path
) -> None:
    run_replay(plan(shifted, tmp_path), settings(tmp_path), quiet)
    again = json.loads((tmp_path / "report.json").read_text())
    assert again == first[1]


def test_the_last_replay_in_a_folder_is_replaced(shifted: Path, tmp_path: Path) -> None:
    short = plan(shifted, tmp_path, train_until=ROWS - 50)
    one = run_replay(short, settings(tmp_path), quiet)
    two = run_replay(short, settings(tmp_path), quiet)
    assert one.report.counts.events == two.report.counts.events == 50


def test_without_labels_nothing_is_promoted(shifted: Path, tmp_path: Path) -> None:
    found = run_replay(plan(shifted, tmp_path, label_fraction=0.0), settings(tmp_path), quiet)
    assert found.report.counts.labels == 0
    assert not found.report.rollouts


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_until": None}, "--train-until ROWS or --train-tasks"),
        ({"train_until": ROWS}, "0 to replay"),
        ({"train_until": None, "train_tasks": ("nowhere",)}, "--train-tasks"),
    ],
)
def test_a_plan_that_cannot_work_says_what_to_change(
    shifted: Path, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(ReplayError, match=says):
        run_replay(plan(shifted, tmp_path, **changes), settings(tmp_path), quiet)


def test_the_command_prints_the_report_or_says_what_is_wrong(shifted: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    short = ["--label", "y", "--features", "a,b", "--train-until", str(ROWS - 100)]
    done = runner.invoke(app, ["replay", str(shifted), *short, "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["counts"]["events"] == 100
    wrong = runner.invoke(app, ["replay", str(shifted), "--label", "nope", "--train-until", "9"])
    assert wrong.exit_code == 3
    assert "nope" in wrong.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--train-until", "100", "--boundaries", "900,100"], "positions must rise"),
        (["--train-until", "-9"], "--train-until"),
        (["--train-until", "100", "--features", ""], "features is empty"),
        (["--train-until", "100", "--seed", "-1"], "--seed"),
        (["--task", "world", "--train-tasks", "old, elsewhere"], "['elsewhere'] are no tasks"),
        (["--train-until", "100", "--id", "world"], "holds 2 different values in 2000 rows"),
    ],
)
def test_a_wrong_option_is_named(
    shifted: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    args = ["replay", str(shifted), "--label", "y", "--out", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(app, args, env={"COLUMNS": "200"})
    assert done.exit_code == 2, done.output
    assert says in done.stderr


@pytest.mark.parametrize("precious", ["state.sqlite", "shelf/model", "arrivals.json"])
def test_a_state_that_is_no_replays_is_never_removed(
    shifted: Path, tmp_path: Path, precious: str
) -> None:
    kept = tmp_path / precious
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"precious")
    with pytest.raises(ReplayError, match="something other than a replay"):
        run_replay(plan(shifted, tmp_path), settings(tmp_path), quiet)
    assert kept.read_bytes() == b"precious"


def test_an_open_rollout_is_reported_as_it_stands(shifted: Path, tmp_path: Path) -> None:
    """A last step that waits for more labels than there are is open when the file ends."""
    patient = settings(tmp_path).model_copy(
        update={
            "rollout": settings(tmp_path).rollout.model_copy(
                update={"steps": (50,), "least_labels": 2000, "longest_wait_labels": None}
            )
        }
    )
    report = run_replay(plan(shifted, tmp_path), patient, quiet).report
    (rollout,) = report.rollouts
    assert (rollout.ended, rollout.phase) == (None, "canary")
    assert rollout.wrong_served == report.counts.other["wrong_by_candidates"] > 0
    assert rollout.labels is not None and rollout.labels > 100
    assert rollout.reason.startswith("still open at the end")


def test_the_report_says_what_its_numbers_rest_on(first: tuple[Path, dict]) -> None:
    assert first[1]["notes"] == [
        "no task column (or no budget): the few-step recipes have no meta-init"
    ]
    seen = Replayed(dead_letters=["features", "wrong-type", "features"])
    assert set_aside(seen) == ["3 records were set aside: features 2, wrong-type 1"]
    assert set_aside(Replayed()) == []
