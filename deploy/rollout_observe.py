"""What a rollout learns: events by arm as they are scored, pairs of losses as labels come."""

from dataclasses import replace

from deploy.rollout_plan import Arm, Phase
from deploy.rollout_state import Rollout
from deploy.sequential import observe


def observe_assigned(
    rollout: Rollout, *, events: int, by_candidate: int, weight_pct: int
) -> Rollout:
    """Count events scored by both versions.

    Args:
        rollout: In any phase; events at weight 0 need no counting.
        events: How many were scored under this weight.
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
) -> Rollout:
    """Return the rollout after one label of an event that both versions scored.

    Args:
        rollout: Terminal ones, and those not yet in their canary, are returned as they are.
        loss_stable: Loss of ``rollout.stable`` in [0, 1]; in probation that is the old champion.
        loss_candidate: Loss of ``rollout.candidate`` in [0, 1]; in probation the new champion.
        arm: Whose answer was served, as ``Traffic`` named the arms when the event was scored (in
            probation the new champion serves as ``stable``).
        weight_pct: ``Traffic.candidate_weight`` when the event was scored.

    While the labels are suspect they are counted by arm and otherwise left out: what they say is
    not believed, and leaving out by a rule known beforehand keeps the tests valid.
    """
    if rollout.phase not in (Phase.CANARY, Phase.PROMOTING, Phase.PROBATION):
        return rollout
    by_candidate = arm == "candidate"
    labelled = rollout.labelled.add(weight_pct, 1, int(by_candidate))
    wrong = rollout.wrong_served + (by_candidate and loss_candidate >= 1.0)
    if rollout.suspect:
        return replace(rollout, labelled=labelled, wrong_served=wrong)
    phase_labels = rollout.phase_labels + (rollout.pause is None)
    if rollout.phase is not Phase.CANARY:
        regret = rollout.regret.observe(loss_candidate - loss_stable)
        return replace(
            rollout,
            regret=regret,
            labelled=labelled,
            wrong_served=wrong,
            phase_labels=phase_labels,
        )
    counts, here = rollout.labels_by_step, rollout.step
    return replace(
        rollout,
        evidence=observe(rollout.evidence, loss_stable, loss_candidate, by_candidate),
        labelled=labelled,
        labels_by_step=(*counts[:here], counts[here] + 1, *counts[here + 1 :]),
        phase_labels=phase_labels,
        wrong_served=wrong,
    )
