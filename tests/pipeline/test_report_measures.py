import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.measures import (
    StreamLosses,
    events_to_recover,
    first_events,
    kappa_temporal,
    no_change_accuracy,
    recovery,
    rolling_accuracy,
    score,
)


def stream(served: list[float], start: int = 0) -> StreamLosses:
    n = len(served)
    return StreamLosses(
        np.arange(start, start + n, dtype=np.int64), np.array(served, float), np.zeros(n)
    )


def test_no_change_by_hand() -> None:
    truth = ["a", "a", "b", "b", "b", "a"]
    assert no_change_accuracy(truth) == 3 / 6
    # one event late: nothing, nothing, a/b, a/b, b/b, b/a
    assert no_change_accuracy(truth, delay=1) == 1 / 6
    # only the labels of events 0 and 3 arrive: -, a/a, a/b, a/b, b/b, b/a
    some = np.array([True, False, False, True, False, False])
    assert no_change_accuracy(truth, 0, some) == 2 / 6
    assert no_change_accuracy([]) is None


def test_kappa_temporal_by_hand() -> None:
    assert kappa_temporal(0.853, 0.853) == 0.0
    assert kappa_temporal(0.8, 0.9) == pytest.approx(-1.0)
    assert kappa_temporal(1.0, 1.0) is None
    assert kappa_temporal(None, 0.5) is None


def test_recovery_is_the_least_n_whose_next_50_are_good() -> None:
    losses = np.array([1.0] * 30 + [0.0] * 100)
    # of the window that starts at n, 30 - n are wrong: 0.95 * 1.0 allows 2 of 50
    assert events_to_recover(losses, 1.0) == 28
    assert events_to_recover(losses, 0.5) == 4  # 0.475 of 50 are 23.75 right: 26 wrong are too many
    assert events_to_recover(losses[:60], 1.0) is None  # censored: the good part is too short
    assert events_to_recover(np.zeros(50), 1.0) == 0
    assert events_to_recover(np.zeros(49), 1.0) is None


def test_recovery_against_an_oracle_or_what_was_before() -> None:
    served = [0.0] * 200 + [1.0] * 50 + [0.0] * 150
    against_oracle = recovery(stream(served), 200, 400, oracle=0.9)
    assert against_oracle is not None
    assert against_oracle.against == "oracle"
    assert against_oracle.area_lost == pytest.approx(0.9 * 200 - 150)
    before = recovery(stream(served), 200, 400, oracle=None)
    assert before is not None
    assert (before.against, before.reference, before.area_lost) == ("before", 1.0, None)
    assert before.events == 48
    assert recovery(stream(served[200:], start=200), 200, 400, oracle=None) is None


def test_first_events_go_by_position_not_by_how_many_are_labelled() -> None:
    sparse = StreamLosses(
        np.arange(0, 300, 10, dtype=np.int64), np.zeros(30), np.ones(30), ("a",) * 30
    )
    assert first_events(sparse, 100, 300, 50).position.tolist() == [100, 110, 120, 130, 140]
    assert first_events(sparse, 100, 120, 50).position.tolist() == [100, 110]


def test_scores() -> None:
    assert score(np.array([0.5, 0.0]), classification=False).loss == 0.25
    assert score(np.array([0.5, 0.0]), classification=False).accuracy is None
    empty = score(np.array([]), classification=True)
    assert (empty.events, empty.accuracy, empty.loss) == (0, None, None)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 20))
def test_rolling_accuracy_is_the_mean_of_the_window(losses: list[float], window: int) -> None:
    found = rolling_accuracy(np.array(losses), window)
    expected = [1 - np.mean(losses[max(0, i + 1 - window) : i + 1]) for i in range(len(losses))]
    assert found == pytest.approx(expected, abs=1e-9)


def test_arrays_that_do_not_fit_are_refused() -> None:
    two, one = np.arange(2, dtype=np.int64), np.zeros(1)
    with pytest.raises(ValueError, match="2 positions, 1 served"):
        StreamLosses(two, one, one)
    with pytest.raises(ValueError, match="positions must rise"):
        StreamLosses(two[::-1], np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="served losses must lie"):
        StreamLosses(two, np.array([0.0, 2.0]), np.zeros(2))
    with pytest.raises(ValueError, match="2 positions, 3 truths"):
        StreamLosses(two, np.zeros(2), np.zeros(2), ("a",) * 3)
