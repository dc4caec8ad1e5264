import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data_file import FileRow
from pipeline.label_schedule import EventItem, LabelItem, schedule


def rows(n: int, unlabelled: frozenset[int] = frozenset()) -> list[FileRow]:
    return [
        FileRow(
            i, f"r-{i}", 1000 * i, {"x": i}, None if i in unlabelled else "a", None, None, False
        )
        for i in range(n)
    ]


def words(items: object) -> str:
    return " ".join(
        f"{'e' if isinstance(i, EventItem) else 'l'}{i.row.index}"
        for i in items  # type: ignore[attr-defined]
    )


def test_a_label_follows_the_event_that_is_n_later() -> None:
    assert words(schedule(rows(4), label_delay=2)) == "e0 e1 e2 l0 e3 l1 l2 l3"
    assert words(schedule(rows(2))) == "e0 l0 e1 l1"
    assert words(schedule(rows(4, frozenset({1})), label_delay=1)) == "e0 e1 l0 e2 e3 l2 l3"


def test_a_label_has_the_time_of_the_event_before_it() -> None:
    times = [i.ts_ms for i in schedule(rows(4), label_delay=2) if isinstance(i, LabelItem)]
    assert times == [2000, 3000, 3000, 3000]


@given(st.integers(0, 40), st.integers(0, 50), st.floats(0, 1), st.integers(0, 9))
def test_laws(n: int, delay: int, fraction: float, seed: int) -> None:
    items = list(schedule(rows(n), fraction, delay, seed))
    events = [i.row.index for i in items if isinstance(i, EventItem)]
    labels = [i.row.index for i in items if isinstance(i, LabelItem)]
    assert events == list(range(n))
    assert labels == sorted(set(labels))
    assert items == list(schedule(rows(n), fraction, delay, seed))
    same_choice = schedule(rows(n), fraction, 0, seed)
    assert labels == [i.row.index for i in same_choice if isinstance(i, LabelItem)]
    place = {(type(i), i.row.index): k for k, i in enumerate(items)}
    for label in labels:
        assert place[LabelItem, label] > place[EventItem, min(label + delay, n - 1)]


def test_the_fraction_is_met_and_the_source_is_read_lazily() -> None:
    labels = sum(isinstance(i, LabelItem) for i in schedule(rows(4000), 0.2, 5, 7))
    assert 700 < labels < 900
    endless = (r for _ in itertools.count() for r in rows(1))
    assert isinstance(next(schedule(endless, 1.0, 10)), EventItem)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="use 0 to 1"):
        schedule([], label_fraction=1.5)
    with pytest.raises(ValueError, match="0 or more events"):
        schedule([], label_delay=-1)
