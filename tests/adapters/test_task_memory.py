"""The memory of confirmed tasks: bounded, taken back with a promotion, the same after packing."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.examples import Examples
from adapters.feature_schema import Rows
from adapters.input_profile import InputProfile
from adapters.loss_evidence import Reference
from adapters.task_memory import (
    ConfirmedTask,
    KeptExamples,
    Signature,
    TaskMemory,
    TaskMemoryError,
)

EXAMPLES = Examples(
    Rows(np.array([[0.1, np.nan], [2.0, 3.0]]), (("a",), (None,))),
    ("up", "down"),
    keys=np.array([7, 2**63], np.uint64),
)


def task(number: int, used: int = 0, *, first: bool = False) -> ConfirmedTask:
    inputs = InputProfile.of(EXAMPLES.rows)
    return ConfirmedTask(
        f"{number}-x",
        f"sha256:{number}",
        Signature(Reference(40, 0.1), inputs),
        KeptExamples.of(EXAMPLES),
        used or number,
        first,
    )


def names(memory: TaskMemory) -> list[str]:
    return [t.name for t in memory.tasks]


def filled(n: int, most: int = 9, keep: tuple[str, ...] = ()) -> TaskMemory:
    memory = TaskMemory()
    for number in range(1, n + 1):
        memory = memory.promoted(task(number, first=number == 1), most=most, keep=keep).settled()
    return memory


def test_the_least_recently_used_task_is_forgotten_but_for_the_first_and_kept_ones() -> None:
    assert names(filled(5, most=3)) == ["1-x", "4-x", "5-x"]
    assert names(filled(5, most=3, keep=("2-x",))) == ["1-x", "2-x", "5-x"]
    used = filled(4).used("2-x", 99)
    assert names(used) == ["1-x", "3-x", "4-x", "2-x"]
    assert names(used.promoted(task(100, 100), most=4)) == ["1-x", "4-x", "2-x", "100-x"]


def test_a_task_that_reigned_again_takes_the_place_of_its_old_entry() -> None:
    again = msgspec.structs.replace(task(2), used=50, signature=Signature(Reference(9, 0.3), None))
    memory = filled(3).promoted(again, most=9)
    assert names(memory) == ["1-x", "3-x", "2-x"]
    found = memory.find("2-x")
    assert found is not None
    assert found.signature.reference.loss == 0.3


def test_the_champion_is_not_recalled_and_the_newest_comes_first() -> None:
    assert [t.name for t in filled(3).others("sha256:2")] == ["3-x", "1-x"]


def test_a_promotion_that_is_taken_back_takes_its_memory_along() -> None:
    before = filled(3, most=3)
    promoted = before.promoted(task(4), most=3)
    assert names(promoted) == ["1-x", "3-x", "4-x"]
    assert promoted.used("3-x", 70).taken_back() == before
    assert promoted.settled().taken_back() == TaskMemory(promoted.tasks)
    unconfirmed = before.promoted(None, most=3)
    assert unconfirmed.tasks == before.tasks
    assert unconfirmed.taken_back() == before


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans()), max_size=30),
    st.integers(1, 4),
)
def test_it_never_holds_more_than_its_bound_and_the_first(
    moves: list[tuple[int, bool, bool]], most: int
) -> None:
    memory = TaskMemory()
    for at, (number, confirmed, survives) in enumerate(moves):
        former = task(number, at + 1, first=number == 1) if confirmed else None
        held = memory.tasks
        memory = memory.promoted(former, most=most)
        assert len(memory.tasks) <= max(most, 1)
        memory = memory.settled() if survives else memory.taken_back()
        assert survives or memory.tasks == held
        assert TaskMemory.unpack(memory.pack()) == memory


def test_examples_come_back_bit_for_bit() -> None:
    memory = TaskMemory.unpack(filled(2).promoted(task(3), most=9).pack())
    kept = memory.tasks[0].examples.unpacked()
    assert kept.rows.numbers.tobytes() == EXAMPLES.rows.numbers.tobytes()
    assert (kept.rows.categories, kept.labels) == (EXAMPLES.rows.categories, EXAMPLES.labels)
    assert kept.keys.tolist() == EXAMPLES.keys.tolist()
    assert len(KeptExamples.of(EXAMPLES.take([]))) == 0
    assert KeptExamples.of(EXAMPLES.take([])).unpacked().rows.numbers.shape == (0, 2)
    assert TaskMemory.unpack(b"") == TaskMemory()


def test_damaged_bytes_are_refused() -> None:
    with pytest.raises(TaskMemoryError, match="cannot be read"):
        TaskMemory.unpack(filled(2).pack()[:-3])
