"""The demo's story: what it promises chapter by chapter, each held against the numbers of the run.

Every claim is a pure function of measured numbers, so every claim can fail.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.report.report_schema import Claim

POINTS_OVER_FROZEN = 0.30
SHARE_OF_FITTED = 0.90
POINTS_OVER_OTHERS = 0.05
POINTS_LOST = 0.01
SHARE_OF_LABELS = 0.75
MOST_SUPPORT_LABELS = 20
LEAST_RECALL = 0.7
EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Milestones:
    """Positions at which a chapter's drift was answered; None where it was not.

    Attributes:
        detected: The alarm that its promoted candidate goes back to.
        adapted: The bake-off.
        validated: The gate's PASS.
        canaried: The first canary step.
        promoted: The promotion.
        labels: Labels from the alarm to the promotion.
        recipe: How the promoted candidate was made.
    """

    detected: int | None = None
    adapted: int | None = None
    validated: int | None = None
    canaried: int | None = None
    promoted: int | None = None
    labels: int | None = None
    recipe: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to the champion within a chapter: names of versions."""

    promoted: Sequence[str] = ()
    taken_back: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Announced:
    """How the announced plan was met.

    Attributes:
        canary_ms: When its candidate entered the first canary step; None: never.
        first_label_ms: When the first label of the plan's own events was sent.
        promoted: Position of the promotion, or None.
        labels: Labels of events from the announcement to the promotion.
    """

    canary_ms: int | None
    first_label_ms: int
    promoted: int | None
    labels: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How chapter 4's rollout under swapped labels stood.

    Attributes:
        paused: Why it was paused last in that half; None: it was not, or there was none.
        weight_pct: Share of the answers that its candidate then gave.
        ended: How it ended after the repair; empty: it did not.
        corrected: Wrong labels that the demo has sent again.
    """

    paused: str | None
    weight_pct: int | None
    ended: str
    corrected: int


@dataclass(frozen=True, slots=True)
class Opened:
    """How the lane that never was before was met.

    Attributes:
        signalled: Position of the new-class signal that names it, or None.
        promoted: Position of the promotion of a model that knows it, or None.
        support: Labels of the lane that this model learned from.
        recall: Share of the lane's events after the promotion that were answered rightly.
        others: The same of the other lanes' events.
        before: What the champion before it answers rightly of those.
    """

    signalled: int | None = None
    promoted: int | None = None
    support: int | None = None
    recall: float | None = None
    others: float | None = None
    before: float | None = None


def nothing_promoted(chapter: int, changes: Changes) -> Claim:
    """In a chapter without a reason to change, nothing is promoted."""
    return Claim(
        claim=f"{chapter}: nothing is promoted",
        held=not changes.promoted,
        evidence=_changes(changes),
    )


def champion_untouched(chapter: int, changes: Changes) -> Claim:
    """Wrong labels change nothing: nothing is promoted or taken back to an older model."""
    return Claim(
        claim=f"{chapter}: nothing is promoted or rolled back to an older model",
        held=not changes.promoted and not changes.taken_back,
        evidence=_changes(changes),
    )


def answered(chapter: int, seen: Milestones) -> Claim:
    """A new plan is detected, adapted to, validated, canaried and promoted, in this order."""
    steps = {
        "detected": seen.detected,
        "adapted": seen.adapted,
        "validated": seen.validated,
        "canaried": seen.canaried,
        "promoted": seen.promoted,
    }
    places = [place for place in steps.values() if place is not None]
    return Claim(
        claim=f"{chapter}: the new plan is detected, adapted to, validated, canaried and promoted",
        held=len(places) == len(steps) and places == sorted(places),
        evidence=", ".join(
            f"{word} at event {place}" if place is not None else f"not {word}"
            for word, place in steps.items()
        )
        + (f" ({seen.recipe}, {seen.labels} labels)" if seen.promoted is not None else ""),
    )


def over_first_champion(chapter: int, served: float, first: float) -> Claim:
    """What was served beats the first champion by far."""
    return Claim(
        claim=f"{chapter}: at least 30 points above the first champion in the last quarter",
        held=served - first >= POINTS_OVER_FROZEN - EXACT,
        evidence=f"{_pct(served)} served against {_pct(first)} of the first champion",
    )


def near_fitted(chapter: int, served: float, fitted: float) -> Claim:
    """What was served is nearly as good as a model fitted to the plan with every label."""
    return Claim(
        claim=f"{chapter}: at least 90 % of a model fitted to the plan in the last quarter",
        held=served >= SHARE_OF_FITTED * fitted - EXACT,
        evidence=f"{_pct(served)} served, {_pct(served / fitted) if fitted else 'all'} of the "
        f"{_pct(fitted)} of a model fitted to the plan with every label of the other half",
    )


def meta_learned_best(chapter: int, meta: str, accuracy: Mapping[str, float]) -> Claim:
    """The meta-learned recipe beats fine-tuning and scratch on the same labels.

    Args:
        chapter: Its number.
        meta: The meta-learned recipe.
        accuracy: By recipe, on the chapter's remaining events; a recipe that failed is absent.
    """
    others = [accuracy[name] for name in ("fine_tune", "scratch") if name in accuracy]
    best = accuracy.get(meta)
    held = (
        best is not None
        and len(others) == 2
        and all(best - other >= POINTS_OVER_OTHERS - EXACT for other in others)
    )
    return Claim(
        claim=f"{chapter}: the meta-learned recipe is at least 5 points above fine-tuning and "
        "scratch on the same labels",
        held=held,
        evidence=", ".join(f"{name} {_pct(value)}" for name, value in accuracy.items())
        or "no bake-off",
    )


def as_good_as_before(part: str, served: float, before: float) -> Claim:
    """What was served is at most a point worse than the model in force before."""
    return Claim(
        claim=f"{part}: served at most 1 point under the model in force before",
        held=served >= before - POINTS_LOST - EXACT,
        evidence=f"{_pct(served)} served against {_pct(before)} on the same events",
    )


def held_as_suspect(chapter: int, seen: Outcome) -> Claim:
    """The rollout made from swapped labels ends paused, its candidate out of traffic."""
    held = seen.paused == "suspect" and seen.weight_pct == 0
    weight = f", candidate at {seen.weight_pct} %" if seen.weight_pct is not None else ""
    return Claim(
        claim=f"{chapter}: with the lanes swapped the rollout ends paused as labels suspect",
        held=held,
        evidence=f"paused: {seen.paused or 'no'}{weight}",
    )


def repaired(chapter: int, seen: Outcome) -> Claim:
    """The person's repair is taken: labels corrected, the candidate rejected."""
    return Claim(
        claim=f"{chapter}: the labels are repaired and the candidate is rejected",
        held=seen.ended == "rejected" and seen.corrected > 0,
        evidence=f"{seen.corrected} labels corrected, rollout {seen.ended or 'still open'}",
    )


def recalled(chapter: int, seen: Milestones) -> Claim:
    """An earlier champion comes back."""
    return Claim(
        claim=f"{chapter}: an earlier champion is recalled and promoted",
        held=seen.promoted is not None and seen.recipe.startswith("recalled"),
        evidence=f"{seen.recipe} promoted at event {seen.promoted}"
        if seen.promoted is not None
        else "nothing was promoted",
    )


def fewer_labels(chapter: int, used: int | None, before: int | None) -> Claim:
    """Recalling takes at most three quarters of the labels that learning took."""
    held = used is not None and before is not None and used <= SHARE_OF_LABELS * before
    return Claim(
        claim=f"{chapter}: at most three quarters of chapter 2's labels, detection to promotion",
        held=held,
        evidence=f"{_count(used)} labels against {_count(before)}",
    )


def canary_before_labels(chapter: int, seen: Announced) -> Claim:
    """The announced plan's candidate is in its canary before any label of its own events."""
    held = seen.canary_ms is not None and seen.canary_ms < seen.first_label_ms
    when = "never"
    if seen.canary_ms is not None:
        lead_s = (seen.first_label_ms - seen.canary_ms) / 1000
        when = f"{abs(lead_s):.2f} s {'before' if lead_s > 0 else 'after'} that label was sent"
    return Claim(
        claim=f"{chapter}: the candidate is in its first canary step before the first label of the "
        "new plan's own events arrives",
        held=held,
        evidence=f"in the canary {when}",
    )


def fewer_stream_labels(chapter: int, seen: Announced, before: int | None) -> Claim:
    """An announced plan needs fewer labels of events than an unannounced one."""
    held = (
        seen.promoted is not None
        and seen.labels is not None
        and before is not None
        and seen.labels < before
    )
    return Claim(
        claim=f"{chapter}: promoted with fewer stream labels than chapter 2 needed",
        held=held,
        evidence=f"{_count(seen.labels)} labels against {_count(before)}",
    )


def new_class_signalled(chapter: int, seen: Opened) -> Claim:
    """The lane that no model knows is signalled as a new class."""
    return Claim(
        claim=f"{chapter}: the new lane is signalled as a new class",
        held=seen.signalled is not None,
        evidence="no such signal" if seen.signalled is None else f"at event {seen.signalled}",
    )


def few_support_labels(chapter: int, seen: Opened) -> Claim:
    """A model that knows the new lane is promoted, and few labels of the lane taught it."""
    held = (
        seen.promoted is not None
        and seen.support is not None
        and 0 < seen.support <= MOST_SUPPORT_LABELS
    )
    return Claim(
        claim=f"{chapter}: a model that knows the new lane is promoted, from at most "
        f"{MOST_SUPPORT_LABELS} support labels of it",
        held=held,
        evidence="no promotion"
        if seen.promoted is None
        else f"promoted at event {seen.promoted} from {seen.support} support labels of it",
    )


def new_lane_recall(chapter: int, seen: Opened) -> Claim:
    """The new lane is served."""
    return Claim(
        claim=f"{chapter}: recall of the new lane is at least {LEAST_RECALL:.0%} after promotion",
        held=seen.recall is not None and seen.recall >= LEAST_RECALL - EXACT,
        evidence="no promotion, or no event of the lane after it"
        if seen.recall is None
        else f"{_pct(seen.recall)} of its events after the promotion",
    )


def other_lanes_kept(chapter: int, seen: Opened) -> Claim:
    """The other lanes hardly pay for it."""
    held = (
        seen.others is not None
        and seen.before is not None
        and seen.others >= seen.before - POINTS_LOST - EXACT
    )
    return Claim(
        claim=f"{chapter}: the other lanes lose at most 1 point",
        held=held,
        evidence="no promotion, or no event of them after it"
        if seen.others is None or seen.before is None
        else f"{_pct(seen.others)} served after the promotion against {_pct(seen.before)} of the "
        "champion before it on the same events",
    )


def _changes(changes: Changes) -> str:
    parts = [f"promoted {name}" for name in changes.promoted]
    parts += [f"{name} came back" for name in changes.taken_back]
    return ", ".join(parts) or "no promotion, no rollback"


def _pct(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(n: int | None) -> str:
    return "no promotion" if n is None else str(n)
