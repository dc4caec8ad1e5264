"""Labels and events as they really come: late, early, twice, corrected, wrong, or never."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine_state import EngineState
from pipeline.example_buffer import Example
from pipeline.join_window import BLOCK, NO_MODEL
from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import quick_settings
from tests.pipeline.small_worlds import first, line_champion, second

UP = {"x0": 1, "x1": 1, "x2": 1, "x3": 1}
DOWN = {**UP, "x0": -1}


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    with Loop(quick_settings(tmp_path / "s")) as made:
        yield made


def event(name: str, features: dict[str, float] | None = None, **others: object) -> object:
    return {"id": name, "features": features or UP, **others}


def label(name: str, value: object, **others: object) -> object:
    return {"id": name, "label": value, **others}


def example(loop: Loop, name: str) -> Example:
    found = loop.fold.state.buffers["*"].find(name)
    assert found is not None
    return found


def class_of(loop: Loop, name: str) -> str:
    return loop.fold.state.core.classes[int(example(loop, name).label)]


def state(loop: Loop) -> EngineState:
    return loop.fold.state


def test_an_event_is_answered_by_the_champion(loop: Loop) -> None:
    loop.poll([event("a"), event("b", DOWN)])
    a = loop.predictions["a"]
    assert (a["prediction"], a["arm"], a["route"]) == ("up", "stable", "*")
    assert a["model_version"] == state(loop).core.versions[1].name
    proba = a["proba"]
    assert isinstance(proba, dict)
    assert set(proba) == {"down", "up"}
    assert proba["up"] == pytest.approx(0.999665, abs=1e-6)
    assert loop.predictions["b"]["prediction"] == "down"


def test_a_late_label_joins_what_was_answered_then(loop: Loop) -> None:
    loop.poll([event("a"), event("b", DOWN)])
    loop.tick(86_400)
    loop.poll(labels=[label("a", "up"), label("b", "up")])
    assert loop.counts["labels"] == loop.counts["served_labelled"] == 2
    assert state(loop).core.served_loss == 1.0
    assert example(loop, "b").answer == 0.0
    assert class_of(loop, "b") == "up"


def test_an_early_label_waits_for_its_event(loop: Loop) -> None:
    loop.poll(labels=[label("a", "down")])
    assert (loop.counts["early_labels"], loop.counts.get("labels", 0)) == (1, 0)
    loop.restart()
    loop.poll([event("a")])
    assert (loop.counts["labels"], state(loop).core.served_loss) == (1, 1.0)
    assert not state(loop).window.early
    loop.poll(labels=[label("a", "down")])
    assert (loop.counts["labels"], loop.counts["duplicate_labels"]) == (1, 1)


def test_an_early_label_that_is_repeated_or_corrected_joins_once(loop: Loop) -> None:
    loop.poll(labels=[label("a", "down"), label("a", "down"), label("a", "up")])
    counts = {k: loop.counts.get(k) for k in ("early_labels", "duplicate_labels")}
    assert counts == {"early_labels": 1, "duplicate_labels": 1}
    assert loop.counts["corrected_labels"] == 1
    loop.poll([event("a")])
    assert (loop.counts["labels"], class_of(loop, "a")) == (1, "up")


def test_an_early_label_whose_event_never_comes_is_an_orphan(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path, join={"early_labels": 3})) as loop:
        loop.poll(labels=[label(f"e{i}", "up") for i in range(5)])
        assert list(state(loop).window.early) == ["e2", "e3", "e4"]
        assert state(loop).core.orphans == 2
        loop.poll([event("e0"), event("e4")])
        assert loop.counts["labels"] == 1


def test_duplicated_and_corrected_labels_rewind_nothing(loop: Loop) -> None:
    loop.poll([event("a")])
    loop.poll(labels=[label("a", "up"), label("a", "up"), label("a", "down"), label("a", "down")])
    assert loop.counts["labels"] == 1
    assert loop.counts["corrected_labels"] == 1
    assert loop.counts["duplicate_labels"] == 2
    assert state(loop).core.served_loss == 0.0
    assert class_of(loop, "a") == "down"
    assert state(loop).window.label_at(0) == 1.0


def test_a_label_inside_the_event_is_its_first_label(loop: Loop) -> None:
    loop.poll([event("a", label="down")], labels=[label("a", "up")])
    assert (loop.counts["labels"], loop.counts["corrected_labels"]) == (1, 1)
    assert (state(loop).core.served_loss, class_of(loop, "a")) == (1.0, "up")


def test_events_without_labels_are_counted_when_they_leave(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path, join={"window_events": 1000})) as loop:
        loop.stream(1000 + BLOCK, first, share=0.0)
        core = state(loop).core
        assert (core.evicted, core.next - core.first) == (BLOCK, 1000)
        loop.poll(labels=[label("e0", "up"), label(f"e{BLOCK}", "up")])
        assert (loop.counts["early_labels"], loop.counts["labels"]) == (1, 1)


def test_events_leave_by_age_in_engine_time(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path, join={"window_s": 60})) as loop:
        loop.stream(2 * BLOCK, first, share=0.0, at_once=BLOCK)
        loop.tick(59)
        assert state(loop).core.first == BLOCK, "the first block is 26 s older than the second"
        loop.tick(30)
        assert state(loop).window.first == 2 * BLOCK
        assert state(loop).window.evicted == 2 * BLOCK


def test_a_labels_own_features_serve_the_buffer_and_no_arm(loop: Loop) -> None:
    loop.poll([event("known", DOWN)])
    loop.poll(labels=[label("own", "down", features=UP), label("known", "down", features=UP)])
    assert loop.counts["labels_with_features"] == loop.counts["labels"] == 1
    assert loop.counts["served_labelled"] == 1
    own = example(loop, "own")
    assert (own.version, own.own_features) == (NO_MODEL, True)
    assert example(loop, "known").numbers.tolist() == [-1, 1, 1, 1], "the event's own count"
    assert [e.id for e in state(loop).buffers["*"].since(0)] == ["known"]
    loop.poll(labels=[label("own", "up", features=UP)])
    assert (loop.counts["corrected_labels"], class_of(loop, "own")) == (1, "up")


def test_a_repeated_event_is_counted_or_set_aside(loop: Loop) -> None:
    loop.poll([event("a"), event("b"), event("a")])
    loop.poll([event("b"), event("a", DOWN)])
    assert loop.counts["events"] == 2
    assert loop.counts["duplicate_events"] == 2
    assert [(d.error, d.offset) for d in loop.dead] == [("conflicting-duplicate", 4)]
    assert "'a' came before with other features" in loop.dead[0].message
    assert loop.predictions["a"]["prediction"] == "up"


def test_a_usable_event_after_an_unusable_one_of_the_same_id_counts(loop: Loop) -> None:
    loop.poll([event("a", {"x0": 1}), event("a"), event("a")])
    assert [(d.error, d.offset) for d in loop.dead] == [("features", 0)]
    assert (loop.counts["events"], loop.counts["duplicate_events"]) == (1, 1)
    assert loop.predictions["a"]["prediction"] == "up"


def test_events_scored_upstream_are_not_scored_again(loop: Loop) -> None:
    loop.poll(
        [event("a", prediction="down", model_version="theirs"), event("b")],
        [label("a", "up"), label("b", "up")],
    )
    assert list(loop.predictions) == ["b"]
    assert loop.counts["scored_upstream"] == 1
    assert (loop.counts["events"], loop.counts["labels"]) == (2, 2)
    assert state(loop).core.served_loss == 1.0
    assert example(loop, "a").answer == 0.0


def test_what_does_not_fit_the_schema_is_set_aside_by_name(loop: Loop) -> None:
    bad: list[object] = [
        {**UP, "x2": "3"},
        {**UP, "x2": True},
        {**UP, "x2": None},
        {**UP, "x2": [1, 2]},
        {**UP, "x2": 10**400},
        {"x0": 1, "x1": 1, "x3": 1},
    ]
    events: list[object] = [{"id": f"bad{i}", "features": f} for i, f in enumerate(bad)]
    loop.poll([event("a"), *events, event("b")])
    assert list(loop.predictions) == ["a", "b"]
    assert [d.error for d in loop.dead] == ["features"] * 6
    assert all("'x2'" in d.message for d in loop.dead)
    assert loop.counts["dead_letters"] == 6


def test_unknown_features_are_ignored_and_counted(loop: Loop) -> None:
    loop.poll([event("a", {**UP, "more": 1}), event("b", {**UP, "more": 1, "other": 1})])
    assert state(loop).core.extra_features == {"more": 2, "other": 1}
    assert not loop.dead


@pytest.mark.parametrize("value", [1.5, "", "x" * 300])
def test_an_unusable_class_is_set_aside(loop: Loop, value: object) -> None:
    loop.poll([event("a")])
    loop.poll(labels=[label("a", value), label("a", "up")])
    assert [(d.error, d.topic, d.offset) for d in loop.dead] == [("bad-label", "labels", 0)]
    assert loop.counts["labels"] == 1


@pytest.mark.parametrize("value", ["up", True, 10**400])
def test_regression_takes_numbers_only(tmp_path: Path, value: object) -> None:
    settings = quick_settings(tmp_path, model={"task_type": "regression"})
    with Loop(settings, line_champion(), [0.1] * 50) as loop:
        loop.poll([event("a")])
        loop.poll(labels=[label("a", value), label("a", 105)])
        assert [d.error for d in loop.dead] == ["bad-label"]
        assert loop.predictions["a"]["prediction"] == pytest.approx(110)
        assert "proba" not in loop.predictions["a"]
        assert state(loop).core.served_loss == pytest.approx(0.5)


def test_the_labels_of_a_former_champion_are_not_held_against_the_new_one(tmp_path: Path) -> None:
    """Labels of events that the old champion answered come after its successor serves."""
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(100, first)
        loop.stream(300, second, delay=60)
        for _ in range(30):
            if "promotion" not in loop.kinds():
                loop.stream(20, second, delay=60)
        promoted_at = loop.route.champion_since_position
        loop.stream(60, second, delay=60)
        seen = state(loop).monitors["*"]
        assert seen.reference_loss is not None
        late = [e for e in state(loop).buffers["*"].since(0) if e.version == 1]
        assert max(e.position for e in late) == pytest.approx(promoted_at, abs=20)
        assert max(e.position for e in late) < promoted_at
        assert len(loop.decided("signal")) == 1


def test_ids_that_are_odd_but_legal_are_kept(loop: Loop) -> None:
    odd = ["\x00", "é" * 256, "'; DROP TABLE core; --", "🚚", " "]
    loop.poll(labels=[label(name, "up") for name in odd])
    loop.restart()
    loop.poll([event(name) for name in odd])
    loop.restart()
    loop.poll([event(name) for name in odd])
    assert (loop.counts["labels"], loop.counts["duplicate_events"]) == (5, 5)
    assert sorted(loop.predictions) == sorted(odd)
