"""From a run's record to the story's numbers, and to the story."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from adapters.model_file import Model
from pipeline.demo import story
from pipeline.demo.plans import NEW_LANE
from pipeline.demo.record import Record
from pipeline.demo.story import Announced, Changes, Milestones, Opened, Outcome
from pipeline.messages import Decision
from pipeline.report.report_schema import Claim

META_LEARNED = ("maml", "reptile")


@dataclass(frozen=True, slots=True)
class Span:
    """Events ``start .. end - 1``."""

    start: int
    end: int

    def has(self, decision: Decision) -> bool:
        """Whether a decision was made within; what is decided at ``start`` saw no event of it."""
        return self.start < decision.position <= self.end

    @property
    def last_quarter(self) -> "Span":
        """The last quarter of the events."""
        return Span(self.end - (self.end - self.start) // 4, self.end)


def spans(record: Record) -> tuple[Span, ...]:
    """Return each stretch's span; chapter 4 has two."""
    return tuple(Span(*pair) for pair in pairwise(record.script.starts))


def tell(record: Record) -> list[Claim]:
    """Return every claim of the story, in order."""
    one, two, three, noisy, swapped, five, six, seven = spans(record)
    four = Span(noisy.start, swapped.end)
    second, fifth = milestones(record, two), milestones(record, five)
    announced, opened = announcement(record, six), new_lane(record, seven)
    suspicion = swapped_outcome(record, swapped)
    served, first, fitted = last_quarter(record)
    winner, accuracy = recipes(record, two)
    before_light = record.models[record.in_force(three.start)]
    before_trouble = record.models[record.in_force(four.start)]
    return [
        story.nothing_promoted(1, changes(record, one)),
        story.answered(2, second),
        story.over_first_champion(2, served, first),
        story.near_fitted(2, served, fitted),
        story.meta_learned_best(2, winner, accuracy),
        story.nothing_promoted(3, changes(record, three)),
        story.as_good_as_before(
            "3", _served(record, three), _accuracy(record, before_light, three)
        ),
        story.champion_untouched(4, changes(record, four)),
        story.held_as_suspect(4, suspicion),
        *(
            story.as_good_as_before(
                part, _served(record, half), _accuracy(record, before_trouble, half)
            )
            for part, half in (("4, at random", noisy), ("4, swapped", swapped))
        ),
        story.repaired(4, suspicion),
        story.recalled(5, fifth),
        story.fewer_labels(5, fifth.labels, second.labels),
        story.canary_before_labels(6, announced),
        story.fewer_stream_labels(6, announced, second.labels),
        story.new_class_signalled(7, opened),
        story.few_support_labels(7, opened),
        story.new_lane_recall(7, opened),
        story.other_lanes_kept(7, opened),
    ]


def last_quarter(record: Record) -> tuple[float, float, float]:
    """Return accuracy over chapter 2's last quarter: served, first champion, fitted model."""
    quarter = spans(record)[1].last_quarter
    return (
        _served(record, quarter),
        _accuracy(record, record.models[record.first], quarter),
        _accuracy(record, record.fitted[1], quarter),
    )


def changes(record: Record, span: Span) -> Changes:
    """Return what happened to the champion within a span."""
    within = [d for d in record.decisions if span.has(d)]
    return Changes(
        [str(d.facts["champion"]) for d in within if d.kind == "promotion"],
        [str(d.facts["champion"]) for d in within if d.kind == "rollback"],
    )


def milestones(record: Record, span: Span) -> Milestones:
    """Follow the span's first promotion back to the alarm that led to it."""
    within = [d for d in record.decisions if span.has(d)]
    promotion = _first(within, "promotion")
    if promotion is None:
        alarm = _first(within, "signal")
        return Milestones(detected=None if alarm is None else alarm.position)
    rollout = promotion.facts["rollout"]
    begun = next(d for d in within if d.kind == "rollout-begun" and d.facts["rollout"] == rollout)
    episode = begun.facts["episode"]
    own = [d for d in within if d.facts.get("episode") == episode]
    canary = next(
        (d for d in within if d.kind == "rollout-canary" and d.facts["rollout"] == rollout), None
    )
    gate = next((d for d in own if d.kind == "gate" and d.facts["verdict"] == "pass"), None)
    alarm = _alarm_of(within, _first(own, "episode-opened"))
    return Milestones(
        detected=None if alarm is None else alarm.position,
        adapted=_position(_first(own, "bake-off")),
        validated=_position(gate),
        canaried=_position(canary),
        promoted=promotion.position,
        labels=None if alarm is None else promotion.labels - alarm.labels,
        recipe=str(begun.facts["recipe"]),
    )


def recipes(record: Record, span: Span) -> tuple[str, dict[str, float]]:
    """Return the meta-learned recipe and each recipe's accuracy on the span's remaining events.

    All recipes are those of one bake-off, fitted to the same labels; the meta-learned one is the
    winner, or the better of the two where something else has won.
    """
    within = [d for d in record.decisions if span.has(d)]
    made = next((d for d in within if d.kind == "episode-ended" and d.facts["result"]), None)
    if made is None:
        return META_LEARNED[0], {}
    rest = Span(made.position, span.end)
    accuracy = {
        result.name: _accuracy(record, result.model, rest)
        for result in record.bake_offs[str(made.facts["result"])]
        if result.model is not None
    }
    winner = str(made.facts["winner"])
    if winner not in META_LEARNED:
        winner = max(META_LEARNED, key=lambda name: accuracy.get(name, 0.0))
    return winner, accuracy


def swapped_outcome(record: Record, span: Span) -> Outcome:
    """Return how the rollout under swapped labels stood at the span's end, and how it ended."""
    found = [d for d in record.decisions if d.kind.startswith("rollout-")]
    at_end = [d for d in found if d.position <= span.end and d.kind != "rollout-rejected"]
    last = at_end[-1] if at_end else None
    corrected = record.counts.get("corrected_labels", 0)
    if last is None or not span.has(last) or "paused" not in last.facts:
        return Outcome(None, None, "", corrected)
    after = [d for d in found if d.facts.get("rollout") == last.facts["rollout"]][-1]
    paused, weight = last.facts["paused"], last.facts["weight_pct"]
    return Outcome(
        paused=paused if isinstance(paused, str) else None,
        weight_pct=weight if isinstance(weight, int) else None,
        ended=str(after.facts["phase"]) if after is not last else "",
        corrected=corrected,
    )


def announcement(record: Record, span: Span) -> Announced:
    """Return how the plan announced at the span's start was met."""
    own = [d for d in record.decisions if d.position >= span.start]
    opened = next(
        (d for d in own if d.kind == "episode-opened" and d.facts["episode_kind"] == "announced"),
        None,
    )
    first_label = min(k for k in record.script.labelled if k >= span.start)
    first_label_ms = record.sent_ms[first_label]
    begun = next(
        (
            d
            for d in own
            if opened is not None
            and d.kind == "rollout-begun"
            and d.facts["episode"] == opened.facts["episode"]
        ),
        None,
    )
    if opened is None or begun is None:
        return Announced(None, first_label_ms, None, None)
    rollout = [d for d in own if d.facts.get("rollout") == begun.facts["rollout"]]
    canary, promotion = _first(rollout, "rollout-canary"), _first(rollout, "promotion")
    return Announced(
        canary_ms=None if canary is None else canary.at_ms,
        first_label_ms=first_label_ms,
        promoted=_position(promotion),
        labels=None if promotion is None else promotion.labels - opened.labels,
    )


def new_lane(record: Record, span: Span) -> Opened:
    """Return how the lane that opens at the span's start was met.

    The promotion is the span's first one of a model that names the lane.
    """
    within = [d for d in record.decisions if span.has(d)]
    signalled = next((d.position for d in within if _names_the_new_lane(d)), None)
    promotion = next(
        (
            d
            for d in within
            if d.kind == "promotion"
            and NEW_LANE in record.models[str(d.facts["champion"])].class_names
        ),
        None,
    )
    if promotion is None:
        return Opened(signalled)
    after = Span(promotion.position, span.end)
    right = 1.0 - record.served_losses()[after.start : after.end]
    before = record.models[record.in_force(promotion.position - 1)]
    known = 1.0 - record.losses_of(before, after.start, after.end)
    own = np.array([lane == NEW_LANE for lane in record.script.truth[after.start : after.end]])
    return Opened(
        signalled,
        promotion.position,
        _support_of_the_new_lane(within, promotion),
        float(right[own].mean()) if own.any() else None,
        float(right[~own].mean()) if not own.all() else None,
        float(known[~own].mean()) if not own.all() else None,
    )


def _names_the_new_lane(decision: Decision) -> bool:
    signal = decision.facts.get("signal")
    return (
        decision.kind == "signal"
        and isinstance(signal, Mapping)
        and signal["kind"] == "new_class"
        and f"class {NEW_LANE!r}" in str(signal["detail"])
    )


def _support_of_the_new_lane(decisions: Sequence[Decision], promotion: Decision) -> int | None:
    """Return how many labels of the lane the promoted model learned from."""
    rollout = promotion.facts["rollout"]
    begun = next(
        d for d in decisions if d.kind == "rollout-begun" and d.facts["rollout"] == rollout
    )
    asked = [
        d
        for d in decisions
        if d.kind == "bake-off" and d.facts["episode"] == begun.facts["episode"]
    ]
    counts = asked[-1].facts["new_classes"] if asked else None
    return counts.get(NEW_LANE) if isinstance(counts, Mapping) else None


def _first(decisions: Sequence[Decision], kind: str) -> Decision | None:
    return next((d for d in decisions if d.kind == kind), None)


def _alarm_of(decisions: Sequence[Decision], opened: Decision | None) -> Decision | None:
    """Return the first alarm about the change that an episode looked into."""
    if opened is None:
        return None
    for decision in decisions:
        if decision.kind == "signal" and decision.position <= opened.position:
            signal = decision.facts["signal"]
            if isinstance(signal, Mapping) and signal["kind"] == "error":
                return decision
    return opened


def _position(decision: Decision | None) -> int | None:
    return None if decision is None else decision.position


def _served(record: Record, span: Span) -> float:
    return float(1.0 - record.served_losses()[span.start : span.end].mean())


def _accuracy(record: Record, model: Model, span: Span) -> float:
    return float(1.0 - record.losses_of(model, span.start, span.end).mean())
