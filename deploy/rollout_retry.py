"""A candidate's second try after its rollout was rolled back or expired."""

from dataclasses import replace

from deploy.class_evidence import class_evidence
from deploy.rollout import start
from deploy.rollout_plan import CanaryPlan, Phase
from deploy.rollout_state import Rollout
from deploy.rollout_verbs import VerbError, refused


def retry(
    ended: Rollout,
    *,
    id: int,  # noqa: A002 - the field's name
    stable: str,
    plan: CanaryPlan,
    who: str,
    now_s: float,
    reason: str = "",
) -> Rollout:
    """Return a new rollout of the same candidate, in VALIDATING, with nothing seen yet.

    Nothing is carried over: evidence that was looked at already may not be looked at again under a
    new risk.

    Args:
        ended: Rolled back or expired.
        id: Of the new one.
        stable: The version that serves now.
        plan: With the new one's own risk.
        who: Who says so, as claimed.
        now_s: Engine time, seconds.
        reason: Why.

    Raises:
        VerbError: It did not end in these ways, or its candidate serves already.
    """
    if not ended.phase.terminal:
        raise refused(ended, "retry", "it is in progress; abort it first")
    if ended.phase not in (Phase.ROLLED_BACK, Phase.EXPIRED):
        raise refused(ended, "retry", "only what was rolled back or expired is tried again")
    if ended.candidate == stable:
        raise VerbError(f"retry: {stable} is the champion; there is nothing to roll out")
    words = f"retry of rollout {ended.id} by {who}" + (f": {reason}" if reason else "")
    again = start(
        id=id,
        route=ended.route,
        kind=ended.kind,
        stable=stable,
        candidate=ended.candidate,
        plan=plan,
        now_s=now_s,
        reason=words,
        classes=None
        if ended.classes is None
        else class_evidence(ended.classes.known, ended.classes.added, plan.acceptable_harm),
    )
    # A person who has said that the labels are right has said it of the candidate, too.
    return replace(again, overruled=ended.overruled)
