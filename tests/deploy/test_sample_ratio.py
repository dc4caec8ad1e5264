"""Sample-ratio checks: sound shares pass, skewed ones are named."""

import math

import numpy as np
import pytest

from deploy.sample_ratio import ODDS_RATIOS, RatioCounts


def test_log_e_equals_the_likelihood_ratio_worked_out_by_hand():
    counts = RatioCounts().add(20, events=3, by_candidate=2)
    ratios = []
    for theta in ODDS_RATIOS:
        q = 0.2 * theta / (0.8 + 0.2 * theta)
        ratios.append((q / 0.2) ** 2 * ((1 - q) / 0.8))
    assert counts.log_e() == pytest.approx(math.log(sum(ratios) / len(ratios)))


def test_cutting_the_events_differently_changes_nothing():
    whole = RatioCounts().add(5, 100, 7).add(25, 40, 9)
    cut = RatioCounts()
    for weight, events, by_candidate in [(25, 30, 9), (5, 60, 2), (25, 10, 0), (5, 40, 5)]:
        cut = cut.add(weight, events, by_candidate)
    assert cut == whole
    assert cut.events == 140


def test_false_alarms_with_a_look_after_every_batch_and_changing_weights():
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(400):
        counts = RatioCounts()
        for weight in (5, 25, 50):
            for _ in range(20):
                counts = counts.add(weight, 20, int(rng.binomial(20, weight / 100)))
                if counts.skew(0.05) is not None:
                    alarms += 1
                    break
            else:
                continue
            break
    assert alarms / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(("weight", "real"), [(50, 0.35), (25, 0.40), (5, 0.20)])
def test_skewed_shares_are_found(weight, real):
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(50):
        counts = RatioCounts()
        for _ in range(30):
            counts = counts.add(weight, 20, int(rng.binomial(20, real)))
        found += counts.skew(0.001) is not None
    assert found >= 45


def test_the_reason_has_the_numbers():
    skew = RatioCounts().add(50, 100, 10).skew(0.001)
    assert skew is not None
    assert "10 of 100" in skew and "50.0" in skew and "1/0.001" in skew


def test_impossible_answers_are_skewed_at_once():
    assert RatioCounts().add(0, 100, 0).skew(0.001) is None
    assert RatioCounts().add(100, 100, 100).skew(0.001) is None
    assert RatioCounts().add(0, 100, 1).skew(0.001) is not None
    assert RatioCounts().add(100, 100, 99).skew(0.001) is not None


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="weight_pct"):
        RatioCounts().add(101, 1, 0)
    with pytest.raises(ValueError, match="by_candidate"):
        RatioCounts().add(5, 1, 2)
