"""A candidate for new classes: a gain on those pays for no loss on the old ones."""

import numpy as np
import pytest

from benchmarks.new_class_canaries import HOLDOUT, drawn, ends
from deploy.class_evidence import class_evidence
from deploy.rollout import CanaryPlan, Phase, Rollout, Verdict, admit, advance, judge, start
from deploy.rollout_retry import retry
from deploy.sequential import BettingTest
from tests.deploy.canaries import canary, label, labels

OLD, NEW = "up", "side"


def with_classes(
    plan: CanaryPlan | None = None, holdout: tuple[tuple[str, float, float], ...] = ()
) -> Rollout:
    """A canary whose candidate names the class NEW beside the stable version's OLD."""
    plan = plan or CanaryPlan()
    rollout = start(
        id=3,
        route="*",
        kind="gated",
        stable="1-aaaa",
        candidate="2-bbbb",
        plan=plan,
        now_s=0.0,
        classes=class_evidence((OLD,), (NEW,), plan.acceptable_harm, holdout),
    )
    return admit(rollout, 0.0, may_enter=True, reason="gate passed")


def story(rollout: Rollout, harm: float, recall: float, *, seed: int, most: int = 600) -> Rollout:
    """One label in six is of the new class; one look per label, until it ends."""
    rng = np.random.default_rng(seed)
    for number in range(most):
        if rollout.phase.terminal:
            break
        if rng.random() < 1 / 6:
            losses, name = (1.0, float(rng.random() >= recall)), NEW
        else:
            losses, name = (0.0, float(rng.random() < harm)), OLD
        rollout = label(rollout, *losses, number + seed * most, name=name)
        rollout = advance(rollout, float(number + 1))
    return rollout


def promoted(rollout: Rollout) -> bool:
    return Phase.PROMOTING in [entry.phase for entry in rollout.history]


def test_in_the_mean_a_gain_on_the_new_class_pays_for_harm_and_apart_it_does_not():
    plan = CanaryPlan(longest_wait_labels=None)
    assert promoted(story(canary(plan), 0.08, 1.0, seed=1))
    apart = story(with_classes(plan), 0.08, 1.0, seed=1)
    assert apart.phase is Phase.ROLLED_BACK and not promoted(apart)
    assert "harm above 0.05 to the known classes is shown" in apart.reason


def test_a_candidate_that_harms_beyond_the_margin_is_promoted_at_most_at_the_step_risk():
    plan = CanaryPlan(longest_wait_labels=None, step_risk=0.1)
    ends = [story(with_classes(plan), 0.05, 1.0, seed=seed) for seed in range(60)]
    wrong = sum(map(promoted, ends))
    print(f"promoted: {wrong} of 60 at step risk .1")
    assert wrong <= 13  # .1 and three standard errors


def test_one_that_harms_nobody_is_promoted():
    ends = [story(with_classes(), 0.0, 0.9, seed=seed) for seed in range(20)]
    assert all(map(promoted, ends))
    assert sorted(end.evidence.n for end in ends)[10] <= 110


def test_pass_waits_until_harm_to_the_known_classes_is_excluded():
    rollout = with_classes()
    for number in range(30):
        rollout = label(rollout, 1.0, 0.0, number, name=NEW)
    waiting = judge(rollout)
    assert waiting.verdict is Verdict.INCONCLUSIVE
    assert "not excluded yet: 0 better and 0 worse of their 0 labels" in waiting.reason
    assert judge(labels(rollout, 60, 0.0, 0.0, name=OLD)).verdict is Verdict.INCONCLUSIVE
    assert judge(labels(rollout, 75, 0.0, 0.0, name=OLD)).verdict is Verdict.PASS


def test_pass_waits_until_the_new_class_is_named():
    """It is better on the known class alone: a new class that nobody names is no gain."""
    rollout = labels(with_classes(), 100, 1.0, 0.0, name=OLD)
    assert "0 of 0 labels named" in judge(rollout).reason
    missing = labels(rollout, 10, 1.0, 1.0, name=NEW)
    assert judge(missing).verdict is Verdict.INCONCLUSIVE
    assert "recall of the new classes above 0.5 is not shown" in judge(missing).reason
    assert judge(labels(rollout, 4, 1.0, 0.0, name=NEW)).verdict is Verdict.INCONCLUSIVE
    assert judge(labels(rollout, 5, 1.0, 0.0, name=NEW)).verdict is Verdict.PASS


def test_labels_of_the_holdout_count():
    holdout = tuple((OLD, 0.0, 0.0) for _ in range(40)) + ((NEW, 1.0, 0.0),) * 5
    rollout = labels(with_classes(holdout=holdout), 20, 1.0, 0.0, name=NEW)
    assert judge(rollout).verdict is Verdict.INCONCLUSIVE
    assert judge(labels(rollout, 35, 0.0, 0.0, name=OLD)).verdict is Verdict.PASS


def test_a_class_that_neither_names_says_nothing():
    rollout = with_classes()
    seen = label(rollout, 1.0, 1.0, name="typing error")
    assert seen.classes == rollout.classes and seen.evidence.n == 1


def test_harm_that_shows_in_probation_brings_the_old_champion_back():
    """The mean over all labels stays better all the while."""
    holdout = tuple((OLD, 0.0, 0.0) for _ in range(75)) + ((NEW, 1.0, 0.0),) * 5
    plan = CanaryPlan(probation_labels=None, probation_s=1e6)
    rollout = labels(with_classes(plan, holdout), 20, 1.0, 0.0, name=NEW)
    rollout = advance(advance(rollout, 1.0), 2.0)
    assert rollout.phase is Phase.PROBATION
    for number in range(200):
        rollout = label(rollout, 1.0, 0.0, number, name=NEW)
        rollout = label(rollout, 0.0, float(number % 2), number, name=OLD)
        rollout = advance(rollout, 3.0 + number)
    assert rollout.phase is Phase.ROLLED_BACK
    assert "to the known classes is shown" in rollout.reason
    assert rollout.regret.log_e() < 0


def test_two_tests_for_harm_share_the_risk():
    plan = CanaryPlan(fail_risk=0.05)
    plain, apart = canary(plan), with_classes(plan)
    while not plain.evidence.worse.rejects(0.05):
        plain, apart = label(plain, 0.0, 1.0), label(apart, 0.0, 1.0, name="typing error")
    assert judge(plain).verdict is Verdict.FAIL and judge(apart).verdict is not Verdict.FAIL
    assert judge(label(apart, 0.0, 1.0, name=OLD)).verdict is Verdict.FAIL


def test_it_survives_being_written_and_a_retry_begins_it_anew():
    rollout = labels(with_classes(), 3, 0.0, 1.0, name=OLD)
    assert Rollout.from_json(rollout.to_json()) == rollout
    expired = advance(rollout, 8 * 86_400.0)
    assert expired.phase is Phase.EXPIRED
    again = retry(expired, id=4, stable="1-aaaa", plan=expired.plan, who="ann", now_s=8 * 86_400.0)
    assert again.classes == class_evidence((OLD,), (NEW,), expired.plan.acceptable_harm)


def test_single_answers_say_nothing_of_classes():
    assert with_classes(CanaryPlan(evidence="unpaired")).classes is None


def test_the_recall_is_a_test_of_numbers_from_nought():
    evidence = class_evidence((OLD,), (NEW,), 0.05).observe(NEW, 1.0, 0.0)
    by_hand = np.mean([1 + share for share in (0.10, 0.25, 0.45, 0.65, 0.80, 0.93)])
    assert evidence.named.e_value() == pytest.approx(by_hand)
    assert evidence.safe == BettingTest.start(-0.05)


def test_the_simulated_canaries_end_where_the_evidence_ends():
    """The benchmark's arrays against the values that a rollout holds."""
    new, gains = drawn(np.random.default_rng(3), 12, 0.03, 0.9)
    found = ends(new, gains, apart=True)
    assert (found > 0).any()
    for row, at in enumerate(found):
        rows = [
            (NEW, 1.0, 1.0 - gain) if is_new else (OLD, 0.0, -gain)
            for is_new, gain in zip(new[row], gains[row].tolist(), strict=True)
        ]
        before = sum(HOLDOUT)
        rollout = with_classes(CanaryPlan(), tuple(rows[:before]))
        stop = abs(int(at)) or 300
        for number, (name, *losses) in enumerate(rows[before : before + stop]):
            assert judge(rollout).verdict is Verdict.INCONCLUSIVE
            rollout = label(rollout, losses[0], losses[1], number, name=name)
        expected = {1: Verdict.PASS, -1: Verdict.FAIL, 0: Verdict.INCONCLUSIVE}[int(np.sign(at))]
        assert judge(rollout).verdict is expected
