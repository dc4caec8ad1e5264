"""Harm to the classes that a champion names: shown, or to be taken for chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from pipeline.new_class_episode import KnownClasses, known_classes

RISK, ACCEPTABLE = 0.05, 0.05


def judged(n: int, worse: int, better: int = 0, risk: float = RISK) -> KnownClasses:
    """Judge a candidate that errs anew on some of ``n`` labels, and mends some errors."""
    champion, candidate = np.zeros(n), np.zeros(n)
    candidate[:worse] = 1.0
    champion[worse : worse + better] = 1.0
    return known_classes(champion, candidate, acceptable=ACCEPTABLE, risk=risk)


@pytest.mark.parametrize(
    ("n", "worse", "better", "harmed"),
    [
        (10, 1, 0, False),  # one error in ten says nothing
        (10, 4, 0, False),  # p = 1/16
        (10, 5, 0, True),  # p = 1/32
        (40, 8, 0, True),
        (40, 8, 4, False),  # p = 0.19
        (40, 12, 2, True),
        (200, 5, 0, False),  # shown, and less than is acceptable
        (200, 11, 0, True),
        (40, 0, 8, False),
    ],
)
def test_harm_refuses_when_it_is_too_much_and_more_than_chance(
    n: int, worse: int, better: int, *, harmed: bool
) -> None:
    seen = judged(n, worse, better)
    assert seen.harmed is harmed
    assert seen.n == n
    assert seen.rise == pytest.approx((worse - better) / n)
    assert f"on {n} labels of known classes" in seen.reason


def test_without_a_label_of_them_nothing_speaks_for_the_candidate() -> None:
    seen = judged(0, 0)
    assert seen.harmed
    assert "no holdout label" in seen.reason


@given(st.integers(1, 60), st.sampled_from([0.01, 0.05, 0.2]))
def test_a_harmless_candidate_is_refused_no_more_often_than_the_risk(
    changed: int, risk: float
) -> None:
    """Exactly: each of the labels that it changes is as likely mended as spoilt."""
    refused = sum(
        float(binom.pmf(worse, changed, 0.5))
        for worse in range(changed + 1)
        if judged(changed, worse, changed - worse, risk).harmed
    )
    assert refused <= risk


def test_harm_of_a_fifth_is_found_on_forty_labels_nine_times_in_ten() -> None:
    found = sum(float(binom.pmf(w, 40, 0.2)) for w in range(41) if judged(40, w).harmed)
    assert found > 0.9


def test_graded_losses_are_judged_by_signs_too() -> None:
    champion = np.full(30, 0.2)
    assert known_classes(champion, champion + 0.1, acceptable=0.05, risk=0.05).harmed
    assert not known_classes(champion, champion + 0.04, acceptable=0.05, risk=0.05).harmed
