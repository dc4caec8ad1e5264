"""Meta-test episodes: what they hold, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.evaluation_episodes import Episode, EpisodeDrawer
from adapters.task_splits import LeakError, TaskSplit
from tests.adapters.lanes import line_data, plan_data


def split() -> TaskSplit:
    return TaskSplit.with_test(plan_data(6, 20), ["plan-4", "plan-5"], ["plan-1"])


@given(shots=st.integers(1, 3), query=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_every_class_gives_the_same_number_of_labels(shots: int, query: int, seed: int) -> None:
    data = split().data
    drawer = EpisodeDrawer(split(), split().test, shots, query)
    for i, episode in enumerate(drawer.draw(6, seed)):
        assert episode.task == ("plan-4", "plan-5")[i % 2]
        labels = [data.examples.labels[row] for row in episode.support]
        assert sorted(labels) == ["A"] * shots + ["B"] * shots
        assert 1 <= len(episode.query) <= query
        assert {data.tasks[row] for row in (*episode.support, *episode.query)} == {episode.task}
        assert not set(episode.support.tolist()) & set(episode.query.tolist())


def test_planted_query_rows_are_refused() -> None:
    keys = np.arange(10, dtype=np.uint64)
    with pytest.raises(LeakError, match=r"task 'a': 1 query row keys"):
        Episode("a", np.array([1, 2]), np.array([2, 3]), keys)
    keys[7] = keys[1]  # another row of the same group
    with pytest.raises(LeakError, match=r"planted in the support"):
        Episode("a", np.array([1, 2]), np.array([7, 8]), keys)


def test_rows_of_one_group_never_stand_on_both_sides() -> None:
    whole = plan_data(6, 20)
    keys = whole.examples.keys // np.uint64(4)  # groups of four rows
    grouped = replace(whole, examples=replace(whole.examples, keys=keys))
    drawer = EpisodeDrawer(TaskSplit.with_test(grouped, ["plan-4"], []), ("plan-4",), 2, 20)
    for episode in drawer.draw(20, 0):
        assert len(np.unique(keys[episode.support])) == len(episode.support) == 4
        assert not set(keys[episode.support].tolist()) & set(keys[episode.query].tolist())


def test_by_time_the_support_is_earlier_in_every_class() -> None:
    times = np.arange(120, dtype=np.int64)[::-1].copy()
    drawer = EpisodeDrawer(split(), split().test, 2, 20, "time", times)
    labels = np.array(split().data.examples.labels)
    for episode in drawer.draw(20, 0):
        for name in ("A", "B"):
            support = episode.support[labels[episode.support] == name]
            query = episode.query[labels[episode.query] == name]
            assert times[support].max() < times[query].min()
    with pytest.raises(ValueError, match="name a time column"):
        EpisodeDrawer(split(), split().test, 2, 20, "time")


def test_same_seed_same_episodes() -> None:
    def drawn(seed: int) -> list[list[int]]:
        drawer = EpisodeDrawer(split(), split().test, 2)
        return [[*e.support.tolist(), *e.query.tolist()] for e in drawer.draw(5, seed)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_classes_and_tasks_with_too_few_rows_are_named() -> None:
    whole = plan_data(6, 20)
    names = list(whole.examples.labels)
    for row in range(80, 100):  # plan-4 keeps two rows of B
        names[row] = "B" if row < 82 else "A"
    few = replace(whole, examples=replace(whole.examples, labels=tuple(names)))
    drawer = EpisodeDrawer(
        TaskSplit.with_test(few, ["plan-4", "plan-5"], []), ("plan-4", "plan-5"), 2
    )
    assert drawer.able == ("plan-5",)
    assert [(t.name, t.reason) for t in drawer.left_out] == [
        ("plan-4, class 'B'", "has 2 different rows, fewer than 3"),
        ("plan-4", "has one class with enough rows for 2 shots, fewer than 2"),
    ]
    with pytest.raises(ValueError, match=r"none of the tasks \['plan-5'\] .* 40 shots"):
        EpisodeDrawer(split(), ("plan-5",), 40)


def sharing(groups_of_a: int, groups_of_b: int) -> TaskSplit:
    """plan-4 and plan-5 with A's and B's rows in the same few groups."""
    whole = plan_data(6, 40)
    keys = np.array(whole.examples.keys)
    for task in ("plan-4", "plan-5"):
        for name, groups in (("A", groups_of_a), ("B", groups_of_b)):
            mine = [
                row
                for row, (t, label) in enumerate(
                    zip(whole.tasks, whole.examples.labels, strict=True)
                )
                if (t, label) == (task, name)
            ]
            keys[mine] = int(task[-1]) * 1000 + np.arange(len(mine)) % groups
    grouped = replace(whole, examples=replace(whole.examples, keys=keys))
    return TaskSplit.with_test(grouped, ["plan-4", "plan-5"], [])


@pytest.mark.parametrize(("a", "b"), [(8, 3), (3, 8), (5, 4)])
def test_classes_that_share_groups_still_get_every_label(a: int, b: int) -> None:
    drawer = EpisodeDrawer(sharing(a, b), ("plan-4", "plan-5"), 2)
    assert drawer.able == ("plan-4", "plan-5")
    for episode in drawer.draw(200, 0):
        labels = [drawer.split.data.examples.labels[row] for row in episode.support]
        assert sorted(labels) == ["A", "A", "B", "B"]
        assert len(np.unique(episode.keys[episode.support])) == 4
        assert len(episode.query)


@pytest.mark.parametrize(("groups", "shots"), [(2, 1), (3, 2), (4, 2)])
def test_a_task_whose_classes_share_too_many_groups_is_left_out(groups: int, shots: int) -> None:
    with pytest.raises(ValueError, match=r"plan-4 has classes that share groups: too few for"):
        EpisodeDrawer(sharing(groups, groups), ("plan-4", "plan-5"), shots)
    whole = replace(sharing(groups, groups), train=("plan-0",), test=("plan-1", "plan-4"))
    drawer = EpisodeDrawer(whole, whole.test, shots)
    assert drawer.able == ("plan-1",)
    assert [t.name for t in drawer.left_out] == ["plan-4"]
    assert {episode.task for episode in drawer.draw(20, 0)} == {"plan-1"}


def test_regression_draws_labels_in_all() -> None:
    lines = TaskSplit.with_test(line_data(4, 20), ["line-3"], [])
    (episode,) = EpisodeDrawer(lines, ("line-3",), 5, 100).draw(1, 0)
    assert (len(episode.support), len(episode.query)) == (5, 15)
