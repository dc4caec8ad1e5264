"""Single answers through a router: hand-computed bets, the null's law, preconditions, guards."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.rollout import (
    CanaryPlan,
    Phase,
    Rollout,
    Verdict,
    advance,
    judge,
    observe_answer,
    observe_assigned,
    observe_pair,
)
from deploy.sequential import BETS
from deploy.unpaired import UnpairedEvidence, no_unpaired_evidence, observe_one
from tests.deploy.canaries import answers, canary, labels

PLAN = CanaryPlan(weights=(25, 50), evidence="unpaired", longest_wait_labels=None)
shares = st.floats(0.01, 0.99)
losses = st.floats(0.0, 1.0)
seen = st.lists(st.tuples(losses, st.booleans(), shares), max_size=12)


def after(history) -> UnpairedEvidence:
    evidence = no_unpaired_evidence(0.02, 0.05)
    for loss, by_candidate, p in history:
        evidence = observe_one(evidence, loss, by_candidate=by_candidate, p=p)
    return evidence


def test_the_wealth_equals_the_product_worked_out_by_hand():
    evidence = no_unpaired_evidence(0.0, 0.05)
    evidence = observe_one(evidence, 1.0, by_candidate=False, p=0.2)  # centre 1/2
    evidence = observe_one(evidence, 0.0, by_candidate=True, p=0.4)  # .6 * 3/4 + .4 * 1/2 = .65
    by_hand = [
        (1 + bet * (0.5 / 0.8) / (0.5 / 0.2)) * (1 + bet * (0.65 / 0.4) / (0.65 / 0.6))
        for bet in BETS
    ]
    # The second range: max((1 - .65) / .4, .65 / .6) = .65 / .6.
    assert evidence.better.e_value() == pytest.approx(sum(by_hand) / len(BETS), rel=1e-12)
    assert (evidence.n_stable, evidence.n_candidate, evidence.gain) == (1, 1, 1.0)


def test_at_no_margin_a_bet_is_the_growth_optimal_e_variable_of_two_samples():
    """Turner, Ly and Grünwald: q_arm(loss) / q_mixture(loss) is 1 + lambda d for one lambda."""
    p, stable, candidate = 0.25, 0.4, 0.1
    mixture = (1 - p) * stable + p * candidate
    stake = (stable - candidate) * p * (1 - p) / (mixture * (1 - mixture))
    for loss in (0.0, 1.0):
        for by_candidate, q in ((True, candidate), (False, stable)):
            d = -(loss - mixture) / p if by_candidate else (loss - mixture) / (1 - p)
            ratio = q / mixture if loss else (1 - q) / (1 - mixture)
            assert 1 + stake * d == pytest.approx(ratio)


@given(seen, shares, losses, losses)
def test_no_bet_gains_under_its_null_whatever_came_before(history, p, stable, candidate):
    """The law behind everything: the conditional mean of every factor is at most 1.

    The factors are linear in the loss, so a loss equal to the mean stands for any law of it.
    """
    before = after(history)
    by_arm = {
        arm: observe_one(before, loss, by_candidate=arm, p=p)
        for arm, loss in ((True, candidate), (False, stable))
    }
    gain = stable - candidate
    for name, holds in (
        ("better", gain <= 0.02),
        ("worse", -gain <= 0.05),
        ("safe", gain <= -0.05),
    ):
        was = getattr(before, name).log_wealth
        for stake in range(len(BETS)):
            grown = {
                arm: math.exp(getattr(seen, name).log_wealth[stake] - was[stake])
                for arm, seen in by_arm.items()
            }
            mean = p * grown[True] + (1 - p) * grown[False]
            assert mean <= 1 + 1e-9 or not holds
            assert mean >= 1 - 1e-9 or holds  # and outside of it every bet gains


@given(seen)
def test_the_e_values_stay_finite_and_positive(history):
    evidence = after(history)
    for test in (evidence.better, evidence.worse, evidence.safe):
        assert math.isfinite(test.log_e()) and 0.0 <= test.e_value() < math.inf


@pytest.mark.parametrize("bad", [{"loss": 1.5}, {"loss": math.nan}, {"p": 0.0}, {"p": 1.0}])
def test_impossible_observations_are_refused(bad):
    given_ = {"loss": 0.0, "by_candidate": True, "p": 0.5, **bad}
    with pytest.raises(ValueError, match=r"loss|p must"):
        observe_one(no_unpaired_evidence(0.0, 0.05), **given_)


def test_a_bound_that_is_no_bound_is_refused():
    test = no_unpaired_evidence(0.0, 0.05).better
    with pytest.raises(ValueError, match="below the margin"):
        test.observe_above(1.0, 0.0)
    with pytest.raises(ValueError, match="finite number >= -1"):
        test.observe_above(-2.0, -1.0)


# ---------------------------------------------------------------- in a rollout


def ends(stable: float, candidate: float, seed: int, plan: CanaryPlan = PLAN) -> Rollout:
    return answers(canary(plan), stable, candidate, seed=seed)


def test_a_better_candidate_is_promoted_by_single_answers():
    rollout = ends(0.5, 0.05, 1)
    assert rollout.verdict is Verdict.PASS
    assert [e.phase for e in rollout.history][-2:] == [Phase.PROBATION, Phase.PROMOTED]
    promotion = rollout.history[-3]
    assert promotion.phase is Phase.PROMOTING and ">= 1/0.05" in promotion.reason


def test_a_worse_candidate_is_rolled_back_by_single_answers():
    rollout = ends(0.05, 0.5, 2)
    assert rollout.phase is Phase.ROLLED_BACK and "a harm above 0.05" in rollout.reason


def test_wrong_promotions_of_equal_candidates_stay_within_the_risk():
    plan = CanaryPlan(weights=(25, 50), evidence="unpaired", risk=0.1, longest_wait_labels=150)
    promoted = sum(
        Phase.PROMOTING in [e.phase for e in ends(0.3, 0.3, seed, plan).history]
        for seed in range(120)
    )
    assert promoted <= 21  # .1 and three standard errors


def counted(arm: str, n: int, loss: float, rollout: Rollout, weight: int = 25) -> Rollout:
    for _ in range(n):
        rollout = observe_answer(rollout, loss, arm=arm, weight_pct=weight)
    return rollout


def sound(plan: CanaryPlan = PLAN) -> Rollout:
    """Forty labels by the plan's share, all of them for the candidate."""
    rollout = observe_assigned(canary(plan), events=80, by_candidate=20, weight_pct=25)
    return counted("stable", 30, 1.0, counted("candidate", 10, 0.0, rollout))


def test_each_arm_needs_its_labels():
    assert judge(sound()).verdict is Verdict.PASS
    few = CanaryPlan(weights=(25, 50), evidence="unpaired", least_labels_per_arm=11)
    seen = judge(sound(few))
    assert seen.verdict is Verdict.INCONCLUSIVE and not seen.harm_excluded
    assert seen.reason == "10 of 11 labels of the candidate's answers"
    assert advance(sound(few), 1.0).phase is Phase.CANARY


def test_each_arm_needs_its_share_of_labels():
    asks = CanaryPlan(weights=(25, 50), evidence="unpaired", least_label_coverage=0.5)
    assert judge(sound(asks)).verdict is Verdict.PASS
    more = observe_assigned(sound(asks), events=8, by_candidate=2, weight_pct=25)
    seen = judge(more)
    assert seen.verdict is Verdict.INCONCLUSIVE
    assert "labels for 10 of the candidate's 22 answers" in seen.reason


def test_paired_labels_may_be_asked_to_cover_the_answers_too():
    rollout = labels(canary(CanaryPlan(least_label_coverage=0.9)), 40, 1.0, 0.0)
    assert judge(rollout).verdict is Verdict.PASS
    more = observe_assigned(rollout, events=20, by_candidate=1, weight_pct=5)
    assert "labels for" in judge(more).reason and judge(more).verdict is Verdict.INCONCLUSIVE


def test_skewed_assignment_and_skewed_arrival_are_inconclusive():
    plan = CanaryPlan(weights=(50,), evidence="unpaired")
    half = observe_assigned(canary(plan), events=400, by_candidate=200, weight_pct=50)
    late = counted("stable", 2, 1.0, counted("candidate", 60, 0.0, half, 50), 50)
    assert "skewed label arrival" in judge(late).reason
    crooked = observe_assigned(canary(plan), events=400, by_candidate=300, weight_pct=50)
    assert "skewed assignment" in judge(counted("candidate", 20, 0.0, crooked, 50)).reason


def test_labels_of_two_steps_may_interleave():
    """Each is judged by the probability of its own time: the product over the steps."""
    rng = np.random.default_rng(4)
    evidence, apart = no_unpaired_evidence(0.0, 0.05), {}
    for _ in range(60):
        p = 0.05 if rng.random() < 0.5 else 0.5
        by_candidate, loss = bool(rng.random() < p), float(rng.random() < 0.3)
        grown = observe_one(evidence, loss, by_candidate=by_candidate, p=p)
        factors = np.subtract(grown.better.log_wealth, evidence.better.log_wealth)
        apart[p] = apart.get(p, 0.0) + factors
        evidence = grown
    product = np.exp(apart[0.05] + apart[0.5]).mean()
    assert evidence.better.e_value() == pytest.approx(product)


def test_a_weight_that_compares_nothing_says_nothing_and_is_counted():
    rollout = counted("stable", 5, 1.0, canary(PLAN), weight=0)
    assert rollout.evidence.n == 0 and rollout.labelled.events == 5


def test_suspect_labels_are_counted_and_not_believed():
    held = advance(sound(), 1.0, suspect="renamed")
    more = counted("candidate", 50, 1.0, held)
    assert more.evidence == held.evidence and more.labelled.events == 90


def test_probation_counts_labels_and_compares_nothing():
    promoting = advance(sound(), 1.0)
    probation = advance(promoting, 2.0)
    assert probation.phase is Phase.PROBATION
    ended = advance(counted("stable", 100, 1.0, probation, weight=0), 3.0)
    assert ended.phase is Phase.PROMOTED and ended.regret.n == 0


def test_the_two_kinds_of_evidence_do_not_mix():
    with pytest.raises(TypeError, match="use observe_answer"):
        observe_pair(canary(PLAN), 1.0, 0.0, arm="stable", weight_pct=25)
    with pytest.raises(TypeError, match="use observe_pair"):
        observe_answer(canary(), 1.0, arm="stable", weight_pct=5)


def test_the_state_says_which_evidence_it_holds_and_comes_back_the_same():
    rollout = ends(0.3, 0.1, 5)
    again = Rollout.from_json(rollout.to_json())
    assert again == rollout and isinstance(again.evidence, UnpairedEvidence)
    assert b'"type":"unpaired"' in rollout.to_json()
    assert b'"type":"paired"' in canary().to_json()
