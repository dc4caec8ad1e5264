"""The betting tests: hand-computed wealth, wrong verdicts under peeking, labels to a verdict."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.sequential import BETS, BettingTest, no_evidence, observe


def wealth_paths(x, margin):
    """The e-process of every stream ``(streams, n)`` after every observation, in numpy."""
    stakes = np.array(BETS)[:, None, None] / (1.0 + margin)
    return np.exp(np.cumsum(np.log1p(stakes * (x - margin)), axis=-1)).mean(axis=0)


def differences(rng, streams, n, stable_error, candidate_error):
    """0/1 loss differences of two models that err independently."""
    stable = rng.random((streams, n)) < stable_error
    candidate = rng.random((streams, n)) < candidate_error
    return stable.astype(float) - candidate


def first_crossings(paths, alpha):
    """Labels until each path reaches 1 / alpha; inf where it never does."""
    crossed = paths >= 1.0 / alpha
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, math.inf)


def test_wealth_equals_the_product_worked_out_by_hand():
    test = BettingTest.start(0.0).observe(1.0).observe(0.0).observe(-1.0)
    by_hand = sum((1 + bet) * (1 - bet) for bet in BETS) / len(BETS)
    assert test.e_value() == pytest.approx(by_hand, rel=1e-12)
    assert test.n == 3


def test_the_margin_shifts_the_bets_and_keeps_them_admissible():
    for margin in (-0.9, -0.05, 0.05, 0.9):
        worst = BettingTest.start(margin).observe(-1.0)
        assert all(math.isfinite(wealth) for wealth in worst.log_wealth)
        assert worst.e_value() < 1.0
        even = BettingTest.start(margin).observe(margin)
        assert even.e_value() == pytest.approx(1.0)


@pytest.mark.parametrize("margin", [0.0, 0.05, -0.05])
@pytest.mark.parametrize("kind", ["zero-one", "continuous"])
def test_scalar_and_vectorised_wealth_agree(margin, kind):
    rng = np.random.default_rng(3)
    x = differences(rng, 5, 200, 0.4, 0.2) if kind == "zero-one" else rng.uniform(-1, 1, (5, 200))
    paths = wealth_paths(x, margin)
    for stream, path in zip(x, paths, strict=True):
        test = BettingTest.start(margin)
        for value, wealth in zip(stream, path, strict=True):
            test = test.observe(float(value))
            assert test.e_value() == pytest.approx(wealth, rel=1e-9)


@pytest.mark.parametrize(("error", "alpha"), [(0.3, 0.05), (0.5, 0.05), (0.1, 0.05), (0.3, 0.01)])
def test_wrong_pass_rate_with_a_look_after_every_label(error, alpha):
    rng = np.random.default_rng(11)
    paths = wealth_paths(differences(rng, 2000, 1000, error, error), 0.0)
    rate = np.isfinite(first_crossings(paths, alpha)).mean()
    # Three standard errors above alpha would be a wrong theorem or a wrong formula.
    assert rate <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 2000)


def test_wrong_fail_rate_of_a_candidate_at_the_edge_of_the_acceptable():
    rng = np.random.default_rng(12)
    paths = wealth_paths(-differences(rng, 2000, 1000, 0.30, 0.35), 0.05)
    assert np.isfinite(first_crossings(paths, 0.05)).mean() <= 0.065


@pytest.mark.parametrize(
    ("before", "after", "most", "least"), [(0.30, 0.10, 46, 25), (0.50, 0.05, 20, 8)]
)
def test_median_labels_to_pass(before, after, most, least):
    rng = np.random.default_rng(13)
    paths = wealth_paths(differences(rng, 4000, 400, before, after), 0.0)
    labels = first_crossings(paths, 0.05)
    print(f"{before} to {after}: median {np.median(labels)}, mean {labels.mean():.1f}")
    assert least <= np.median(labels) <= most


def test_small_differences_of_a_regression_are_found_too():
    rng = np.random.default_rng(14)
    stable = np.clip(np.abs(rng.normal(0, 0.3, (500, 400))), 0, 1)
    candidate = np.clip(stable - 0.05 + rng.normal(0, 0.1, (500, 400)), 0, 1)
    labels = first_crossings(wealth_paths(stable - candidate, 0.0), 0.05)
    assert np.median(labels) < 250


def test_evidence_counts_what_it_saw():
    evidence = no_evidence(0.0, 0.05)
    for stable, candidate, served in [(1.0, 0.0, True), (0.0, 1.0, False), (1.0, 1.0, False)]:
        evidence = observe(evidence, stable, candidate, served)
    assert (evidence.n, evidence.wins, evidence.losses) == (3, 1, 1)
    assert (evidence.n_candidate_served, evidence.n_stable_served) == (1, 2)
    assert (evidence.loss_stable, evidence.loss_candidate, evidence.gain) == (2.0, 2.0, 0.0)
    assert evidence.better.n == evidence.worse.n == evidence.safe.n == 3


def test_worse_and_better_are_mirror_images_at_no_margin():
    up, down = BettingTest.start(0.0), BettingTest.start(0.0)
    for x in (1.0, 0.3, -0.7, 1.0):
        up, down = up.observe(x), down.observe(-x)
    assert up.e_value() > 1.0 > down.e_value()


@given(st.lists(st.floats(-1, 1), max_size=300))
def test_the_e_value_stays_finite_and_positive(xs):
    test = BettingTest.start(0.0)
    for x in xs:
        test = test.observe(x)
    assert 0.0 <= test.e_value() < math.inf
    assert math.isfinite(test.log_e())


def test_a_very_long_stream_overflows_nothing():
    test = BettingTest.start(0.0)
    for _ in range(5000):
        test = test.observe(1.0)
    assert test.e_value() == math.exp(700.0)
    assert test.rejects(1e-300)


@pytest.mark.parametrize("x", [1.01, -1.5, math.nan, math.inf])
def test_values_outside_the_range_are_refused(x):
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        BettingTest.start(0.0).observe(x)


@pytest.mark.parametrize("losses", [(1.2, 0.0), (0.0, -0.1), (math.nan, 0.0)])
def test_losses_outside_the_range_are_refused(losses):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        observe(no_evidence(0.0, 0.05), *losses, False)


def test_margins_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match="margin"):
        BettingTest.start(1.0)
    with pytest.raises(ValueError, match="acceptable_harm"):
        no_evidence(0.0, 0.0)
    with pytest.raises(ValueError, match="least_gain"):
        no_evidence(1.0, 0.1)
