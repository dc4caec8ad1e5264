import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.tasks import (
    TaskData,
    TaskSampler,
    TaskSet,
    n_way_tasks,
    split_tasks,
    tasks_from_column,
)


def task(name: str, keys: list[int]) -> TaskData:
    n = len(keys)
    inputs = torch.arange(n, dtype=torch.float32).reshape(n, 1)
    return TaskData(name, inputs, torch.zeros(n, dtype=torch.int64), np.array(keys, np.uint64))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    groups=st.lists(st.integers(1, 4), min_size=6, max_size=12),
    support=st.integers(1, 3),
    query=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_support_and_query_never_share_a_key_and_rows_keep_theirs(
    groups: list[int], support: int, query: int, seed: int
) -> None:
    keys = [key for key, count in enumerate(groups) for _ in range(count)]
    keys = np.random.default_rng(seed).permutation(keys).tolist()
    one = task("one", keys)
    batch = TaskSampler(TaskSet((one,))).sample(3, support, query, seeded(seed))
    assert batch.support.inputs.shape == (3, support, 1)
    assert batch.query.targets.shape == (3, query)
    for s, q in zip(batch.support_keys, batch.query_keys, strict=True):
        drawn = [*s.tolist(), *q.tolist()]
        assert len(set(drawn)) == support + query
    for row, key in zip(batch.support.inputs.flatten(), batch.support_keys.flatten(), strict=True):
        assert keys[int(row)] == key


def test_every_row_of_a_group_can_be_drawn() -> None:
    sampler = TaskSampler(TaskSet((task("one", [7, 7, 7, 8]),)))
    drawn = sampler.sample(200, 2, 0, seeded()).support.inputs
    assert set(drawn.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_same_generator_state_same_episodes() -> None:
    sampler = TaskSampler(TaskSet((task("a", list(range(9))), task("b", list(range(9))))))
    one, two = (sampler.sample(4, 3, 2, seeded(5)) for _ in range(2))
    other = sampler.sample(4, 3, 2, seeded(6))
    assert torch.equal(one.support.inputs, two.support.inputs)
    assert torch.equal(one.query.inputs, two.query.inputs)
    assert not torch.equal(one.support.inputs, other.support.inputs)


def test_too_small_tasks_are_named() -> None:
    tasks = TaskSet((task("large", list(range(9))), task("tiny", [1, 1, 1, 1, 1, 1, 1, 1, 2])))
    with pytest.raises(ValueError, match=r"\['tiny'\] have fewer than 2 support \+ 1 query"):
        TaskSampler(tasks).sample(1, 2, 1, seeded())
    kept, small = tasks.without_small(3)
    assert kept.names == ("large",)
    assert small == ("tiny",)


@given(count=st.integers(2, 30), seed=st.integers(0, 50), share=st.floats(0.05, 0.5))
@settings(max_examples=40, deadline=None)
def test_a_split_is_disjoint_and_never_empty(count: int, seed: int, share: float) -> None:
    tasks = TaskSet(tuple(task(f"t{i}", [i]) for i in range(count)))
    one, two = split_tasks(tasks, (1 - share, share), seed)
    assert one.names and two.names
    assert not set(one.names) & set(two.names)
    assert split_tasks(tasks, (1 - share, share), seed)[1].names == two.names


def test_a_split_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="1 tasks cannot be split into 2"):
        split_tasks(TaskSet((task("a", [1]),)), (0.5, 0.5), 0)
    with pytest.raises(ValueError, match="sum to at most 1"):
        split_tasks(TaskSet((task("a", [1]),)), (0.9, 0.5), 0)


def test_the_digest_sees_every_part() -> None:
    one = TaskSet((task("a", [1, 2]),))
    assert one.digest() == TaskSet((task("a", [1, 2]),)).digest()
    assert one.digest() != TaskSet((task("a", [1, 3]),)).digest()
    assert one.digest() != TaskSet((task("b", [1, 2]),)).digest()


def test_column_tasks_keep_rows_in_order() -> None:
    inputs = torch.arange(4.0).reshape(4, 1)
    keys = np.arange(4, dtype=np.uint64)
    tasks = tasks_from_column(inputs, torch.tensor([0, 1, 0, 1]), ["b", "a", "b", "a"], keys)
    assert tasks.names == ("b", "a")
    assert tasks.tasks[0].keys.tolist() == [0, 2]
    assert tasks.tasks[1].inputs.flatten().tolist() == [1, 3]


def test_n_way_episodes_are_balanced_and_their_slots_permuted() -> None:
    classes = [f"c{i % 5}" for i in range(50)]
    inputs = torch.tensor([[float(i % 5)] for i in range(50)])
    source = n_way_tasks(inputs, classes, np.arange(50, dtype=np.uint64), ways=3)
    assert source.most == 30
    batch = source.sample(60, 6, 9, seeded())
    slots_of_class_0 = set()
    for x, y in zip(batch.support.inputs[..., 0], batch.support.targets, strict=True):
        assert sorted(y.tolist()) == [0, 0, 1, 1, 2, 2]
        meaning = set(zip(x.tolist(), y.tolist(), strict=True))
        assert len(meaning) == 3  # one class per slot
        slots_of_class_0 |= {slot for label, slot in meaning if label == 0}
    for x, y, qx, qy in zip(
        batch.support.inputs[..., 0],
        batch.support.targets,
        batch.query.inputs[..., 0],
        batch.query.targets,
        strict=True,
    ):
        assert set(zip(qx.tolist(), qy.tolist(), strict=True)) == set(
            zip(x.tolist(), y.tolist(), strict=True)
        )
    assert slots_of_class_0 == {0, 1, 2}


def test_n_way_refuses_uneven_sizes_and_small_classes() -> None:
    inputs, keys = torch.zeros(7, 1), np.arange(7, dtype=np.uint64)
    source = n_way_tasks(inputs, [*"aaaaa", *"bb"], keys, ways=2)
    with pytest.raises(ValueError, match="multiples of 2"):
        source.sample(1, 3, 2, seeded())
    with pytest.raises(ValueError, match=r"classes \['b'\]"):
        source.sample(1, 4, 2, seeded())
    with pytest.raises(ValueError, match="ways is 3 with 2 classes"):
        n_way_tasks(inputs, [*"aaaaa", *"bb"], keys, ways=3)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    shots=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_by_class_no_class_has_more_support_before_the_others_have_as_much(
    sizes: list[int], shots: int, seed: int
) -> None:
    targets = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    n = len(targets)
    support = min(shots * len(sizes), n - 1)
    one = TaskData("one", torch.zeros(n, 1), targets, np.arange(n, dtype=np.uint64))
    batch = TaskSampler(TaskSet((one,)), by_class=True).sample(4, support, 1, seeded(seed))
    for found, s, q in zip(
        batch.support.targets, batch.support_keys, batch.query_keys, strict=True
    ):
        counts = torch.bincount(found, minlength=len(sizes)).tolist()
        most = max(counts)
        assert all(c >= min(most - 1, size) for c, size in zip(counts, sizes, strict=True))
        assert len({*s.tolist(), *q.tolist()}) == support + 1
        assert (targets[s.astype(np.int64)] == found).all()


def test_by_class_every_class_is_in_a_support_of_one_each_and_the_query_keeps_the_proportions() -> (
    None
):
    targets = torch.tensor([0] * 90 + [1] * 9 + [2])
    one = TaskData("one", torch.zeros(100, 1), targets, np.arange(100, dtype=np.uint64))
    balanced = TaskSampler(TaskSet((one,)), by_class=True).sample(200, 3, 20, seeded())
    assert all(sorted(t.tolist()) == [0, 1, 2] for t in balanced.support.targets)
    assert len(np.unique(balanced.support_keys)) > 60
    assert 0.05 < (balanced.query.targets == 1).float().mean() < 0.11
    plain = TaskSampler(TaskSet((one,))).sample(200, 3, 20, seeded())
    assert sum(len(set(t.tolist())) < 3 for t in plain.support.targets) > 150


def test_by_class_is_refused_where_targets_are_numbers() -> None:
    numbers = TaskData("a", torch.zeros(3, 1), torch.zeros(3), np.arange(3, dtype=np.uint64))
    with pytest.raises(ValueError, match="by_class is True, but the targets are numbers"):
        TaskSampler(TaskSet((numbers,)), by_class=True)
