"""The report's rows about what metadrift did: signals, episodes, gates, rollouts.

Positions count events from 0 in the order they were scored.
"""

import msgspec


class SignalRow(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm, an announcement, or a new class or task.

    Attributes:
        position: Events scored when it came.
        at: Event that raised it.
        kind: ``error``, ``confidence``, ``features``, ``new_class``, ``new_task``, ...
        detector: Who raised it.
        change_point: Its estimate of the new regime's first event.
        statistic: The deciding number.
        threshold: What it had to exceed.
        verdict: What the trigger policy made of it.
        reason: One sentence.
    """

    position: int
    at: int
    kind: str
    detector: str
    change_point: int | None
    statistic: float | None
    threshold: float | None
    verdict: str
    reason: str


class RecipeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe of a bake-off."""

    name: str
    outcome: str
    query_loss: float | None
    holdout_loss: float | None
    query: int | None
    holdout: int | None
    winner: bool
    message: str


class EpisodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to find a better model.

    Attributes:
        number: Its number.
        kind: ``drift``, ``announced``, ``forced`` or ``new_class``.
        opened: Events scored when it opened.
        ended: Events scored when it ended; null: still open.
        change_point: Where its examples begin.
        support: Labels the last bake-off learned from.
        query: Labels that chose.
        holdout: Labels that gated.
        recipes: Results of the last bake-off.
        winner: The recipe that won it.
        outcome: How it ended; null: still open.
        task_decision: Which task it was about: ``noise``, ``recurring``, ``drifted``, ``new`` or
            ``undecided``; null where that was not asked.
        task: The version whose task that is; null: none.
        labels_used: Labels from its opening to its end.
        reason: One sentence.
    """

    number: int
    kind: str
    opened: int
    ended: int | None
    change_point: int | None
    support: int | None
    query: int | None
    holdout: int | None
    recipes: list[RecipeRow]
    winner: str | None
    outcome: str | None
    task_decision: str | None
    task: str | None
    labels_used: int | None
    reason: str


class GateRow(msgspec.Struct, frozen=True, kw_only=True):
    """A look at the holdout.

    Attributes:
        position: Events scored then.
        episode: Whose candidate.
        recipe: Which recipe made it.
        verdict: ``pass``, ``fail``, ``inconclusive`` or ``error``.
        enters_canary: Whether it went on to the canary.
        n: Holdout examples used.
        n_min: Least number for a verdict.
        champion_loss: Mean loss of the champion there.
        candidate_loss: Mean loss of the candidate there.
        p_value: Of the test.
        reason: One sentence.
    """

    position: int
    episode: int | None
    recipe: str | None
    verdict: str
    enters_canary: bool
    n: int | None
    n_min: int | None
    champion_loss: float | None
    candidate_loss: float | None
    p_value: float | None
    reason: str


class WeightRow(msgspec.Struct, frozen=True, kw_only=True):
    """From here on the candidate served this share of the answers.

    Attributes:
        position: Events scored then.
        weight_pct: Percent.
        labels: Paired labels of the rollout so far.
    """

    position: int
    weight_pct: float
    labels: int | None


class PauseRow(msgspec.Struct, frozen=True, kw_only=True):
    """A pause.

    Attributes:
        position: Events scored when it began.
        until: Events scored when it ended; null: never.
        cause: ``labels suspect``, ``operator``, ...
    """

    position: int
    until: int | None
    cause: str


class RolloutRow(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate's way to promotion, or not.

    Attributes:
        number: Its number.
        episode: Which episode made the candidate.
        candidate: The candidate's version.
        stable: The champion's version.
        recipe: Which recipe made the candidate.
        mode: ``shadow``, ``recommend`` or ``auto``.
        begun: Events scored when it began.
        ended: Events scored when the candidate was promoted or given up; null: still open.
        promoted: Events scored at the promotion; null: none.
        rolled_back: Events scored when a promotion was taken back; null: it was not.
        phase: The last phase.
        verdict: The last verdict of the paired test.
        labels: Paired labels.
        gain: Mean loss of stable minus candidate on them.
        risk: The share of the wrong-promotion budget that it may use.
        wrong_served: Wrong answers that the candidate served before it was promoted.
        weights: Its traffic.
        pauses: Its pauses.
        reason: One sentence, the last.
    """

    number: int
    episode: int | None
    candidate: str
    stable: str
    recipe: str | None
    mode: str | None
    begun: int
    ended: int | None
    promoted: int | None
    rolled_back: int | None
    phase: str
    verdict: str | None
    labels: int | None
    gain: float | None
    risk: float | None
    wrong_served: int | None
    weights: list[WeightRow]
    pauses: list[PauseRow]
    reason: str
