import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import DetectorError, DetectorSnapshotError, NoveltyMonitor, SignalKind


def test_a_class_is_signalled_once_at_its_third_sighting() -> None:
    monitor = NoveltyMonitor(classes=["a", "b"])
    seen = [monitor.see_class(name, i) for i, name in enumerate("abcacbcc")]
    (signal,) = [s for s in seen if s]
    assert (signal.kind, signal.at, signal.change_point) == (SignalKind.NEW_CLASS, 6, 2)
    assert "'c', 3 sightings" in signal.detail
    assert monitor.unseen_classes == {"c": 4}


def test_a_new_task_is_signalled_at_once() -> None:
    monitor = NoveltyMonitor(tasks=["north"])
    assert monitor.see_task("north", 0) is None
    signal = monitor.see_task("south", 1)
    assert signal and signal.kind is SignalKind.NEW_TASK and signal.change_point == 1
    assert monitor.see_task("south", 2) is None


def test_with_no_task_known_the_first_becomes_so() -> None:
    monitor = NoveltyMonitor()
    assert monitor.see_task("north", 0) is None
    assert monitor.see_task("south", 1) is not None


def test_learned_names_are_no_longer_new() -> None:
    monitor = NoveltyMonitor(classes=["a"], tasks=["t"], least_class=1)
    assert monitor.see_class("b", 0)
    monitor.know_classes(["a", "b"])
    monitor.learn_task("u")
    assert monitor.see_class("b", 1) is None and monitor.see_task("u", 1) is None
    assert monitor.unseen_classes == {} and monitor.unseen_tasks == {}


def test_a_class_that_another_model_lacks_is_new_again() -> None:
    monitor = NoveltyMonitor(classes=["a", "b"], least_class=2)
    monitor.know_classes(["a"])
    assert monitor.see_class("b", 5) is None
    assert monitor.sighted_class("b") is None
    signal = monitor.see_class("b", 6)
    assert signal and signal.change_point == 5
    monitor.see_class("b", 9)
    later = monitor.sighted_class("b")
    assert later and (later.at, later.statistic) == (5, 3.0)


names = st.lists(st.sampled_from(["a", "b", "c", "d" * 300, "e", "f"]), max_size=60)


@given(names, names, st.integers(0, 60))
def test_a_crash_at_any_name_changes_nothing(
    classes: list[str], tasks: list[str], crash: int
) -> None:
    kept, crashed = (NoveltyMonitor(classes=["a"], capacity=2) for _ in range(2))
    for i, (name, task) in enumerate(zip(classes, tasks, strict=False)):
        if i == crash:
            packed = crashed.snapshot()
            crashed = NoveltyMonitor.restore(packed)
            assert crashed.snapshot() == packed
        assert kept.see_class(name, i) == crashed.see_class(name, i)
        assert kept.see_task(task, i) == crashed.see_task(task, i)
    assert kept.snapshot() == crashed.snapshot()
    assert len(kept.unseen_classes) <= 2 and len(kept.unseen_tasks) <= 2


def test_names_over_the_bounds_are_only_counted() -> None:
    monitor = NoveltyMonitor(capacity=1, least_class=1)
    assert monitor.see_class("a", 0)
    assert monitor.see_class("b", 1) is None
    assert monitor.see_class("x" * 257, 2) is None
    assert monitor.dropped == 2


def test_wrong_bounds_and_bytes_are_refused() -> None:
    with pytest.raises(DetectorError, match=r"novelty\.capacity"):
        NoveltyMonitor(capacity=0)
    with pytest.raises(DetectorSnapshotError):
        NoveltyMonitor.restore(b"\x00")
