"""What a person may say to a rollout; the verbs are Argo Rollouts'."""

from dataclasses import replace
from typing import Literal, assert_never

from deploy.rollout_plan import Phase
from deploy.rollout_state import Rollout, moved, paused, resumed, stepped

Verb = Literal["promote", "promote_full", "pause", "resume", "abort", "approve", "reject", "undo"]


class VerbError(ValueError):
    """The verb makes no sense where the rollout stands; says why and what to do instead."""


def apply_verb(rollout: Rollout, verb: Verb, who: str, now_s: float, reason: str = "") -> Rollout:
    """Return the rollout after a person's command.

    ``promote`` skips the current step (in probation: the rest of it); ``promote_full`` promotes
    without PASS, once; ``resume`` also says of suspect labels that they are right; ``reject``
    answers a review, or says of suspect labels that they are wrong; ``abort`` wins from every
    phase; ``undo`` takes a promotion back, also one that is long over.

    Args:
        rollout: As it stands.
        verb: What to do.
        who: Who says so, as claimed.
        now_s: Engine time, seconds.
        reason: Why.

    Raises:
        VerbError: It makes no sense in this phase. Nothing has changed.
    """
    if rollout.phase.terminal and verb != "undo":
        raise refused(rollout, verb, f"it ended as {rollout.phase.value}; nothing is in progress")
    words = f"{verb.replace('_', ' --')} by {who}" + (f": {reason}" if reason else "")
    match verb:
        case "abort":
            after = moved(rollout, now_s, Phase.ROLLED_BACK, words)
        case "undo":
            after = _undo(rollout, now_s, words)
        case "pause":
            after = _pause(rollout, now_s, words)
        case "resume":
            after = _resume(rollout, now_s, words)
        case "approve":
            after = _approve(rollout, now_s, words)
        case "reject":
            after = _reject(rollout, now_s, words)
        case "promote":
            after = _promote(rollout, now_s, words)
        case "promote_full":
            after = _promote_full(rollout, now_s, words)
        case _:
            assert_never(verb)
    return after


def _undo(rollout: Rollout, now_s: float, words: str) -> Rollout:
    match rollout.phase:
        case Phase.PROMOTING | Phase.PROBATION | Phase.PROMOTED:
            return moved(rollout, now_s, Phase.ROLLED_BACK, words)
        case _ if rollout.phase.terminal:
            raise refused(rollout, "undo", "it did not promote its candidate")
        case _:
            raise refused(rollout, "undo", "nothing is promoted yet; abort takes it back")


def _pause(rollout: Rollout, now_s: float, words: str) -> Rollout:
    if rollout.pause is not None:
        raise refused(rollout, "pause", f"it is paused already: {rollout.pause.reason}")
    return paused(rollout, now_s, "person", words)


def _resume(rollout: Rollout, now_s: float, words: str) -> Rollout:
    if rollout.pause is None:
        raise refused(rollout, "resume", "it is not paused")
    return resumed(rollout, now_s, words)


def _approve(rollout: Rollout, now_s: float, words: str) -> Rollout:
    _not_suspect(rollout, "approve")
    if rollout.phase is not Phase.AWAITING_APPROVAL:
        raise refused(rollout, "approve", "it waits for no approval")
    return moved(rollout, now_s, Phase.CANARY, words)


def _reject(rollout: Rollout, now_s: float, words: str) -> Rollout:
    match rollout.phase:
        case Phase.VALIDATING | Phase.AWAITING_APPROVAL:
            return moved(rollout, now_s, Phase.REJECTED, words)
        case Phase.CANARY if rollout.suspect:
            return moved(rollout, now_s, Phase.REJECTED, words)
        case _:
            raise refused(rollout, "reject", "there is nothing to review; abort takes it back")


def _promote(rollout: Rollout, now_s: float, words: str) -> Rollout:
    _not_suspect(rollout, "promote")
    match rollout.phase:
        case Phase.CANARY if rollout.plan.mode == "shadow":
            raise refused(rollout, "promote", "in mode shadow the candidate is never served")
        case Phase.CANARY if rollout.last_step:
            raise refused(
                rollout, "promote", "this is the last step; promote --full does without PASS"
            )
        case Phase.CANARY:
            return stepped(replace(rollout, pause=None), now_s, words)
        case Phase.PROBATION:
            return moved(rollout, now_s, Phase.PROMOTED, words)
        case Phase.AWAITING_APPROVAL:
            raise refused(rollout, "promote", "it waits for approval; approve it first")
        case _:
            raise refused(rollout, "promote", "there is no step to skip yet; try again in a moment")


def _promote_full(rollout: Rollout, now_s: float, words: str) -> Rollout:
    _not_suspect(rollout, "promote_full")
    if rollout.plan.mode == "shadow":
        raise refused(rollout, "promote_full", "in mode shadow the candidate is never served")
    match rollout.phase:
        case Phase.VALIDATING | Phase.AWAITING_APPROVAL | Phase.CANARY:
            return moved(rollout, now_s, Phase.PROMOTING, words)
        case Phase.PROBATION:  # said twice, it must not take the probation away
            raise refused(rollout, "promote_full", "it is promoted; promote ends its probation")
        case _:
            raise refused(rollout, "promote_full", "it is being promoted already")


def _not_suspect(rollout: Rollout, verb: Verb) -> None:
    if rollout.suspect:
        raise refused(
            rollout, verb, "its labels are suspect; resume if they are right, reject if not"
        )


def refused(rollout: Rollout, verb: str, why: str) -> VerbError:
    """Return the error that says where the rollout stands and why the verb makes no sense."""
    return VerbError(
        f"{verb}: rollout {rollout.id} of {rollout.candidate} is in phase "
        f"{rollout.phase.value}: {why}"
    )
