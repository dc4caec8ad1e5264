"""The one frozen value of a rollout, and the moves it can make."""

from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from deploy.class_evidence import ClassEvidence
from deploy.rollout_plan import CanaryPlan, Kind, Phase, Verdict
from deploy.sample_ratio import RatioCounts
from deploy.sequential import BettingTest, PairedEvidence
from deploy.unpaired import UnpairedEvidence

Evidence = PairedEvidence | UnpairedEvidence

LONGEST_HISTORY = 64


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that happened to a rollout.

    Attributes:
        at_s: Engine time, seconds.
        phase: Phase afterwards.
        step: Step afterwards, from 0.
        reason: One sentence with its numbers.
    """

    at_s: float
    phase: Phase
    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a rollout stands still.

    Attributes:
        cause: ``suspect``: the labels look permuted (weight 0, and neither PASS, FAIL nor probation
            acts); ``person``: an operator said so (weights stay, FAIL still rolls back).
        reason: In words.
        since_s: Engine time, seconds; the paused time counts toward no wait.
    """

    cause: Literal["suspect", "person"]
    reason: str
    since_s: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """One candidate's way from its first percent of traffic to promotion or the way back.

    Made by ``deploy.rollout.start``.

    Attributes:
        id: Its number; names it in outputs and salts the arms.
        route: Which route's weights it would replace.
        kind: How it came here: ``gated`` passed the gate; ``announced`` its task was announced;
            ``inconclusive_gate`` entered without the gate's verdict.
        stable: Version that served before; in probation the one that can come back.
        candidate: Version that may replace it.
        plan: How it earns traffic.
        evidence: What the labels of the canary say; its class goes by ``plan.evidence``.
        regret: Pairs seen since the promotion; null "mean(loss_candidate - loss_stable) <= 0".
            Without pairs it stays empty.
        assigned: Events scored, by weight and arm.
        labelled: Labels joined, by the weight and arm at scoring time.
        labels_by_step: Labels that came while at each step.
        phase: Where it stands.
        step: Index into ``plan.weights``.
        phase_since_s: Engine time at which the phase began, moved on by the time spent paused.
        step_since_s: The same for the step.
        phase_labels: Labels in this phase, those that came while paused left out.
        verdict: The verdict behind the last move, None before one.
        reason: Why it stands where it stands.
        pause: Why it stands still, if it does.
        overruled: A person has said that the labels are right: suspicion holds nothing any more.
        wrong_served: Answers the candidate gave in the canary that its label showed to be wrong
            (loss 1).
        history: The last moves, oldest first, at most ``LONGEST_HISTORY``.
        classes: With pairs, and a candidate that names classes which ``stable`` lacks: what the
            labels of the old and of the new ones say; else None.
    """

    id: int
    route: str
    kind: Kind
    stable: str
    candidate: str
    plan: CanaryPlan
    evidence: Evidence
    regret: BettingTest
    assigned: RatioCounts
    labelled: RatioCounts
    labels_by_step: tuple[int, ...]
    phase: Phase
    step: int
    phase_since_s: float
    step_since_s: float
    phase_labels: int
    verdict: Verdict | None
    reason: str
    pause: Pause | None
    overruled: bool
    wrong_served: int
    history: tuple[HistoryEntry, ...]
    classes: ClassEvidence | None = None

    @property
    def suspect(self) -> bool:
        """Whether it is paused because the labels look permuted."""
        return self.pause is not None and self.pause.cause == "suspect"

    @property
    def step_labels(self) -> int:
        """Labels that came while at the current step."""
        return self.labels_by_step[self.step]

    @property
    def last_step(self) -> bool:
        """Whether no further step follows."""
        return self.step + 1 == len(self.plan.weights)

    def to_json(self) -> bytes:
        """Return the rollout as one JSON document; floats round-trip exactly."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, document: bytes | str) -> "Rollout":
        """Read ``to_json``'s document.

        Raises:
            msgspec.ValidationError: It is no rollout of this format.
        """
        return msgspec.json.decode(document, type=cls)


def recorded(rollout: Rollout, now_s: float, reason: str) -> Rollout:
    """Return the rollout with ``reason`` as its newest history entry."""
    entry = HistoryEntry(now_s, rollout.phase, rollout.step, reason)
    history = (*rollout.history, entry)[-LONGEST_HISTORY:]
    return replace(rollout, reason=reason, history=history)


def moved(
    rollout: Rollout, now_s: float, phase: Phase, reason: str, verdict: Verdict | None = None
) -> Rollout:
    """Return the rollout in another phase; a pause ends with the phase it stopped."""
    there = replace(
        rollout,
        phase=phase,
        phase_since_s=now_s,
        step_since_s=now_s,
        phase_labels=0,
        pause=None,
        verdict=verdict or rollout.verdict,
    )
    return recorded(there, now_s, reason)


def stepped(rollout: Rollout, now_s: float, reason: str) -> Rollout:
    """Return the rollout one step further up."""
    return recorded(replace(rollout, step=rollout.step + 1, step_since_s=now_s), now_s, reason)


def begin_step_anew(rollout: Rollout, now_s: float) -> Rollout:
    """Return the rollout at the beginning of its step, its traffic being live only now.

    The step's labels and dwell are counted anew, and its labels count towards no longest wait; the
    evidence stays, since pairs of losses do not depend on who was served.
    """
    counts, here = rollout.labels_by_step, rollout.step
    return replace(
        rollout,
        step_since_s=now_s,
        labels_by_step=(*counts[:here], 0, *counts[here + 1 :]),
        phase_labels=max(0, rollout.phase_labels - counts[here]),
    )


def paused(
    rollout: Rollout, now_s: float, cause: Literal["suspect", "person"], why: str
) -> Rollout:
    """Return the rollout standing still; suspicion takes the place of a person's pause."""
    since_s = rollout.pause.since_s if rollout.pause else now_s
    pause = Pause(cause, why, since_s)
    word = "labels suspect" if cause == "suspect" else "paused"
    return recorded(replace(rollout, pause=pause), now_s, f"{word}: {why}")


def resumed(rollout: Rollout, now_s: float, reason: str) -> Rollout:
    """Return the rollout going on; the time it stood still counts toward no wait."""
    if rollout.pause is None:
        return rollout
    stood_s = max(0.0, now_s - rollout.pause.since_s)
    going = replace(
        rollout,
        pause=None,
        overruled=rollout.overruled or rollout.suspect,
        phase_since_s=rollout.phase_since_s + stood_s,
        step_since_s=rollout.step_since_s + stood_s,
    )
    return recorded(going, now_s, reason)
