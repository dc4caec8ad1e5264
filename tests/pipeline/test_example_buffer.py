"""The buffer: bounded, packed without loss, and the same after any restart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine_state import EngineState, load_state
from pipeline.example_buffer import Example, ExampleBuffer, rows_of
from pipeline.records import Outcome
from pipeline.settings import parse_settings
from pipeline.state_file import StateFile

CAPACITY = 50


def example(number: int, name: str | None = None, label: float = 0.0) -> Example:
    """An example whose content follows from its number."""
    return Example(
        number=number,
        position=number * 2,
        id=name or f"e{number}",
        group=None if number % 2 else f"g{number}",
        label=label,
        numbers=np.array([number, np.nan, -0.0]),
        categories=("a", None),
        version=1,
        answer=float("nan") if number % 5 == 0 else 1.0,
        own_features=number % 7 == 0,
    )


@given(st.builds(example, st.integers(0, 2**40), st.text(min_size=1), st.floats()))
def test_an_example_is_packed_without_loss(one: Example) -> None:
    again = Example.unpack(one.pack())
    assert again.pack() == one.pack()
    assert (again.id, again.group, again.own_features) == (one.id, one.group, one.own_features)
    np.testing.assert_array_equal(again.numbers, one.numbers)


moves = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 30)),
        st.tuples(st.just("correct"), st.integers(0, 150)),
        st.tuples(st.just("commit"), st.just(0)),
    ),
    max_size=20,
)


def looks(buffer: ExampleBuffer) -> list[bytes]:
    """Everything that can be seen of a buffer."""
    return [e.pack() for e in buffer.all()]


@settings(max_examples=60, deadline=None)
@given(history=moves)
def test_bounds_hold_and_a_buffer_restored_at_any_cut_is_the_live_one(
    history: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("buffer")
    configured = parse_settings(
        {
            "model": {"name": "m"},
            "episode": {"support": 10, "query": 5, "holdout": 5, "buffer_examples": CAPACITY},
            "state_dir": str(folder),
        }
    )
    file = StateFile(folder / "s.sqlite", "m")
    assert file.acquire(0.0)
    live = EngineState(configured)
    buffer, added = live.buffers["*"], 0
    try:
        for move, n in [*history, ("commit", 0)]:
            if move == "add":
                for _ in range(n):
                    buffer.add(example(added))
                    added += 1
            elif move == "correct":
                held = buffer.find(f"e{n}")
                assert buffer.correct(f"e{n}", 9.0) == (held is not None)
            else:
                file.commit(b"", live.changes(Outcome()), 0.0)
                assert looks(load_state(configured, file).buffers["*"]) == looks(buffer)
            assert len(buffer) == min(added, CAPACITY)
            held_numbers = [e.number for e in buffer.all()]
            assert held_numbers == list(range(max(0, added - CAPACITY), added))
    finally:
        file.close()


def test_since_leaves_out_what_was_never_an_event() -> None:
    buffer = ExampleBuffer(CAPACITY)
    for number in range(20):
        buffer.add(example(number))
    assert [e.number for e in buffer.since(20)] == [10, 11, 12, 13, 15, 16, 17, 18, 19]


def test_a_correction_changes_the_label_alone() -> None:
    buffer = ExampleBuffer(CAPACITY)
    buffer.add(example(3, label=1.0))
    assert buffer.correct("e3", 2.0)
    found = buffer.find("e3")
    assert found is not None
    assert found.pack() == example(3, label=2.0).pack()
    assert not buffer.correct("unknown", 2.0)


def test_an_id_that_came_back_is_found_under_its_last_example() -> None:
    buffer = ExampleBuffer(2)
    for number in range(4):
        buffer.add(example(number, name="same" if number in (0, 3) else None))
    found = buffer.find("same")
    assert found is not None
    assert found.number == 3


def test_rows_keep_order_and_categories() -> None:
    rows = rows_of([example(2), example(1)])
    assert rows.numbers[:, 0].tolist() == [2.0, 1.0]
    assert rows.categories == (("a", None), ("a", None))
