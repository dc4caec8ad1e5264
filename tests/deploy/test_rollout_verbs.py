"""What a person may say, and what is refused with the reason."""

import pytest

from deploy.rollout import (
    CanaryPlan,
    Phase,
    Traffic,
    VerbError,
    admit,
    advance,
    apply_verb,
    desired_traffic,
)
from deploy.rollout_retry import retry
from tests.deploy.canaries import canary, labels, validating


def in_phase(phase, mode="auto"):
    """A rollout in the phase."""
    match phase:
        case Phase.VALIDATING:
            return validating(CanaryPlan(mode=mode))
        case Phase.AWAITING_APPROVAL:
            return canary(CanaryPlan(mode="recommend"))
        case Phase.CANARY:
            return canary(CanaryPlan(mode=mode))
        case Phase.PROMOTING:
            return advance(labels(canary(), 20, 1.0, 0.0), 20.0)
        case Phase.PROBATION:
            return advance(in_phase(Phase.PROMOTING), 21.0)
        case _:
            return apply_verb(canary(), "abort", "ann", 1.0)


LIVE = [p for p in Phase if not p.terminal]


@pytest.mark.parametrize("phase", LIVE)
@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize("pause", [False, True])
def test_abort_wins_from_every_phase(phase, suspect, pause):
    rollout = in_phase(phase)
    assert rollout.phase is phase
    if pause:
        rollout = apply_verb(rollout, "pause", "ann", 22.0)
    if suspect:
        rollout = advance(rollout, 22.0, suspect="renamed", live=False)
    gone = apply_verb(rollout, "abort", "ann", 23.0, "enough")
    assert gone.phase is Phase.ROLLED_BACK and gone.reason == "abort by ann: enough"
    assert desired_traffic(gone).stable == "1-aaaa"
    assert desired_traffic(gone).candidate is None


@pytest.mark.parametrize(
    "verb", ["abort", "pause", "resume", "approve", "reject", "promote", "promote_full"]
)
def test_nothing_can_be_said_to_an_ended_rollout(verb):
    with pytest.raises(VerbError, match="ended as rolled_back; nothing is in progress"):
        apply_verb(in_phase(Phase.ROLLED_BACK), verb, "ann", 2.0)


@pytest.mark.parametrize(
    ("phase", "verb", "after"),
    [
        (Phase.VALIDATING, "reject", Phase.REJECTED),
        (Phase.VALIDATING, "promote_full", Phase.PROMOTING),
        (Phase.AWAITING_APPROVAL, "approve", Phase.CANARY),
        (Phase.AWAITING_APPROVAL, "reject", Phase.REJECTED),
        (Phase.AWAITING_APPROVAL, "promote_full", Phase.PROMOTING),
        (Phase.CANARY, "promote", Phase.CANARY),
        (Phase.CANARY, "promote_full", Phase.PROMOTING),
        (Phase.PROBATION, "promote", Phase.PROMOTED),
    ],
)
def test_verbs_that_move(phase, verb, after):
    moved = apply_verb(in_phase(phase), verb, "ann", 30.0, "because")
    assert moved.phase is after
    assert moved.reason == f"{verb.replace('_', ' --')} by ann: because"
    assert moved.history[-1].at_s == 30.0


@pytest.mark.parametrize(
    ("phase", "verb", "advice"),
    [
        (Phase.VALIDATING, "approve", "waits for no approval"),
        (Phase.VALIDATING, "promote", "no step to skip"),
        (Phase.AWAITING_APPROVAL, "promote", "approve it first"),
        (Phase.CANARY, "approve", "waits for no approval"),
        (Phase.CANARY, "reject", "abort takes it back"),
        (Phase.CANARY, "resume", "not paused"),
        (Phase.PROMOTING, "promote", "no step to skip"),
        (Phase.PROMOTING, "promote_full", "being promoted already"),
        (Phase.PROBATION, "promote_full", "promote ends its probation"),
        (Phase.PROBATION, "reject", "abort takes it back"),
    ],
)
def test_verbs_that_make_no_sense_say_what_does(phase, verb, advice):
    with pytest.raises(VerbError, match=advice) as refused:
        apply_verb(in_phase(phase), verb, "ann", 30.0)
    assert str(refused.value).startswith(f"{verb}: rollout 3 of 2-bbbb is in phase {phase.value}")


def test_promote_skips_a_step_and_stops_at_the_last():
    rollout = canary()
    for weight in (25, 50):
        rollout = apply_verb(rollout, "promote", "ann", 1.0)
        assert desired_traffic(rollout).candidate_weight == weight
    with pytest.raises(VerbError, match="last step; promote --full"):
        apply_verb(rollout, "promote", "ann", 2.0)


def test_a_persons_pause_keeps_the_weights_and_holds_everything_but_harm():
    rollout = apply_verb(canary(), "pause", "ann", 5.0, "lunch")
    assert desired_traffic(rollout).candidate_weight == 5
    better = labels(rollout, 60, 1.0, 0.0)
    assert advance(better, 1e9) is better
    worse = labels(rollout, 60, 0.0, 1.0)
    assert advance(worse, 6.0).phase is Phase.ROLLED_BACK
    with pytest.raises(VerbError, match="paused already: pause by ann: lunch"):
        apply_verb(rollout, "pause", "bob", 6.0)
    back = apply_verb(better, "resume", "ann", 65.0)
    assert back.phase_since_s == 60.0 and not back.overruled
    assert advance(back, 66.0).phase is Phase.PROMOTING


def test_a_pause_outlives_the_gate_and_the_promotion():
    paused = apply_verb(validating(), "pause", "ann", 1.0)
    assert admit(paused, 2.0, may_enter=True, reason="gate").pause == paused.pause
    promoting = apply_verb(in_phase(Phase.PROMOTING), "pause", "ann", 21.0)
    probation = advance(promoting, 22.0)
    assert probation.phase is Phase.PROBATION and probation.pause is not None


def test_promoting_a_step_ends_a_persons_pause():
    rollout = apply_verb(canary(), "pause", "ann", 5.0)
    assert apply_verb(rollout, "promote", "ann", 6.0).pause is None


def test_suspect_labels_take_only_resume_reject_and_abort():
    held = advance(canary(), 5.0, suspect="renamed")
    for verb in ("promote", "promote_full", "approve"):
        with pytest.raises(VerbError, match=r"labels are suspect; resume .*, reject"):
            apply_verb(held, verb, "ann", 6.0)
    with pytest.raises(VerbError, match="paused already"):
        apply_verb(held, "pause", "ann", 6.0)
    rejected = apply_verb(held, "reject", "ann", 6.0, "the lanes were swapped")
    assert rejected.phase is Phase.REJECTED
    assert desired_traffic(rejected).candidate is None


def test_suspicion_takes_the_place_of_a_persons_pause():
    paused = apply_verb(canary(), "pause", "ann", 5.0)
    held = advance(paused, 8.0, suspect="renamed")
    assert held.suspect and held.pause is not None and held.pause.since_s == 5.0


@pytest.mark.parametrize("phase", list(Phase))
def test_undo_takes_back_what_was_promoted_and_nothing_else(phase):
    rollout = in_phase(phase)
    if phase is Phase.PROMOTED:
        rollout = apply_verb(in_phase(Phase.PROBATION), "promote", "ann", 22.0)
    if rollout.phase in (Phase.PROMOTING, Phase.PROBATION, Phase.PROMOTED):
        back = apply_verb(rollout, "undo", "ann", 30.0, "complaints")
        assert back.phase is Phase.ROLLED_BACK and back.reason == "undo by ann: complaints"
        assert desired_traffic(back) == Traffic("1-aaaa")
    else:
        with pytest.raises(VerbError, match=r"nothing is promoted yet|did not promote"):
            apply_verb(rollout, "undo", "ann", 30.0)


def again(ended, stable="1-aaaa"):
    return retry(ended, id=4, stable=stable, plan=CanaryPlan(risk=0.01), who="ann", now_s=9.0)


def test_retry_starts_with_nothing_seen_and_its_own_risk():
    ended = apply_verb(labels(canary(), 30, 1.0, 0.0), "abort", "ann", 5.0)
    fresh = again(ended)
    assert fresh.phase is Phase.VALIDATING and fresh.id == 4 and fresh.plan.risk == 0.01
    assert fresh.evidence.n == fresh.assigned.events == fresh.labelled.events == 0
    assert fresh.reason == "retry of rollout 3 by ann"


def test_retry_is_refused_where_it_makes_no_sense():
    promoted = apply_verb(in_phase(Phase.PROBATION), "promote", "ann", 22.0)
    rejected = apply_verb(validating(), "reject", "ann", 1.0)
    for rollout, why in (
        (canary(), "in progress; abort it first"),
        (promoted, "only what was rolled back"),
        (rejected, "only what was rolled back"),
    ):
        with pytest.raises(VerbError, match=why):
            again(rollout)
    with pytest.raises(VerbError, match="2-bbbb is the champion"):
        again(in_phase(Phase.ROLLED_BACK), stable="2-bbbb")


@pytest.mark.parametrize("verb", ["promote", "promote_full"])
def test_shadow_is_never_promoted(verb):
    with pytest.raises(VerbError, match="mode shadow"):
        apply_verb(in_phase(Phase.CANARY, mode="shadow"), verb, "ann", 1.0)


def test_shadow_is_not_promoted_before_its_gate_either():
    with pytest.raises(VerbError, match="mode shadow"):
        apply_verb(in_phase(Phase.VALIDATING, mode="shadow"), "promote_full", "ann", 1.0)
