"""The rollout's way, one story a test."""

from dataclasses import replace

import pytest

from deploy.rollout import (
    CanaryPlan,
    GuardReading,
    Phase,
    Rollout,
    Traffic,
    Verdict,
    admit,
    advance,
    apply_verb,
    desired_traffic,
    end_probation,
    judge,
    observe_assigned,
    observe_pair,
    start,
)
from tests.deploy.canaries import canary, label, labels, run, validating

GONE = GuardReading(problem="its server does not answer")


def test_a_better_candidate_is_promoted_and_survives_probation():
    rollout = run(canary(), 0.5, 0.05, seed=1)
    assert rollout.phase is Phase.PROMOTED and rollout.verdict is Verdict.PASS
    phases = [entry.phase for entry in rollout.history]
    assert phases[-3:] == [Phase.PROMOTING, Phase.PROBATION, Phase.PROMOTED]
    promotion = rollout.history[-3].reason
    assert promotion.startswith("candidate better by 0.") and ">= 1/0.05" in promotion
    assert f"after {rollout.evidence.n} labels" in promotion
    assert desired_traffic(rollout) == Traffic("2-bbbb")


def test_a_worse_candidate_is_rolled_back_from_the_first_step():
    rollout = run(canary(), 0.05, 0.5, seed=1)
    assert rollout.phase is Phase.ROLLED_BACK and rollout.verdict is Verdict.FAIL
    assert rollout.step == 0 and rollout.evidence.n < 40
    assert "candidate worse by 0." in rollout.reason and "a harm above 0.05" in rollout.reason
    assert desired_traffic(rollout) == Traffic("1-aaaa")


def test_no_difference_expires_with_the_candidate_kept_out():
    rollout = run(canary(CanaryPlan(longest_wait_labels=150)), 0.1, 0.1, seed=2)
    assert rollout.phase is Phase.EXPIRED and rollout.verdict is Verdict.INCONCLUSIVE
    assert "undecided after 150 labels" in rollout.reason
    assert desired_traffic(rollout) == Traffic("1-aaaa")


def test_wrong_promotions_of_equal_candidates_stay_within_the_risk():
    plan = CanaryPlan(risk=0.1, longest_wait_labels=200, longest_wait_s=None)
    ends = [run(canary(plan), 0.3, 0.3, seed=seed, most=201) for seed in range(150)]
    promoted = sum(Phase.PROMOTING in [e.phase for e in end.history] for end in ends)
    print(f"wrong promotions: {promoted} of 150 at risk .1")
    assert promoted <= 26  # .1 and three standard errors


def test_weights_rise_only_when_harm_is_excluded():
    rollout = labels(canary(), 30, 0.0, 0.0)  # both right: nothing is known of the harm yet
    assert advance(rollout, 30.0).step == 0
    rollout = labels(rollout, 60, 0.0, 0.0)
    stepped = advance(rollout, 90.0)
    assert stepped.step == 1 and stepped.phase is Phase.CANARY
    assert "from 5 to 25 %: harm of 0.05 excluded" in stepped.reason
    assert desired_traffic(stepped).candidate_weight == 25
    # The same evidence does not take two steps: each needs its own labels.
    assert advance(stepped, 90.0) is stepped


def test_a_step_needs_its_labels_and_its_dwell():
    plan = CanaryPlan(dwell_s=60.0, dwell_labels=25, least_labels=5)
    rollout = labels(canary(plan), 24, 1.0, 0.0)
    assert advance(rollout, 100.0) is rollout
    rollout = label(rollout, 1.0, 0.0)
    assert advance(rollout, 59.0) is rollout
    assert advance(rollout, 60.0).phase is Phase.PROMOTING


def test_pass_below_the_least_labels_is_inconclusive():
    rollout = labels(canary(CanaryPlan(least_labels=20)), 19, 1.0, 0.0)
    seen = judge(rollout)
    assert seen.verdict is Verdict.INCONCLUSIVE and "19 of 20 labels" in seen.reason
    assert judge(label(rollout, 1.0, 0.0)).verdict is Verdict.PASS


def test_promotion_may_be_kept_for_the_last_step():
    rollout = canary(CanaryPlan(promote_on_pass=False))
    seen = []
    for second in range(3):
        rollout = advance(labels(rollout, 20, 1.0, 0.0), float(second))
        seen.append((rollout.phase, rollout.step))
    assert seen == [(Phase.CANARY, 1), (Phase.CANARY, 2), (Phase.PROMOTING, 2)]


def test_the_gate_can_refuse():
    rejected = admit(validating(), 1.0, may_enter=False, reason="refused: p=0.4")
    assert rejected.phase is Phase.REJECTED and rejected.reason == "refused: p=0.4"
    assert admit(rejected, 2.0, may_enter=True, reason="") is rejected


def test_no_labels_are_no_verdict_and_expire_by_the_clock():
    rollout = canary(CanaryPlan(longest_wait_s=100.0))
    assert judge(rollout).verdict is Verdict.INCONCLUSIVE
    assert advance(rollout, 100.0) is rollout
    expired = advance(rollout, 101.0)
    assert expired.phase is Phase.EXPIRED and "101 s (> 100): no label yet" in expired.reason


def test_skewed_label_arrival_is_inconclusive_however_good_the_losses():
    rollout = observe_assigned(
        canary(CanaryPlan(weights=(50,))), events=400, by_candidate=200, weight_pct=50
    )
    for _ in range(60):
        rollout = observe_pair(rollout, 1.0, 0.0, arm="candidate", weight_pct=50)
    seen = judge(rollout)
    assert seen.verdict is Verdict.INCONCLUSIVE and "skewed label arrival" in seen.reason
    assert advance(rollout, 1.0) is rollout
    worse = canary(CanaryPlan(weights=(50,)))
    worse = observe_assigned(worse, events=400, by_candidate=200, weight_pct=50)
    for _ in range(60):
        worse = observe_pair(worse, 0.0, 1.0, arm="candidate", weight_pct=50)
    assert judge(worse).verdict is Verdict.INCONCLUSIVE


def test_skewed_assignment_is_inconclusive():
    rollout = labels(canary(), 40, 1.0, 0.0)
    rollout = observe_assigned(rollout, events=200, by_candidate=100, weight_pct=5)
    seen = judge(rollout)
    assert seen.verdict is Verdict.INCONCLUSIVE and "skewed assignment" in seen.reason


def test_labels_of_events_nobody_counted_are_inconclusive():
    rollout = canary()
    for _ in range(40):
        rollout = observe_pair(rollout, 1.0, 0.0, arm="stable", weight_pct=5)
    seen = judge(rollout)
    assert seen.verdict is Verdict.INCONCLUSIVE and "40 labels for 0 counted" in seen.reason


def test_a_late_label_is_held_against_the_weight_of_its_own_time():
    rollout = advance(labels(canary(), 90, 0.0, 0.0), 90.0)
    assert desired_traffic(rollout).candidate_weight == 25
    rollout = observe_assigned(rollout, events=500, by_candidate=125, weight_pct=25)
    rollout = observe_assigned(rollout, events=2000, by_candidate=100, weight_pct=5)
    for _ in range(60):  # late ones of the first step, all of them the stable version's
        rollout = observe_pair(rollout, 0.0, 0.0, arm="stable", weight_pct=5)
    assert "skewed" not in judge(rollout).reason


def test_a_guard_makes_an_error_that_neither_steps_nor_promotes_but_expires():
    rollout = labels(canary(CanaryPlan(longest_wait_s=100.0)), 40, 1.0, 0.0)
    seen = judge(rollout, GONE)
    assert seen.verdict is Verdict.ERROR and "does not answer" in seen.reason
    assert advance(rollout, 50.0, guard=GONE) is rollout
    gone = advance(rollout, 101.0, guard=GONE)
    assert gone.phase is Phase.EXPIRED and gone.verdict is Verdict.ERROR


def test_harm_rolls_back_in_spite_of_a_guard():
    rollout = labels(canary(), 40, 0.0, 1.0)
    assert advance(rollout, 1.0, guard=GuardReading(problem="slow")).phase is Phase.ROLLED_BACK


def test_suspect_labels_take_the_candidate_out_and_nothing_acts():
    rollout = labels(canary(), 40, 1.0, 0.0)
    held = advance(rollout, 40.0, suspect="the errors are explained by renamed classes")
    assert held.suspect and held.phase is Phase.CANARY and "labels suspect" in held.reason
    assert desired_traffic(held) == Traffic("1-aaaa", "2-bbbb", 0, shadow=True)
    assert advance(held, 50.0) is held  # PASS does not act, even once suspicion is gone
    worse = labels(held, 200, 0.0, 1.0)
    assert worse.evidence == held.evidence  # what suspect labels say is not believed
    assert advance(worse, 1e9).phase is Phase.CANARY  # no FAIL, no expiry


def test_suspicion_comes_before_harm_and_regret_that_were_already_shown():
    worse = labels(canary(), 40, 0.0, 1.0)
    assert judge(worse).verdict is Verdict.FAIL
    held = advance(worse, 1.0, suspect="renamed")
    assert held.phase is Phase.CANARY and advance(held, 2.0) is held
    regretted = advance(promoted_just_now(), 21.0)
    for _ in range(40):
        regretted = probation_label(regretted, 0.0, 1.0)
    held = advance(regretted, 22.0, suspect="renamed")
    assert held.phase is Phase.PROBATION and advance(held, 23.0) is held


def test_a_persons_pause_stops_the_counts_of_both_waits():
    plan = CanaryPlan(longest_wait_labels=30, probation_labels=10)
    waiting = labels(apply_verb(canary(plan), "pause", "ann", 0.0), 40, 0.0, 0.0)
    going = apply_verb(waiting, "resume", "ann", 10.0)
    assert going.phase_labels == 0 and advance(going, 11.0).phase is Phase.CANARY
    probation = apply_verb(advance(promoted_just_now(plan), 21.0), "pause", "ann", 22.0)
    for _ in range(10):
        probation = probation_label(probation, 0.0, 0.0)
    by_time = replace(probation, plan=replace(plan, probation_s=5.0))
    assert advance(probation, 23.0) is probation and advance(by_time, 99.0) is by_time
    for _ in range(40):
        probation = probation_label(probation, 0.0, 1.0)
    assert advance(probation, 24.0).phase is Phase.ROLLED_BACK


def test_a_person_who_resumes_has_overruled_the_suspicion():
    held = advance(canary(), 5.0, suspect="renamed")
    going = apply_verb(held, "resume", "ann", 100.0, "checked with the lab")
    assert not going.suspect and going.overruled
    assert desired_traffic(going).candidate_weight == 5
    assert advance(going, 101.0, suspect="renamed") is going
    assert going.step_since_s == 95.0  # the time it stood still counts toward no wait


def test_suspicion_before_the_first_step_and_the_setting_that_ignores_it():
    held = admit(validating(), 1.0, may_enter=True, reason="gate", suspect="renamed")
    assert held.suspect and desired_traffic(held).candidate_weight == 0
    bold = validating(CanaryPlan(label_permutation="adapt"))
    entered = admit(bold, 1.0, may_enter=True, reason="gate", suspect="renamed")
    assert not entered.suspect and desired_traffic(entered).candidate_weight == 5
    assert advance(entered, 2.0, suspect="renamed") is entered


def test_shadow_scores_serves_nothing_and_ends_with_its_verdict():
    rollout = canary(CanaryPlan(mode="shadow"))
    assert desired_traffic(rollout) == Traffic("1-aaaa", "2-bbbb", 0, shadow=True)
    better = run(rollout, 0.5, 0.05, seed=3)
    assert better.phase is Phase.EXPIRED and better.verdict is Verdict.PASS
    assert better.reason.startswith("shadow, would promote: candidate better")
    assert better.evidence.n_candidate_served == better.wrong_served == better.step == 0
    worse = run(rollout, 0.05, 0.5, seed=3)
    assert worse.phase is Phase.ROLLED_BACK and worse.verdict is Verdict.FAIL


def test_a_shadow_step_goes_on_to_traffic_and_promotes_nothing_by_itself():
    rollout = canary(CanaryPlan(weights=(0, 50), least_labels=10))
    assert desired_traffic(rollout) == Traffic("1-aaaa", "2-bbbb", 0, shadow=True)
    for _ in range(40):
        rollout = observe_pair(rollout, 1.0, 0.0, arm="stable", weight_pct=0)
    assert judge(rollout).verdict is Verdict.PASS
    on = advance(rollout, 1.0)
    assert (on.phase, on.step) == (Phase.CANARY, 1) and "from 0 to 50 %" in on.reason
    assert desired_traffic(on) == Traffic("1-aaaa", "2-bbbb", 50)
    assert advance(on, 2.0) is on, "no label of an answer that it gave"
    for _ in range(10):
        on = observe_assigned(on, events=2, by_candidate=1, weight_pct=50)
        on = observe_pair(on, 1.0, 0.0, arm="candidate", weight_pct=50)
        on = observe_pair(on, 1.0, 0.0, arm="stable", weight_pct=50)
    assert advance(on, 3.0).phase is Phase.PROMOTING


def test_harm_in_the_shadow_step_rolls_back_before_anything_is_served():
    rollout = canary(CanaryPlan(weights=(0, 50)))
    for _ in range(60):
        rollout = observe_pair(rollout, 0.0, 1.0, arm="stable", weight_pct=0)
    back = advance(rollout, 1.0)
    assert back.phase is Phase.ROLLED_BACK and back.evidence.n_candidate_served == 0


def test_shadow_needs_no_counts_of_events():
    rollout = canary(CanaryPlan(mode="shadow"))
    for _ in range(40):
        rollout = observe_pair(rollout, 1.0, 0.0, arm="stable", weight_pct=0)
    assert judge(rollout).verdict is Verdict.PASS


def test_recommend_waits_for_a_reviewer_but_not_for_ever():
    rollout = canary(CanaryPlan(mode="recommend", longest_approval_wait_s=50.0))
    assert rollout.phase is Phase.AWAITING_APPROVAL
    assert desired_traffic(rollout) == Traffic("1-aaaa")
    assert advance(rollout, 50.0) is rollout
    late = advance(rollout, 51.0)
    assert late.phase is Phase.EXPIRED and "no answer in 51 s (> 50)" in late.reason


def promoted_just_now(plan: CanaryPlan | None = None) -> Rollout:
    rollout = advance(labels(canary(plan), 20, 1.0, 0.0), 20.0)
    assert rollout.phase is Phase.PROMOTING
    return rollout


def test_probation_begins_when_the_traffic_is_there():
    rollout = promoted_just_now()
    assert desired_traffic(rollout) == Traffic("2-bbbb", "1-aaaa", 0, shadow=True)
    assert advance(rollout, 21.0, live=False) is rollout
    assert advance(rollout, 22.0).phase is Phase.PROBATION


def test_a_promotion_that_never_becomes_live_is_taken_back():
    rollout = promoted_just_now(CanaryPlan(longest_promotion_s=60.0))
    assert advance(rollout, 80.0, live=False) is rollout
    back = advance(rollout, 81.0, live=False)
    assert back.phase is Phase.ROLLED_BACK and back.verdict is Verdict.ERROR
    assert "2-bbbb did not serve everything after 61 s (> 60)" in back.reason
    patient = promoted_just_now(CanaryPlan(longest_promotion_s=None))
    assert advance(patient, 1e9, live=False) is patient


def probation_label(rollout: Rollout, loss_old: float, loss_new: float) -> Rollout:
    return observe_pair(rollout, loss_old, loss_new, arm="stable", weight_pct=0)


def test_probation_brings_the_old_champion_back_when_it_is_better():
    rollout = advance(promoted_just_now(), 21.0)
    for second in range(40):
        rollout = advance(probation_label(rollout, 0.0, 1.0), 22.0 + second)
    assert rollout.phase is Phase.ROLLED_BACK and rollout.verdict is Verdict.FAIL
    assert "old champion 1-aaaa is better" in rollout.reason and ">= 1/0.05" in rollout.reason
    assert rollout.regret.n < 10
    assert desired_traffic(rollout) == Traffic("1-aaaa")
    assert rollout.wrong_served == 0  # those were the champion's answers, not a canary's


@pytest.mark.parametrize(
    ("plan", "labels_needed", "at_s"),
    [
        (CanaryPlan(probation_labels=30), 30, 50.0),
        (CanaryPlan(probation_labels=None, probation_s=300.0), 0, 321.0),
        (CanaryPlan(probation_labels=1000, probation_s=300.0), 12, 321.0),
    ],
)
def test_probation_ends_by_labels_or_by_time(plan, labels_needed, at_s):
    rollout = advance(promoted_just_now(plan), 21.0)
    for _ in range(labels_needed):
        assert advance(rollout, 22.0) is rollout
        rollout = probation_label(rollout, 0.0, 0.0)
    over = advance(rollout, at_s)
    assert over.phase is Phase.PROMOTED
    assert f"probation over after {labels_needed} labels" in over.reason


def test_suspect_labels_hold_probation_and_change_no_traffic():
    rollout = advance(promoted_just_now(CanaryPlan(probation_labels=10)), 21.0)
    held = advance(rollout, 22.0, suspect="renamed")
    assert held.suspect and desired_traffic(held) == desired_traffic(rollout)
    for _ in range(50):
        held = advance(probation_label(held, 0.0, 1.0), 23.0)
    assert held.phase is Phase.PROBATION and held.regret.n == 0


def test_a_new_rollout_ends_the_probation_of_the_old():
    rollout = advance(promoted_just_now(), 21.0)
    over = end_probation(rollout, 30.0, "rollout 4 takes its place")
    assert over.phase is Phase.PROMOTED and over.reason == "rollout 4 takes its place"
    assert end_probation(canary(), 30.0, "") == canary()


def test_wrong_answers_of_the_canary_are_counted_by_its_own_arm():
    rollout = observe_pair(canary(), 0.0, 1.0, arm="candidate", weight_pct=5)
    rollout = observe_pair(rollout, 0.0, 1.0, arm="stable", weight_pct=5)
    rollout = observe_pair(rollout, 1.0, 0.0, arm="candidate", weight_pct=5)
    assert rollout.wrong_served == 1


def test_labels_before_the_canary_and_after_the_end_change_nothing():
    early = validating()
    assert observe_pair(early, 1.0, 0.0, arm="stable", weight_pct=0) is early
    over = advance(labels(canary(), 40, 0.0, 1.0), 1.0)
    assert observe_pair(over, 1.0, 0.0, arm="stable", weight_pct=5) is over


def test_the_same_version_is_no_rollout():
    with pytest.raises(ValueError, match="nothing to roll out"):
        start(
            id=1, route="*", kind="gated", stable="1", candidate="1", plan=CanaryPlan(), now_s=0.0
        )


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"weights": ()}, "weights"),
        ({"weights": (5, 5)}, "weights"),
        ({"weights": (0,)}, "weights"),
        ({"evidence": "unpaired", "weights": (0, 5)}, "hold 0 or 100"),
        ({"weights": (50, 101)}, "weights"),
        ({"risk": 0.0}, "risk"),
        ({"fail_risk": 1.0}, "fail_risk"),
        ({"least_gain": -0.1}, "least_gain"),
        ({"acceptable_harm": 0.0}, "acceptable_harm"),
        ({"least_labels": 0}, "least_labels"),
        ({"dwell_s": -1.0}, "dwell_s"),
        ({"dwell_s": 100.0, "longest_wait_s": 50.0}, "longest_wait_s"),
        ({"least_labels": 20, "longest_wait_labels": 10}, "longest_wait_labels"),
        ({"longest_wait_s": 0.0}, "longest_wait_s"),
        ({"probation_labels": None}, "probation"),
        ({"longest_promotion_s": 0.0}, "longest_promotion_s"),
        ({"longest_latency_ms": -1.0}, "longest_latency_ms"),
        ({"most_error_rate": 1.0}, "most_error_rate"),
        ({"guard_requests": 0}, "guard_requests"),
        ({"least_labels_per_arm": 0}, "least_labels_per_arm"),
        ({"least_label_coverage": 1.5}, "least_label_coverage"),
        ({"evidence": "unpaired", "mode": "shadow"}, "mode shadow"),
        ({"evidence": "unpaired", "weights": (5, 100)}, "hold 0 or 100"),
    ],
)
def test_senseless_plans_are_refused_by_name(wrong, word):
    with pytest.raises(ValueError, match=word):
        CanaryPlan(**wrong)


def test_traffic_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="candidate_weight"):
        Traffic("1", None, 5)
    with pytest.raises(ValueError, match="candidate_weight"):
        Traffic("1", "2", 5, shadow=True)
    assert replace(Traffic("1", "2", 5)).stable_weight == 95
