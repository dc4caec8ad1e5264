import multiprocessing
import tracemalloc
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.bake_off import BakeOff, run_bake_off
from adapters.examples import Examples
from adapters.feature_schema import Feature, FeatureSchema, Rows
from adapters.meta_init import ALGORITHMS, pack_meta_init, unpack_meta_init
from adapters.meta_jobs import Share, as_arrays
from adapters.meta_loops import Surroundings, train
from adapters.meta_plan import learner_of, plan_of
from adapters.meta_settings import MetaTrainData, MetaTrainingError, MetaTrainSettings, Progress
from adapters.meta_training import meta_train
from adapters.meta_workers import run_shares
from adapters.model_file import Architecture
from adapters.modules import MLP
from adapters.recipes import MLP_PATH
from adapters.tasks import TaskData, TaskSampler, TaskSet
from tests.adapters.lanes import (
    KINDS,
    LANES,
    QUICK,
    SCHEMA,
    line,
    line_init,
    parcels,
    plan_data,
    plan_init,
    plans,
    together,
)

BRIEF = replace(QUICK, maml_steps=6, reptile_steps=6, validation_episodes=2)
EMPTY = Examples(Rows(np.empty((0, KINDS))))


def table(init_table: object) -> dict[str, object]:
    assert isinstance(init_table, dict)
    return init_table


def test_processes_change_nothing_and_progress_arrives() -> None:
    seen: list[Progress] = []
    spawned = meta_train(plan_data(), replace(QUICK, processes=2), seen.append)
    assert pack_meta_init(spawned) == pack_meta_init(plan_init())
    assert {p.job for p in seen} == {"maml", "reptile", "joint"}
    last = {p.job: p for p in seen}
    assert (last["maml"].step, last["maml"].steps) == (80, 80)
    assert last["reptile"].loss < 1
    assert multiprocessing.active_children() == []


def test_another_seed_gives_another_start() -> None:
    one, two = (meta_train(plan_data(8), replace(BRIEF, seed=seed)) for seed in (1, 2))
    assert pack_meta_init(one) != pack_meta_init(two)


def test_the_starts_beat_fine_tuning_the_joint_model_on_unseen_tasks() -> None:
    validation = plan_init().validation
    rival = table(table(validation["joint"])["fine_tuned_loss_by_support"])
    rivals = [value for value in rival.values() if isinstance(value, float)]
    losses: dict[str, float] = {}
    for name in ("maml", "reptile"):
        loss = table(validation[name])["loss"]
        assert isinstance(loss, float)
        assert loss < 0.1
        assert loss < sum(rivals) / len(rivals)
        losses[name] = loss
    assert plan_init().recommended == min(losses, key=lambda name: losses[name])


def test_the_joint_rival_gets_the_steps_that_maml_gets() -> None:
    joint = table(plan_init().validation["joint"])
    taken, planned = joint["meta_steps"], joint["meta_steps_planned"]
    assert isinstance(taken, int) and isinstance(planned, int)
    assert QUICK.maml_steps <= planned < QUICK.maml_steps + 3  # whole epochs of three steps
    assert 0 < taken <= planned and joint["stopped_early"] == (taken < planned)


def test_the_joint_rival_learns_from_few_rows_what_all_tasks_share() -> None:
    parts = [parcels(plans()[3], 24, t, 24 * t) for t in range(6)]
    names = tuple(f"site-{t}" for t in range(6) for _ in range(24))
    alike = MetaTrainData(SCHEMA, together(parts), names, LANES)
    settings = replace(BRIEF, maml_steps=150, algorithms=("reptile",), validation_episodes=8)
    losses = table(table(meta_train(alike, settings).validation["joint"])["frozen_loss_by_support"])
    for support, loss in losses.items():
        assert isinstance(loss, float) and loss < 0.1, support


def test_lineage_names_every_row_and_validation_tasks_train_nothing() -> None:
    init = plan_init()
    assert init.trained_on.tolist() == list(range(20 * 40))
    train, validation = (table(init.info[part])["tasks"] for part in ("train", "validation"))
    assert isinstance(train, list)
    assert isinstance(validation, list)
    assert len(train) == 17
    assert len(validation) == 3
    assert not set(train) & set(validation)


def test_small_tasks_are_left_out_by_name() -> None:
    data = plan_data(6)
    kept = np.flatnonzero(np.array(data.tasks) != "plan-2")
    few = np.concatenate([kept, np.flatnonzero(np.array(data.tasks) == "plan-2")[:10]])
    smaller = MetaTrainData(
        data.schema, data.examples.take(few), tuple(data.tasks[i] for i in few), data.class_names
    )
    init = meta_train(smaller, BRIEF)
    assert init.info["left_out"] == ["plan-2"]
    assert not set(range(80, 120)) & set(init.trained_on.tolist())


def test_too_few_tasks_are_refused() -> None:
    with pytest.raises(MetaTrainingError, match="only 2 of 2 tasks have 24 or more"):
        meta_train(plan_data(2), BRIEF)
    with pytest.raises(MetaTrainingError, match="only 0 of 6 tasks have 200"):
        meta_train(plan_data(6), replace(BRIEF, query=188))
    with pytest.raises(MetaTrainingError, match="name a task column"):
        meta_train(replace(plan_data(6), tasks=()), BRIEF)


def test_regression_works_end_to_end() -> None:
    init = line_init()
    assert init.target_mean == pytest.approx(100, abs=5)
    support, query, holdout = (
        line(2.2, 12, 50, 10_000),
        line(2.2, 30, 51, 20_000),
        line(2.2, 50, 52, 30_000),
    )
    results = run_bake_off(
        BakeOff(("maml", "reptile", "scratch"), support, query, holdout, meta_init=init)
    )
    by_name = {result.name: result for result in results}
    assert [result.outcome for result in results] == ["ok"] * 3
    for name in ("maml", "reptile"):
        assert by_name[name].holdout_losses.mean() < 0.1
        assert by_name[name].curve[-1][1] < by_name[name].curve[0][1]
    model = by_name["maml"].model
    assert model is not None
    assert model.task_type == "regression"
    errors = np.abs(model.predict(holdout.rows).values - holdout.values)
    assert errors.mean() < 4  # of values that spread over 78 .. 122


def test_n_way_starts_adapt_to_classes_of_any_name() -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 3, (12, 4))
    kind = np.repeat(np.arange(12), 30)
    schema = FeatureSchema((Feature("x", "tensor", (4,)),))

    def draw(kinds: np.ndarray[tuple[int], np.dtype[np.intp]], first: int) -> Examples:
        rows = Rows(centers[kinds] + rng.normal(0, 0.3, (len(kinds), 4)))
        keys = np.arange(first, first + len(kinds), dtype=np.uint64)
        return Examples(rows, tuple(f"kind-{k}" for k in kinds), keys=keys)

    settings = replace(QUICK, ways=3, validation_fraction=0.25)
    init = meta_train(MetaTrainData(schema, draw(kind, 0)), settings)
    assert init.slots == 3
    assert init.class_names == ()
    assert init.joint == {}
    three = np.array([1, 5, 9])
    support, holdout = draw(np.repeat(three, 2), 10_000), draw(np.repeat(three, 20), 20_000)
    (result,) = run_bake_off(BakeOff(("maml",), support, support.take([]), holdout, meta_init=init))
    assert result.outcome == "ok"
    assert result.holdout_losses.mean() < 0.2


class ManualClock:
    """A clock that moves by the same amount every time somebody looks."""

    def __init__(self, tick_s: float) -> None:
        self._ticks = count(0)
        self.tick_s = tick_s

    def __call__(self) -> float:
        return next(self._ticks) * self.tick_s


def sampler(value: float = 0.0) -> TaskSampler:
    keys = np.arange(40, dtype=np.uint64)
    inputs = torch.full((40, 2), value)
    return TaskSampler(TaskSet((TaskData("a", inputs, torch.arange(40) % 2, keys),)))


def test_a_slow_machine_takes_fewer_steps_and_says_so() -> None:
    seen: list[Progress] = []
    settings = replace(QUICK, reptile_steps=1000, max_seconds=20)

    def steps_of(settings: MetaTrainSettings, tick_s: float) -> tuple[int, int]:
        around = Surroundings(ManualClock(tick_s), seen.append)
        learner, plan = learner_of("reptile", settings), plan_of("reptile", settings)
        found = train(learner, MLP(2, [3], 2), "classification", sampler(), plan, around)
        return found.steps, found.planned

    assert steps_of(settings, 1.0) == (19, 1000)
    assert seen[-1].step == seen[-1].steps == 19
    assert steps_of(replace(settings, reptile_steps=30), 0.001) == (30, 30)


def test_every_algorithm_makes_a_start_that_adapts() -> None:
    settings = replace(QUICK, algorithms=ALGORITHMS, maml_steps=60, reptile_steps=60)
    init = meta_train(plan_data(), settings)
    assert set(init.starts) == set(ALGORITHMS)
    for name in ALGORITHMS:
        loss = table(init.validation[name])["loss"]
        assert isinstance(loss, float)
        assert loss < 0.45  # chance is .5
    joint = table(init.validation["joint"])
    assert "fine_tuned_loss_by_support" in joint
    assert "step_size_factor" in joint
    assert unpack_meta_init(pack_meta_init(init)).starts.keys() == init.starts.keys()
    support, holdout = parcels(plans()[25], 12, 70, 10_000), parcels(plans()[25], 60, 71, 20_000)
    results = run_bake_off(BakeOff(ALGORITHMS, support, support.take([]), holdout, meta_init=init))
    assert [result.outcome for result in results] == ["ok"] * len(ALGORITHMS)


def test_ones_own_module_with_batch_norm_trains_and_adapts() -> None:
    path = "adapters.networks:NormalisedMLP"
    settings = replace(
        QUICK,
        architecture=Architecture(path, {"hidden": [16], "norm": "batch"}),
        validate_every=20,
    )
    init = meta_train(plan_data(), settings)
    assert init.architecture.kwargs == {"hidden": [16], "norm": "batch", "inputs": 6, "outputs": 2}
    support, holdout = parcels(plans()[25], 12, 70, 10_000), parcels(plans()[25], 60, 71, 20_000)
    results = run_bake_off(
        BakeOff(("maml", "reptile"), support, support.take([]), holdout, meta_init=init)
    )
    for result in results:
        assert result.outcome == "ok"
        assert result.holdout_losses.mean() < 0.25
    assert any(name.endswith("running_var") for name in init.joint)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"inputs": 7}, "fails on 2 rows of 6 encoded inputs"), ({"outputs": 3}, r"answers \(2, 3\)")],
)
def test_a_module_that_does_not_fit_is_refused(kwargs: dict[str, object], message: str) -> None:
    architecture = Architecture(MLP_PATH, {"hidden": [4], **kwargs})
    with pytest.raises(MetaTrainingError, match=message):
        meta_train(plan_data(), replace(BRIEF, architecture=architecture))


def test_names_are_told_apart_to_their_end_and_cost_no_memory_by_length() -> None:
    data = plan_data()
    first, second, *_ = dict.fromkeys(data.tasks)
    long = "x" * 50_000
    renamed = {first: long + "a", second: long + "a\0"}
    tasks = tuple(renamed.get(name, name) for name in data.tasks)
    tracemalloc.start()
    init = meta_train(
        replace(data, tasks=tasks), replace(BRIEF, algorithms=("reptile",), processes=1)
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    both = [*table(init.info["train"])["tasks"], *table(init.info["validation"])["tasks"]]  # type: ignore[misc]
    assert set(renamed.values()) <= set(both) and len(both) == len(set(tasks))
    assert peak < len(tasks) * len(long), "a cell of an array is as long as the longest text"


def test_a_finished_training_is_taken_from_its_checkpoint(tmp_path: Path) -> None:
    once = meta_train(plan_data(), BRIEF, checkpoints=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["maml.checkpoint", "reptile.checkpoint"]
    again = meta_train(plan_data(), BRIEF, checkpoints=tmp_path)
    assert pack_meta_init(once) == pack_meta_init(again)
    with pytest.raises(MetaTrainingError, match="with other data, settings"):
        meta_train(plan_data(), replace(BRIEF, seed=5), checkpoints=tmp_path)


def test_a_checkpoint_is_of_other_data_where_only_the_validation_tasks_differ(
    tmp_path: Path,
) -> None:
    brief = replace(BRIEF, algorithms=("reptile",), processes=1)
    data = plan_data()
    init = meta_train(data, brief, checkpoints=tmp_path)
    chosen = table(init.info["validation"])["tasks"]
    assert isinstance(chosen, list)
    one, other, *_ = data.class_names or sorted(set(data.examples.labels))
    turned = {one: other, other: one}
    labels = tuple(
        turned.get(label, label) if task in chosen else label
        for task, label in zip(data.tasks, data.examples.labels, strict=True)
    )
    changed = replace(data, examples=replace(data.examples, labels=labels))
    with pytest.raises(MetaTrainingError, match="with other data, settings"):
        meta_train(changed, brief, checkpoints=tmp_path)


def test_two_members_that_share_each_step_come_to_the_same_start() -> None:
    one = meta_train(plan_data(), BRIEF)
    two = meta_train(plan_data(), replace(BRIEF, members=2))
    for name, start in one.starts.items():
        other = two.starts[name]
        for weight, value in start.weights.items():
            torch.testing.assert_close(other.weights[weight], value, rtol=1e-3, atol=1e-4)
    assert multiprocessing.active_children() == []


def a_share(settings: MetaTrainSettings, rows: int = 60) -> Share:
    keys = np.arange(rows, dtype=np.uint64)
    made = parcels(plans()[0], rows, 0)
    inputs = torch.from_numpy(made.rows.numbers.astype(np.float32))
    task = TaskData("a", inputs, torch.tensor([int(x == "B") for x in made.labels]), keys)
    architecture = Architecture(MLP_PATH, {"inputs": KINDS, "hidden": [4], "outputs": 2})
    arrays = as_arrays(TaskSet((task,)))
    return Share(("maml",), architecture, "classification", arrays, arrays, settings)


def test_a_workers_error_is_raised_here_and_nobody_stays_behind() -> None:
    with pytest.raises(MetaTrainingError, match=r"maml: ValueError: .*fewer than 12 support"):
        run_shares([a_share(QUICK, rows=13)], lambda _: None, timeout_s=60)
    assert multiprocessing.active_children() == []


def test_a_worker_past_its_time_is_killed() -> None:
    endless = replace(QUICK, maml_steps=10**9, max_seconds=10**6)
    with pytest.raises(MetaTrainingError, match="ran past 4 s and was killed"):
        run_shares([a_share(endless)], lambda _: None, timeout_s=4)
    assert multiprocessing.active_children() == []


def test_a_failing_progress_callback_ends_the_workers() -> None:
    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    endless = replace(QUICK, maml_steps=10**9, max_seconds=10**6)
    with pytest.raises(KeyboardInterrupt):
        run_shares([a_share(endless)], stop, timeout_s=60)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithms": ("magic",)}, "algorithms is"),
        ({"support": 0}, "support is 0; use a number > 0"),
        ({"max_seconds": float("nan")}, "max_seconds is nan"),
        ({"validation_fraction": 1.5}, "validation_fraction is 1.5"),
        ({"ways": 5}, "multiples of it"),
        ({"ways": 3, "algorithms": ("joint",)}, "joint with ways"),
        ({"members": 3}, "members is 3; use a divisor of maml_tasks"),
        ({"validate_every": -1}, "validate_every is -1"),
    ],
)
def test_wrong_settings_name_key_value_and_fix(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)  # type: ignore[arg-type]
