"""Bets on whether a model still explains the labels: right by hand, and seldom wrong."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.loss_evidence import Reference, weigh

REFERENCE = Reference(99, 0.195)  # held to (99 * .195 + .5) / 100 = .198
BOUNDS = {"within": 0.2, "slack": 0.05, "level": 0.05}


def test_the_evidence_is_the_mean_of_two_likelihood_ratios() -> None:
    """Three right answers and an error, against a mean loss of .398 or more."""
    found = weigh(np.array([0.0, 0.0, 0.0, 1.0]), REFERENCE, **BOUNDS)
    held, bound = 0.19805, 0.39805
    ratios = [((1 - q) / (1 - bound)) ** 3 * q / bound for q in (held, held / 2)]
    assert found.e_explains == pytest.approx(sum(ratios) / 2)
    assert found.loss == 0.25
    assert found.standing == "open"


@pytest.mark.parametrize(("share", "standing"), [(0.2, "explains"), (0.7, "fails")])
def test_enough_labels_decide(share: float, standing: str) -> None:
    losses = (np.random.default_rng(0).random(400) < share).astype(float)
    assert weigh(losses, REFERENCE, **BOUNDS).standing == standing


def test_a_burst_of_wrong_labels_is_outweighed_by_what_follows() -> None:
    losses = np.concatenate([np.ones(8), np.zeros(150)])
    assert weigh(losses[:8], REFERENCE, **BOUNDS).standing == "fails"
    assert weigh(losses, REFERENCE, **BOUNDS).standing == "explains"


@pytest.mark.parametrize(("mean", "wrong"), [(0.398, "explains"), (0.248, "fails")])
def test_at_the_bound_a_wrong_call_is_as_rare_as_stated(mean: float, wrong: str) -> None:
    """500 runs of 300 labels, 30 looks each; three standard deviations above 5 % is 8 %."""
    rng = np.random.default_rng(1)
    graded = rng.beta(0.4, 0.4 * (1 - mean) / mean, (1000, 300))
    crisp = (rng.random((1000, 300)) < mean).astype(float)
    for losses in (graded, crisp):
        ever = [
            any(weigh(run[:n], REFERENCE, **BOUNDS).standing == wrong for n in range(10, 301, 10))
            for run in losses[:500]
        ]
        assert sum(ever) / 500 <= 0.08


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1), max_size=40),
    st.floats(0, 1),
    st.floats(0.01, 0.3),
    st.floats(0.3, 0.9),
)
def test_any_losses_and_any_reference_give_finite_evidence(
    losses: list[float], reference: float, slack: float, within: float
) -> None:
    found = weigh(
        np.array(losses), Reference(50, reference), within=within, slack=slack, level=0.01
    )
    assert math.isfinite(found.e_explains) and math.isfinite(found.e_fails)
    assert found.labels == len(losses)


def test_a_model_without_reference_stays_open() -> None:
    assert weigh(np.zeros(500), Reference(0, 0.0), **BOUNDS).standing == "open"


def test_wrong_bounds_and_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="slack <= within"):
        weigh(np.zeros(3), REFERENCE, within=0.1, slack=0.2, level=0.05)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        weigh(np.array([1.5]), REFERENCE, **BOUNDS)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        weigh(np.array([np.nan]), REFERENCE, **BOUNDS)
