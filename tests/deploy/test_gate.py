"""The holdout gate: exact tests, least rows, four verdicts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from deploy.gate import (
    gate_power,
    judge_holdout,
    least_holdout,
    mcnemar_p,
    sign_flip_p,
)
from deploy.rollout_plan import Verdict


def losses(wins, worse, both_wrong=0, both_right=0):
    """Champion and candidate 0/1 losses with so many rows of each kind."""
    champion = [1.0] * wins + [0.0] * worse + [1.0] * both_wrong + [0.0] * both_right
    candidate = [0.0] * wins + [1.0] * worse + [1.0] * both_wrong + [0.0] * both_right
    return np.array(champion), np.array(candidate)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_one_sided_sign_test(wins, worse):
    expected = (
        binomtest(wins, wins + worse, 0.5, alternative="greater").pvalue if wins + worse else 1
    )
    assert mcnemar_p(wins, worse) == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "expected"), [(10, 0.07), (20, 0.29), (40, 0.64)])
def test_power_is_the_designs(rows, expected):
    assert gate_power(rows, 0.30, 0.10, 0.05) == pytest.approx(expected, abs=0.005)


def test_power_agrees_with_simulation():
    rng = np.random.default_rng(2)
    passed = 0
    for _ in range(2000):
        champion, candidate = rng.random((2, 30)) < np.array([[0.4], [0.1]])
        wins, worse = int((champion & ~candidate).sum()), int((candidate & ~champion).sum())
        passed += mcnemar_p(wins, worse) <= 0.05
    assert passed / 2000 == pytest.approx(gate_power(30, 0.4, 0.1, 0.05), abs=0.035)


@pytest.mark.parametrize(("before", "after"), [(0.3, 0.1), (0.5, 0.05), (0.25, 0.2)])
def test_least_holdout_is_the_least(before, after):
    n_min = least_holdout(before, after, 0.05, 0.8)
    assert gate_power(n_min, before, after, 0.05) >= 0.8
    assert gate_power(n_min - 1, before, after, 0.05) < 0.8


def test_least_holdout_refuses_what_no_holdout_shows():
    with pytest.raises(ValueError, match="do not show a fall"):
        least_holdout(0.30, 0.2999, 0.05, 0.8)
    with pytest.raises(ValueError, match="below target_from"):
        least_holdout(0.1, 0.3)
    with pytest.raises(ValueError, match="power"):
        least_holdout(0.3, 0.1, 0.05, 1.0)


def test_pass_with_its_numbers():
    result = judge_holdout(*losses(wins=9, worse=1, both_right=10), n_min=16)
    assert result.verdict is Verdict.PASS and result.may_enter_canary
    assert (result.n, result.wins, result.losses) == (20, 9, 1)
    assert result.p_value == pytest.approx(11 / 1024)
    assert "0.45 to 0.05 on 20 rows" in result.reason and "<= 0.05" in result.reason


def test_the_least_rows_are_enough():
    assert judge_holdout(*losses(9, 1), n_min=10).verdict is Verdict.PASS
    assert judge_holdout(*losses(9, 1), n_min=11).verdict is Verdict.INCONCLUSIVE


def test_enough_rows_and_no_gain_is_refused():
    result = judge_holdout(*losses(wins=5, worse=3, both_right=12), n_min=16)
    assert result.verdict is Verdict.FAIL and not result.may_enter_canary
    assert "refused" in result.reason and "p=0.363 > 0.05" in result.reason


@pytest.mark.parametrize(("wins", "worse", "may"), [(8, 0, True), (3, 3, True), (2, 3, False)])
def test_too_few_rows_are_inconclusive_and_the_mean_decides_on_the_first_step(wins, worse, may):
    result = judge_holdout(*losses(wins, worse, both_right=2), n_min=16)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.may_enter_canary is may
    assert "below 16 rows" in result.reason


def test_no_rows_open_no_door():
    result = judge_holdout(np.array([]), np.array([]), n_min=16)
    assert result.verdict is Verdict.INCONCLUSIVE and not result.may_enter_canary


@pytest.mark.parametrize(
    ("champion", "candidate", "overlap", "word"),
    [
        ([0.0, 1.0], [0.0], 0, "shapes"),
        ([0.0, np.nan], [0.0, 0.0], 0, "champion loss"),
        ([0.0, 1.0], [0.0, 1.5], 0, "candidate loss"),
        ([1.0] * 20, [0.0] * 20, 1, "lineage"),
    ],
)
def test_what_cannot_be_compared_is_an_error(champion, candidate, overlap, word):
    result = judge_holdout(np.array(champion), np.array(candidate), n_min=1, overlap=overlap)
    assert result.verdict is Verdict.ERROR and not result.may_enter_canary
    assert word in result.reason


@pytest.mark.parametrize(("risk", "n_min"), [(0.0, 16), (1.0, 16), (0.05, 0)])
def test_risk_and_least_rows_out_of_range_are_refused(risk, n_min):
    with pytest.raises(ValueError, match=rf"risk \({risk}\).*n_min \({n_min}\)"):
        judge_holdout(*losses(9, 1), n_min=n_min, risk=risk)


def test_sign_flips_agree_with_mcnemar_on_zero_one_losses():
    for wins, worse in [(9, 1), (6, 3), (12, 4)]:
        gains = np.array([1.0] * wins + [-1.0] * worse + [0.0] * 5)
        assert sign_flip_p(gains) == pytest.approx(mcnemar_p(wins, worse), abs=0.012)


def test_regression_passes_a_gain_and_repeats_bit_for_bit():
    rng = np.random.default_rng(4)
    champion = np.clip(np.abs(rng.normal(0, 0.3, 60)), 0, 1)
    candidate = champion * 0.6
    first = judge_holdout(champion, candidate, n_min=50)
    assert first.verdict is Verdict.PASS
    assert first == judge_holdout(champion, candidate, n_min=50)


def test_regression_wrong_pass_rate():
    rng = np.random.default_rng(5)
    passed = 0
    for _ in range(200):
        champion, candidate = np.clip(np.abs(rng.normal(0, 0.3, (2, 25))), 0, 1)
        passed += judge_holdout(champion, candidate, n_min=20).verdict is Verdict.PASS
    assert passed / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_identical_models_never_pass():
    same = np.array([0.1, 0.7, 0.3] * 10)
    assert judge_holdout(same, same, n_min=5).verdict is Verdict.FAIL
    zero_one = np.array([0.0, 1.0] * 15)
    assert judge_holdout(zero_one, zero_one, n_min=5).p_value == 1.0
