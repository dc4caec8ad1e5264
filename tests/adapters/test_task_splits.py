"""No task and no row on two sides, by construction."""

import time
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.meta_settings import MetaTrainData
from adapters.task_splits import (
    LeakError,
    SplitBy,
    TaskSplit,
    draw_test_tasks,
    refuse_shared,
    split_rows,
)
from tests.adapters.lanes import plan_data, plan_init


def data() -> MetaTrainData:
    return plan_data(6, 10)


def test_a_split_is_frozen_and_has_a_digest_per_set() -> None:
    split = TaskSplit.with_test(data(), ["plan-4"], ["plan-1"])
    assert split.train == ("plan-0", "plan-2", "plan-3", "plan-5")
    assert set(split.digests) == {"meta-train", "meta-validation", "meta-test"}
    assert len(set(split.digests.values())) == 3
    assert split.rows_of("plan-4").tolist() == list(range(40, 50))
    with pytest.raises(FrozenInstanceError):
        split.test = ()  # type: ignore[misc]
    again = TaskSplit.with_test(data(), ["plan-4"], ["plan-1"])
    assert again.digests == split.digests
    labels = list(data().examples.labels)
    labels[41] = "A" if labels[41] == "B" else "B"
    other = replace(data(), examples=replace(data().examples, labels=tuple(labels)))
    changed = TaskSplit.with_test(other, ["plan-4"], ["plan-1"]).digests
    assert changed["meta-test"] != split.digests["meta-test"]
    assert changed["meta-train"] == split.digests["meta-train"]


def test_many_tasks_are_found_in_one_pass() -> None:
    few, n, tasks = data(), 200_000, 5_000
    names = tuple(f"t{i % tasks}" for i in range(n))
    many = replace(
        few,
        examples=replace(
            few.examples.take(np.arange(n) % len(few.examples)), keys=np.arange(n, dtype=np.uint64)
        ),
        tasks=names,
    )
    began_s = time.process_time()
    split = TaskSplit.with_test(many, names[:9], names[9:20])
    assert all(
        split.rows_of(name).tolist()[:2] == [i, i + tasks] for i, name in enumerate(names[:9])
    )
    assert split.train_rows.tolist() == [i for i in range(n) if i % tasks >= 20]
    assert time.process_time() - began_s < 12.0, "a pass over all rows for each task takes longer"


def test_a_task_in_two_sets_is_refused_by_name() -> None:
    with pytest.raises(LeakError, match=r"tasks \['plan-2'\] are in meta-train and meta-test"):
        TaskSplit(data(), ("plan-0", "plan-2"), (), ("plan-2", "plan-3"))
    with pytest.raises(LeakError, match=r"\['plan-1'\] are in meta-validation and meta-test"):
        TaskSplit.with_test(data(), ["plan-1"], ["plan-1"])
    with pytest.raises(LeakError, match=r"meta-test names tasks \['plan-1'\] twice"):
        TaskSplit.with_test(data(), ["plan-1", "plan-1"], [])
    with pytest.raises(ValueError, match=r"meta-test names tasks \['plan-9'\] that have no row"):
        TaskSplit.with_test(data(), ["plan-9"], [])
    with pytest.raises(ValueError, match="at least one task each"):
        TaskSplit.with_test(data(), [f"plan-{i}" for i in range(6)], [])


def test_rows_shared_between_sets_are_refused_by_their_keys() -> None:
    keys = data().examples.keys.copy()
    keys[45] = keys[3]  # a row of plan-0 planted in plan-4
    planted = replace(data(), examples=replace(data().examples, keys=keys))
    with pytest.raises(LeakError, match=r"1 row keys .* of tasks \['plan-0', 'plan-4'\]"):
        TaskSplit.with_test(planted, ["plan-4"], [])
    assert TaskSplit.with_test(planted, ["plan-4", "plan-0"], []).test  # one set: nothing leaks


def test_a_start_that_saw_meta_test_rows_is_refused() -> None:
    whole = plan_data()
    split = TaskSplit.with_test(whole, ["plan-4"], [])
    with pytest.raises(LeakError, match=r"the meta-init .* 40 meta-test row keys.*\['plan-4'\]"):
        split.refuse_trained(plan_init().trained_on, "the meta-init")
    split.refuse_trained(whole.examples.keys[:160], "a start of the first tasks")


@given(
    groups=st.lists(st.integers(1, 4), min_size=3, max_size=12),
    by=st.sampled_from(["random", "time", "group"]),
    share=st.floats(0.1, 0.7),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_support_and_query_never_share_a_key(
    groups: list[int], by: SplitBy, share: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    keys = np.repeat(np.arange(len(groups), dtype=np.uint64), groups)
    times = draw.integers(0, 50, len(keys))
    if by == "time":  # a group is one moment: otherwise a side may come out empty
        times = keys.astype(np.int64)
    try:
        support, query = split_rows(keys, by, share, seed=seed, times=times)
    except ValueError as error:
        assert "leave no query" in str(error)
        return
    assert len(support) and len(query)
    refuse_shared(keys[support], keys[query], "here")
    if by == "time":
        assert times[support].max() < times[query].min()
    else:
        assert sorted([*support.tolist(), *query.tolist()]) == list(range(len(keys)))


def test_planted_query_rows_are_refused() -> None:
    keys = np.arange(6, dtype=np.uint64)
    with pytest.raises(LeakError, match="task a: 1 query row keys"):
        refuse_shared(keys[:3], keys[2:], "task a")


def test_what_a_split_of_rows_needs_is_said() -> None:
    keys = np.arange(4, dtype=np.uint64)
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        split_rows(keys, "random", 1.0)
    with pytest.raises(ValueError, match="name a time column"):
        split_rows(keys, "time", 0.5)
    with pytest.raises(ValueError, match="leave no query"):
        split_rows(np.zeros(4, np.uint64), "group", 0.5)


def test_test_tasks_are_drawn_under_a_seed() -> None:
    names = [f"t{i}" for i in range(10)]
    drawn = draw_test_tasks(names, 0.3, 1)
    assert len(drawn) == 3 and drawn == draw_test_tasks(names[::-1], 0.3, 1)
    assert drawn != draw_test_tasks(names, 0.3, 2)
    assert len(draw_test_tasks(names, 0.99, 0)) == 9
    with pytest.raises(ValueError, match="at least two tasks"):
        draw_test_tasks(["a"], 0.5, 0)
    with pytest.raises(ValueError, match="test fraction is 1"):
        draw_test_tasks(names, 1, 0)
