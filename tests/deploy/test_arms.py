"""Arms: the share is the weight, and an id keeps its arm as the weight rises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.arms import arm_of, candidate_serves


@given(st.text(max_size=40), st.text(max_size=100), st.integers(0, 100), st.integers(0, 100))
def test_an_id_stays_with_the_candidate_as_the_weight_rises(name, salt, one, other):
    low, high = sorted((one, other))
    assert arm_of(name, salt, high) or not arm_of(name, salt, low)
    assert not arm_of(name, salt, 0)
    assert arm_of(name, salt, 100)


@pytest.mark.parametrize("weight", [1, 5, 25, 50, 90])
def test_the_share_is_the_weight(weight):
    ids = [f"event-{i}" for i in range(20_000)]
    share = candidate_serves(ids, "metadrift/7", weight).mean()
    assert share == pytest.approx(
        weight / 100, abs=4 * np.sqrt(weight * (100 - weight) / 1e4 / 2e4)
    )


def test_salts_draw_independently():
    ids = [f"event-{i}" for i in range(20_000)]
    first, second = (candidate_serves(ids, salt, 50) for salt in ("metadrift/1", "metadrift/2"))
    assert (first & second).mean() == pytest.approx(0.25, abs=0.02)


def test_a_batch_equals_its_events_one_by_one():
    ids = [f"event-{i}" for i in range(300)]
    assert candidate_serves(ids, "s", 30).tolist() == [arm_of(name, "s", 30) for name in ids]


def test_arms_never_change_between_releases():
    assert [arm_of(f"event-{i}", "metadrift/1", 50) for i in range(8)] == [
        *(False, False, False, False, False, True, False, False)
    ]


def test_a_weight_out_of_range_is_refused():
    with pytest.raises(ValueError, match="weight_pct"):
        candidate_serves(["a"], "s", 101)
