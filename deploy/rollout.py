"""The rollout as a pure state machine.

``advance`` decides, ``desired_traffic`` says what the decision looks like in traffic weights, and
``deploy.controller.reconcile`` makes it so. Nothing here reads a clock or opens a connection.

    VALIDATING --admit--> AWAITING_APPROVAL (mode recommend) --approve--> CANARY
    VALIDATING --admit--> CANARY          VALIDATING --gate refuses--> REJECTED
    AWAITING_APPROVAL --reject--> REJECTED    --past longest_approval_wait_s--> EXPIRED
    CANARY --labels and dwell met, harm excluded--> CANARY, next step
    CANARY --PASS--> PROMOTING            CANARY --FAIL--> ROLLED_BACK
    CANARY --inconclusive | error, past longest_wait--> EXPIRED
    PROMOTING --traffic observed--> PROBATION    --not within longest_promotion_s--> ROLLED_BACK
    PROBATION --bound met--> PROMOTED     PROBATION --old one better, harm, guard--> ROLLED_BACK
    any of these --abort--> ROLLED_BACK

Three ways to stand still: a person's pause (weights stay; only FAIL and regret act), suspect labels
(the candidate at weight 0; nothing acts until a person resumes, rejects or aborts), and mode
``shadow``, which only ever records what it would have done.
"""

from dataclasses import replace
from typing import assert_never

from deploy.class_evidence import ClassEvidence
from deploy.guards import GuardReading, guarded
from deploy.rollout_observe import observe_answer, observe_assigned, observe_pair
from deploy.rollout_plan import Arm, CanaryPlan, Kind, Mode, Phase, Traffic, Verdict
from deploy.rollout_state import (
    Evidence,
    HistoryEntry,
    Pause,
    Rollout,
    begin_step_anew,
    moved,
    paused,
    recorded,
    stepped,
)
from deploy.rollout_verbs import Verb, VerbError, apply_verb
from deploy.sample_ratio import RatioCounts
from deploy.sequential import BettingTest, no_evidence
from deploy.unpaired import no_unpaired_evidence
from deploy.verdict import (
    Judgement,
    class_harm_shown,
    harm_bound,
    judge,
    regret_shown,
    unsound_counts,
)

__all__ = [
    "Arm",
    "CanaryPlan",
    "GuardReading",
    "HistoryEntry",
    "Judgement",
    "Kind",
    "Mode",
    "Pause",
    "Phase",
    "Rollout",
    "Traffic",
    "Verb",
    "VerbError",
    "Verdict",
    "admit",
    "advance",
    "apply_verb",
    "begin_step_anew",
    "desired_traffic",
    "end_probation",
    "judge",
    "observe_answer",
    "observe_assigned",
    "observe_pair",
    "start",
    "unsound_counts",
]


def start(
    *,
    id: int,  # noqa: A002 - the field's name
    route: str,
    kind: Kind,
    stable: str,
    candidate: str,
    plan: CanaryPlan,
    now_s: float,
    reason: str = "made",
    classes: ClassEvidence | None = None,
) -> Rollout:
    """Return a rollout in VALIDATING: nothing is served until ``admit``.

    With ``classes`` the candidate names classes that the stable version lacks: promotion then needs
    what it asks for, too. Single answers say nothing of that, so that it is left out there.

    Raises:
        ValueError: Stable and candidate are the same version.
    """
    if stable == candidate:
        raise ValueError(f"candidate {candidate!r} is the stable version; nothing to roll out")
    fresh = Rollout(
        id=id,
        route=route,
        kind=kind,
        stable=stable,
        candidate=candidate,
        plan=plan,
        evidence=_nothing_seen(plan),
        regret=BettingTest.start(0.0),
        assigned=RatioCounts(),
        labelled=RatioCounts(),
        labels_by_step=(0,) * len(plan.weights),
        phase=Phase.VALIDATING,
        step=0,
        phase_since_s=now_s,
        step_since_s=now_s,
        phase_labels=0,
        verdict=None,
        reason="",
        pause=None,
        overruled=False,
        wrong_served=0,
        history=(),
        classes=classes if plan.evidence == "paired" else None,
    )
    return recorded(fresh, now_s, reason)


def _nothing_seen(plan: CanaryPlan) -> Evidence:
    match plan.evidence:
        case "paired":
            return no_evidence(plan.least_gain, plan.acceptable_harm)
        case "unpaired":
            return no_unpaired_evidence(plan.least_gain, plan.acceptable_harm)
        case _:
            assert_never(plan.evidence)


def admit(
    rollout: Rollout, now_s: float, *, may_enter: bool, reason: str, suspect: str | None = None
) -> Rollout:
    """Return the rollout after the gate: REJECTED, AWAITING_APPROVAL or at its first step.

    Args:
        rollout: In VALIDATING; any other phase is returned as it is.
        now_s: Engine time, seconds.
        may_enter: ``GateResult.may_enter_canary``.
        reason: ``GateResult.reason``.
        suspect: Why the labels look permuted, if they do: the first step then begins paused.
    """
    if rollout.phase is not Phase.VALIDATING:
        return rollout
    if not may_enter:
        return moved(rollout, now_s, Phase.REJECTED, reason)
    after = Phase.AWAITING_APPROVAL if rollout.plan.mode == "recommend" else Phase.CANARY
    # A person's pause outlives the gate: it was not meant for the gate alone.
    pause = rollout.pause
    entered = replace(moved(rollout, now_s, after, reason), pause=pause)
    return _held(entered, now_s, suspect)


def advance(
    rollout: Rollout,
    now_s: float,
    *,
    suspect: str | None = None,
    guard: GuardReading | None = None,
    live: bool = True,
) -> Rollout:
    """Return the rollout after one look; the same object when nothing is to be done.

    At most one move is made. Call it after every label and at every tick.

    Args:
        rollout: As it stands.
        now_s: Engine time, seconds.
        suspect: Why the labels look permuted, if they do (``label_permutation.suspect``).
        guard: What the candidate's server says of it; None where nothing was read.
        live: Whether the backend was observed to serve ``desired_traffic(rollout)``. Only then is
            a step taken or ended, and goes a promotion on to probation: a candidate that nobody
            could reach has shown nothing, and the labels of that time count towards no longest
            wait. FAIL and the wait in seconds act all the same.
    """
    rollout = _held(rollout, now_s, suspect)
    if rollout.suspect:
        return rollout
    match rollout.phase:
        case Phase.AWAITING_APPROVAL:
            return _await_approval(rollout, now_s)
        case Phase.CANARY:
            return _advance_canary(rollout, now_s, judge(rollout, guard), live=live)
        case Phase.PROMOTING:
            return _confirm(rollout, now_s) if live else _await_traffic(rollout, now_s)
        case Phase.PROBATION:
            return _advance_probation(rollout, now_s, guarded(rollout.plan, guard))
        case Phase.VALIDATING | Phase.PROMOTED | Phase.REJECTED | Phase.ROLLED_BACK | Phase.EXPIRED:
            return rollout
        case _:
            assert_never(rollout.phase)


def _held(rollout: Rollout, now_s: float, suspect: str | None) -> Rollout:
    """Pause on suspicion, once; a person who has resumed has overruled it."""
    if suspect is None or rollout.suspect or rollout.overruled:
        return rollout
    early_or_over = rollout.phase is Phase.VALIDATING or rollout.phase.terminal
    if early_or_over or rollout.plan.label_permutation == "adapt":
        return rollout
    return paused(rollout, now_s, "suspect", suspect)


def _await_approval(rollout: Rollout, now_s: float) -> Rollout:
    longest = rollout.plan.longest_approval_wait_s
    waited = now_s - rollout.phase_since_s
    if rollout.pause is None and longest is not None and waited > longest:
        return moved(rollout, now_s, Phase.EXPIRED, f"no answer in {waited:.0f} s (> {longest:g})")
    return rollout


def _advance_canary(rollout: Rollout, now_s: float, seen: Judgement, *, live: bool) -> Rollout:
    plan = rollout.plan
    if seen.verdict is Verdict.FAIL:
        return moved(rollout, now_s, Phase.ROLLED_BACK, seen.reason, Verdict.FAIL)
    if rollout.pause is not None:
        return rollout
    if (
        live
        and rollout.step_labels >= max(plan.least_labels, plan.dwell_labels)
        and now_s - rollout.step_since_s >= plan.dwell_s
    ):
        on = _end_step(rollout, now_s, seen)
        if on is not rollout:
            return on
    too_long = _waited_too_long(rollout, now_s, live=live)
    if too_long is not None:
        return moved(rollout, now_s, Phase.EXPIRED, f"{too_long}: {seen.reason}", seen.verdict)
    return rollout


def _end_step(rollout: Rollout, now_s: float, seen: Judgement) -> Rollout:
    """Go on from a step whose labels and dwell are met, as far as the evidence carries."""
    plan, passed = rollout.plan, seen.verdict is Verdict.PASS
    if plan.mode == "shadow":
        would = f"shadow, would promote: {seen.reason}"
        return moved(rollout, now_s, Phase.EXPIRED, would, Verdict.PASS) if passed else rollout
    shadow_step = plan.weights[rollout.step] == 0  # no promotion without a request served
    if passed and not shadow_step and (plan.promote_on_pass or rollout.last_step):
        return moved(rollout, now_s, Phase.PROMOTING, seen.reason, Verdict.PASS)
    if rollout.last_step or not (passed or seen.harm_excluded):
        return rollout
    why = seen.reason if passed else harm_bound(rollout)
    here, there = plan.weights[rollout.step : rollout.step + 2]
    return stepped(rollout, now_s, f"from {here} to {there} %: {why}")


def _waited_too_long(rollout: Rollout, now_s: float, *, live: bool) -> str | None:
    plan = rollout.plan
    waited = now_s - rollout.phase_since_s
    if plan.longest_wait_s is not None and waited > plan.longest_wait_s:
        return f"undecided after {waited:.0f} s (> {plan.longest_wait_s:g})"
    most = plan.longest_wait_labels
    if live and most is not None and rollout.phase_labels >= most:
        return f"undecided after {rollout.phase_labels} labels"
    return None


def _confirm(rollout: Rollout, now_s: float) -> Rollout:
    serves = f"{rollout.candidate} serves everything"
    # A person's pause goes on: it then holds the end of the probation.
    return replace(moved(rollout, now_s, Phase.PROBATION, serves), pause=rollout.pause)


def _await_traffic(rollout: Rollout, now_s: float) -> Rollout:
    longest, waited = rollout.plan.longest_promotion_s, now_s - rollout.phase_since_s
    if longest is None or waited <= longest:
        return rollout
    why = f"{rollout.candidate} did not serve everything after {waited:.0f} s (> {longest:g})"
    return moved(rollout, now_s, Phase.ROLLED_BACK, why, Verdict.ERROR)


def _advance_probation(rollout: Rollout, now_s: float, held: tuple[Verdict, str] | None) -> Rollout:
    if held is not None and held[0] is Verdict.FAIL:
        return moved(rollout, now_s, Phase.ROLLED_BACK, held[1], Verdict.FAIL)
    regret = regret_shown(rollout) or class_harm_shown(rollout)
    if regret is not None:
        return moved(rollout, now_s, Phase.ROLLED_BACK, regret, Verdict.FAIL)
    if rollout.pause is not None:
        return rollout
    plan, lasted = rollout.plan, now_s - rollout.phase_since_s
    by_labels = plan.probation_labels is not None and rollout.phase_labels >= plan.probation_labels
    by_time = plan.probation_s is not None and lasted >= plan.probation_s
    if not (by_labels or by_time):
        return rollout
    return end_probation(
        rollout, now_s, f"probation over after {rollout.phase_labels} labels and {lasted:.0f} s"
    )


def end_probation(rollout: Rollout, now_s: float, reason: str) -> Rollout:
    """Return the rollout PROMOTED, before its bound if a new rollout takes its place.

    Any phase but PROBATION is returned as it is.
    """
    if rollout.phase is not Phase.PROBATION:
        return rollout
    return moved(rollout, now_s, Phase.PROMOTED, reason)


def desired_traffic(rollout: Rollout) -> Traffic:
    """Return the traffic that ``rollout`` calls for."""
    match rollout.phase:
        case Phase.VALIDATING | Phase.AWAITING_APPROVAL:
            return Traffic(rollout.stable)
        case Phase.CANARY:
            weight = rollout.plan.weights[rollout.step]
            shadow = rollout.suspect or rollout.plan.mode == "shadow" or weight == 0
            return Traffic(
                rollout.stable, rollout.candidate, 0 if shadow else weight, shadow=shadow
            )
        case Phase.PROMOTING | Phase.PROBATION:
            return Traffic(rollout.candidate, rollout.stable, shadow=True)
        case Phase.PROMOTED:
            return Traffic(rollout.candidate)
        case Phase.REJECTED | Phase.ROLLED_BACK | Phase.EXPIRED:
            return Traffic(rollout.stable)
        case _:
            assert_never(rollout.phase)
