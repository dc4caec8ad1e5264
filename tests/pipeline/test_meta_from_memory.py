"""Confirmed tasks in meta-training: who trains, who judges, and what the daemon gets."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from adapters.examples import Examples
from adapters.feature_schema import Rows
from adapters.loss_evidence import Reference
from adapters.meta_init import MetaInit
from adapters.task_memory import ConfirmedTask, KeptExamples, Signature, TaskMemory
from adapters.task_splits import LeakError
from pipeline import arrivals
from pipeline.cli import app
from pipeline.file_examples import FileExamples
from pipeline.meta_from_memory import FromMemory, plan
from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import QUICK, quick_settings
from tests.pipeline.made_state import digest
from tests.pipeline.small_worlds import lane_start

FILE_TASKS = ("a", "b", "c", "d")


def rows_of(first_key: int, n: int = 30) -> Examples:
    numbers = np.random.default_rng(first_key).normal(size=(n, 4))
    keys = np.arange(first_key, first_key + n, dtype=np.uint64)
    return Examples(Rows(numbers), ("up",) * n, keys=keys)


def in_file() -> FileExamples:
    parts = [rows_of(100 * i) for i in range(len(FILE_TASKS))]
    return FileExamples(
        Examples(
            Rows.concat([p.rows for p in parts]),
            ("up",) * 120,
            keys=np.concatenate([p.keys for p in parts]),
        ),
        tuple(name for name in FILE_TASKS for _ in range(30)),
        np.zeros(120, np.int64),
        {},
        0,
    )


def old_one() -> MetaInit:
    """Return one that was trained on a and c, whose steps were chosen on b, and that knows m1."""
    return replace(
        lane_start(),
        trained_on=np.concatenate([rows_of(0).keys, rows_of(200).keys, rows_of(1000).keys]),
        info={"validation": {"tasks": ["b", "gone"]}},
    )


REMEMBERED = tuple((f"memory:m{i}", rows_of(1000 * i)) for i in range(1, 5))


def test_judges_are_what_the_old_one_was_not_trained_on() -> None:
    found = plan(in_file(), FromMemory(REMEMBERED, old_one()), seed=0)
    judges = [name for name, _ in found.judges]
    assert judges[0] == "b", "it chose the old one's steps"
    assert len(judges) == 3
    assert "memory:m1" not in judges
    assert set(found.trained) == {name for name, _ in REMEMBERED} - set(judges)
    assert set(found.found.tasks) == {"a", "c", "d", *found.trained}
    assert len(found.found.tasks) == len(found.found.examples)
    judging = np.concatenate([examples.keys for _, examples in found.judges])
    assert not np.isin(judging, found.found.examples.keys).any()
    owner = dict(zip(found.found.examples.keys.tolist(), found.found.tasks, strict=True))
    assert owner[205] == "c"
    again = plan(in_file(), FromMemory(REMEMBERED, old_one()), seed=0)
    assert [n for n, _ in again.judges] == judges


def test_without_one_in_force_every_task_trains() -> None:
    found = plan(in_file(), FromMemory(REMEMBERED, None), seed=0)
    assert found.judges == ()
    assert set(found.found.tasks) == {*FILE_TASKS, *(name for name, _ in REMEMBERED)}


def test_a_task_or_a_row_on_two_sides_is_refused() -> None:
    with pytest.raises(LeakError, match=r"tasks \['a'\] are in the file and in the memory"):
        plan(in_file(), FromMemory((("a", rows_of(5000)),), None), 0)
    with pytest.raises(LeakError, match=r"1 row keys .* of memory:m9 are in the file"):
        plan(in_file(), FromMemory((("memory:m9", rows_of(329)),), None), 0)
    narrow = Examples(Rows(np.zeros((1, 3))), ("up",), keys=np.array([9999], np.uint64))
    with pytest.raises(ValueError, match="other features or labels"):
        plan(in_file(), FromMemory((("memory:m9", narrow),), None), 0)


def config_file(folder: Path) -> Path:
    path = folder / "metadrift.yaml"
    content = {"model": {"name": "small"}, "state_dir": str(folder), **QUICK}
    path.write_text(json.dumps(content))
    return path


def past(path: Path, taught: int = 12) -> Path:
    """Write 12 tasks by one number each; from ``taught`` on lanes are drawn."""
    rng, lines = np.random.default_rng(4), ["id,task,lane,x0,x1,x2,x3"]
    for t in range(12):
        for i, x in enumerate(rng.choice([-1.0, 1.0], (40, 4)) + rng.normal(0, 0.3, (40, 4))):
            up = x[t % 4] > 0 if t < taught else rng.random() < 0.5
            numbers = ",".join(f"{v:.4f}" for v in x)
            lines.append(f"p{t}-{i},t{t},{'up' if up else 'down'},{numbers}")
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*args: str | Path, code: int = 0) -> str:
    found = CliRunner().invoke(app, [str(a) for a in args])
    assert found.exit_code == code, found.output
    return found.stderr if code else found.stdout


def remember(folder: Path, in_force: MetaInit, tasks: int) -> str:
    """Leave a state with confirmed tasks, by its own commit; return the meta-init's digest."""
    chosen = {"validation": {"tasks": ["t0", "t1", "t2", "t3", "t4"]}}
    with Loop(quick_settings(folder), meta_init=replace(in_force, info=chosen)) as loop:
        memory = TaskMemory()
        for i in range(1, tasks + 1):
            examples = rows_of(1000 * i, 40)
            lanes = ("up", "down") * 20
            kept = KeptExamples.of(replace(examples, labels=lanes))
            signature = Signature(Reference(40, 0.1), None)
            task = ConfirmedTask(f"m{i}", digest("c"), signature, kept, i)
            memory = memory.promoted(task, most=9)
        loop.fold.state.memories["*"] = memory.settled()
        loop.tick(1)
        return loop.fold.state.core.meta_init


def train(folder: Path, file: Path, *, code: int = 0) -> str:
    return run(
        *("meta-train", file, "--label", "lane", "--task", "task", "--id", "id"),
        *("--from-memory", "--support", "8", "--query", "12", "--algorithms", "reptile"),
        *("--max-seconds", "2", "--processes", "1", "--json", "-c", config_file(folder)),
        code=code,
    )


def test_a_winner_is_left_for_the_daemon(tmp_path: Path) -> None:
    """The start in force cannot learn: its steps have no length."""
    init = lane_start()
    weak = init.starts["reptile"]
    still = replace(weak, step_sizes={n: 0 * size for n, size in weak.step_sizes.items()})
    before = remember(tmp_path, replace(init, starts={"reptile": still}), 4)
    document = json.loads(train(tmp_path, past(tmp_path / "past.csv")))
    found = document["contest"]
    assert found["replaces"], found
    assert {"t0", "t4"} < set(found["tasks"])
    assert len(document["memory"]) == 2
    assert {*document["memory"], *found["tasks"]} >= {f"memory:m{i}" for i in range(1, 5)}
    assert document["mlflow"]["version"]
    waiting = arrivals.read(tmp_path)
    assert waiting.meta_init == document["meta_init"] != before
    with Loop(quick_settings(tmp_path)) as loop:
        loop.step(waiting)
        assert loop.fold.state.core.meta_init == document["meta_init"]
    few = train(tmp_path, tmp_path / "past.csv", code=3)
    assert "5 are needed to tell which is better" in few


def test_a_loser_is_recorded_and_not_left(tmp_path: Path) -> None:
    """What trains here has drawn lanes; the tasks that judge have true ones."""
    before = remember(tmp_path, lane_start(), 4)
    document = json.loads(train(tmp_path, past(tmp_path / "past.csv", taught=5)))
    assert not document["contest"]["replaces"]
    assert document["mlflow"]["run"]
    assert not document["mlflow"]["version"]
    assert arrivals.read(tmp_path).meta_init == ""
    with Loop(quick_settings(tmp_path)) as loop:
        assert loop.fold.state.core.meta_init == before


def test_without_state_or_memory_it_says_what_is_missing(tmp_path: Path) -> None:
    file = past(tmp_path / "past.csv")
    assert "run the daemon first" in train(tmp_path, file, code=2)
    remember(tmp_path, lane_start(), 0)
    assert "no confirmed task with examples" in train(tmp_path, file, code=3)
    ways = ("--label", "lane", "--ways", "2", "--from-memory", "-c", config_file(tmp_path))
    assert "needs tasks by name" in run("meta-train", file, *ways, code=2)
