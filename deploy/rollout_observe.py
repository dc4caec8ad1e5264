"""What a rollout learns: events by arm as they are scored, losses as labels come."""

from dataclasses import replace

from deploy.rollout_plan import Arm, Phase
from deploy.rollout_state import Evidence, Rollout
from deploy.sequential import PairedEvidence, observe
from deploy.unpaired import UnpairedEvidence, observe_one

_LEARNS = (Phase.CANARY, Phase.PROMOTING, Phase.PROBATION)


def observe_assigned(
    rollout: Rollout, *, events: int, by_candidate: int, weight_pct: int
) -> Rollout:
    """Count events that were answered.

    Args:
        rollout: In any phase; events at weight 0 need no counting.
        events: How many were answered under this weight.
        by_candidate: How many of them the candidate answered.
        weight_pct: ``Traffic.candidate_weight`` when they were scored.
    """
    assigned = rollout.assigned.add(weight_pct, events, by_candidate)
    return replace(rollout, assigned=assigned)


def observe_pair(
    rollout: Rollout,
    loss_stable: float,
    loss_candidate: float,
    *,
    arm: Arm,
    weight_pct: int,
    label: str = "",
) -> Rollout:
    """Return the rollout after one label of an event that both versions scored.

    Args:
        rollout: With paired evidence. Terminal ones, and those not yet in their canary, are
            returned as they are.
        loss_stable: Loss of ``rollout.stable`` in [0, 1]; in probation that is the old champion.
        loss_candidate: Loss of ``rollout.candidate`` in [0, 1]; in probation the new champion.
        arm: Whose answer was served, as ``Traffic`` named the arms when the event was scored (in
            probation the new champion serves as ``stable``).
        weight_pct: ``Traffic.candidate_weight`` when the event was scored.
        label: The class, for a rollout that judges old and new classes apart.

    While the labels are suspect they are counted by arm and otherwise left out: what they say is
    not believed, and leaving out by a rule known beforehand keeps the tests valid.

    Raises:
        TypeError: The rollout is judged by unpaired evidence.
    """
    if not isinstance(rollout.evidence, PairedEvidence):
        raise TypeError(f"rollout {rollout.id} is judged by single answers: use observe_answer")
    if rollout.phase not in _LEARNS:
        return rollout
    by_candidate = arm == "candidate"
    counted = _counted(rollout, by_candidate, loss_candidate, weight_pct)
    if rollout.suspect:
        return counted
    if counted.classes is not None:
        classes = counted.classes.observe(label, loss_stable, loss_candidate)
        counted = replace(counted, classes=classes)
    if rollout.phase is not Phase.CANARY:
        regret = rollout.regret.observe(loss_candidate - loss_stable)
        return replace(_passing(counted), regret=regret)
    seen = observe(rollout.evidence, loss_stable, loss_candidate, by_candidate)
    return _learned(counted, seen)


def observe_answer(rollout: Rollout, loss: float, *, arm: Arm, weight_pct: int) -> Rollout:
    """Return the rollout after one label of an event that one version answered.

    Args:
        rollout: With unpaired evidence. Terminal ones, and those not yet in their canary, are
            returned as they are.
        loss: Of the answer given, in [0, 1].
        arm: Who gave it, as the answer itself says.
        weight_pct: Percent of the events that the router sent to the candidate at that time. At 0
            and 100 nothing is compared: the label is counted, and says nothing.

    Suspect labels are counted by arm and otherwise left out, as by ``observe_pair``. In probation
    nothing is compared either: the old champion answers no more.

    Raises:
        TypeError: The rollout is judged by paired evidence.
    """
    if not isinstance(rollout.evidence, UnpairedEvidence):
        raise TypeError(f"rollout {rollout.id} is judged by pairs of losses: use observe_pair")
    if rollout.phase not in _LEARNS:
        return rollout
    by_candidate = arm == "candidate"
    counted = _counted(rollout, by_candidate, loss, weight_pct)
    if rollout.suspect:
        return counted
    if rollout.phase is not Phase.CANARY:
        return _passing(counted)
    seen, p = rollout.evidence, weight_pct / 100.0
    if 0.0 < p < 1.0:
        seen = observe_one(seen, loss, by_candidate=by_candidate, p=p)
    return _learned(counted, seen)


def _counted(rollout: Rollout, by_candidate: bool, loss: float, weight_pct: int) -> Rollout:
    return replace(
        rollout,
        labelled=rollout.labelled.add(weight_pct, 1, int(by_candidate)),
        wrong_served=rollout.wrong_served + (by_candidate and loss >= 1.0),
    )


def _passing(rollout: Rollout) -> Rollout:
    return replace(rollout, phase_labels=rollout.phase_labels + (rollout.pause is None))


def _learned(rollout: Rollout, evidence: Evidence) -> Rollout:
    counts, here = rollout.labels_by_step, rollout.step
    return replace(
        _passing(rollout),
        evidence=evidence,
        labels_by_step=(*counts[:here], counts[here] + 1, *counts[here + 1 :]),
    )
