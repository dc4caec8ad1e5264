"""The join window: bounded, packed without loss, and the same after any restart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.feature_schema import Rows
from pipeline.engine_state import EngineState, load_state
from pipeline.join_window import BLOCK, JoinWindow, ScoredRows
from pipeline.records import Outcome
from pipeline.settings import parse_settings
from pipeline.state_file import StateFile

CAPACITY = 1000


def scored(start: int, ids: list[str], width: int = 2, time_ms: int = 0) -> ScoredRows:
    """Rows whose content follows from their ids' positions."""
    n = len(ids)
    at = np.arange(start, start + n)
    return ScoredRows(
        start,
        ids,
        [f"g{i}" if i % 3 == 0 else None for i in at],
        np.full(n, time_ms, np.int64),
        Rows(np.repeat(at[:, None], width, axis=1) + 0.5, tuple((f"c{i}", None) for i in at)),
        np.repeat(at[:, None], 3, axis=1).astype(np.int32),
        np.repeat(at[:, None], 3, axis=1) * 0.1,
        (at % 2).astype(np.uint8),
        (at % 100).astype(np.uint8),
    )


def same(a: ScoredRows, b: ScoredRows) -> bool:
    """Whether two runs hold the same, bit for bit."""
    return a.pack() == b.pack()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 40), st.integers(1, 5), st.data())
def test_rows_are_packed_without_loss(start: int, n: int, width: int, data: st.DataObject) -> None:
    rows = scored(start, [f"id {i}\x00é" for i in range(n)], width)
    rows.answers[:] = data.draw(
        st.lists(st.floats(), min_size=3 * n, max_size=3 * n).map(
            lambda v: np.array(v, np.float64).reshape(n, 3)
        )
    )
    again = ScoredRows.unpack(rows.pack())
    assert same(again, rows)
    assert (again.ids, again.groups, again.start) == (rows.ids, rows.groups, start)
    np.testing.assert_array_equal(again.rows.numbers, rows.rows.numbers)
    assert again.rows.categories == rows.rows.categories


ids = st.integers(0, 3000).map(str)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("events"), st.integers(1, 300)),
        st.tuples(st.just("label"), st.integers(0, 2000)),
        st.tuples(st.just("early"), st.integers(0, 12)),
        st.tuples(st.just("take"), st.integers(0, 12)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("expire"), st.integers(0, 3000)),
    ),
    max_size=40,
)


def apply(window: JoinWindow, move: str, n: int) -> None:
    """Do one thing that the engine does."""
    match move:
        case "events":
            names = [f"e{i}" for i in range(window.next, window.next + n)]
            window.append(scored(window.next, names, time_ms=window.next))
        case "label":
            position = window.position_of(f"e{n}")
            if position is not None and window.label_at(position) is None:
                window.join(position, n * 0.25)
        case "early":
            window.hold_early(f"early{n}", float(window.next))
        case "take":
            window.take_early(f"early{n}")
        case "expire":
            window.expire(n)
        case _:
            raise ValueError(move)


def looks(window: JoinWindow) -> dict[str, object]:
    """Everything that can be seen of a window."""
    held = [
        (s.start + i, s.ids[i], s.groups[i], s.rows.numbers[i].tolist(), s.versions[i].tolist())
        for s in window.since(0)
        for i in range(len(s))
    ]
    return {
        "first": window.first,
        "next": window.next,
        "counts": (window.evicted, window.orphans),
        "rows": held,
        "labels": {p: window.label_at(p) for p in range(window.first, window.next)},
        "known": [window.position_of(f"e{i}") for i in range(window.next)],
        "early": list(window.early.items()),
    }


@settings(max_examples=60, deadline=None)
@given(moves)
def test_bounds_hold_after_any_history(history: list[tuple[str, int]]) -> None:
    window = JoinWindow(CAPACITY, early_capacity=5)
    joined = 0
    for move, n in history:
        if move == "commit":
            window.clear_changes()
            continue
        apply(window, move, n)
        joined += len(window.labelled)
        window.labelled.clear()
        assert len(window) <= CAPACITY
        assert len(window.early) <= 5
        assert sum(len(s) for s in window.since(0)) == len(window)
        assert len(window._index) == len(window)
    unlabelled = sum(window.label_at(p) is None for p in range(window.first, window.next))
    assert window.evicted + unlabelled + joined == window.next


@settings(max_examples=60, deadline=None)
@given(history=moves)
def test_a_window_restored_at_any_cut_is_the_live_one(
    history: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("window")
    configured = parse_settings(
        {
            "model": {"name": "m"},
            "join": {"window_events": CAPACITY, "early_labels": 5},
            "state_dir": str(folder),
        }
    )
    file = StateFile(folder / "s.sqlite", "m")
    assert file.acquire(0.0)
    live = EngineState(configured)
    try:
        for move, n in [*history, ("commit", 0)]:
            if move != "commit":
                apply(live.window, move, n)
                continue
            file.commit(b"", live.changes(Outcome()), 0.0)
            restored = load_state(configured, file)
            assert looks(restored.window) == looks(live.window)
    finally:
        file.close()


def test_a_label_finds_its_row_as_it_was() -> None:
    window = JoinWindow(CAPACITY, 5)
    for start in range(0, 700, 70):
        window.append(scored(start, [f"e{i}" for i in range(start, start + 70)]))
    for position in (0, 69, 70, BLOCK - 1, BLOCK, 699):
        joined = window.join(position, 1.0)
        assert joined.id == f"e{position}"
        assert joined.group == (f"g{position}" if position % 3 == 0 else None)
        assert joined.versions == (position,) * 3
        assert joined.answers == pytest.approx((position * 0.1,) * 3)
        assert (joined.served, joined.weight_pct) == (position % 2, position % 100)
        rows, i = window.row(position)
        assert rows.numbers[i, 0] == position + 0.5


def test_the_oldest_leave_a_block_at_a_time() -> None:
    window = JoinWindow(CAPACITY, 5)
    window.append(scored(0, [f"e{i}" for i in range(CAPACITY)]))
    window.join(3, 1.0)
    window.append(scored(CAPACITY, ["one more"]))
    assert (window.first, window.evicted) == (BLOCK, BLOCK - 1)
    assert window.position_of("e0") is None
    assert window.position_of(f"e{BLOCK}") == BLOCK
    assert window.label_at(3) is None


def test_a_position_is_found_by_time() -> None:
    window = JoinWindow(CAPACITY, 5)
    for start in range(0, 600, 100):
        names = [f"e{i}" for i in range(start, start + 100)]
        window.append(scored(start, names, time_ms=start))
    assert [window.position_at(t) for t in (0, 1, 100, 499, 500, 501)] == [
        0,
        100,
        100,
        500,
        500,
        600,
    ]
