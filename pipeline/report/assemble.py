"""Puts a report together from losses per event, label arrivals and decisions. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.messages import Decision
from pipeline.report.decision_rows import DecisionRows, read_decisions, rows_of_decisions
from pipeline.report.measures import (
    StreamLosses,
    compare,
    first_events,
    kappa_temporal,
    no_change_accuracy,
    pool,
    recovery,
)
from pipeline.report.report_rows import RolloutRow, SignalRow
from pipeline.report.report_schema import BoundaryRow, Claim, Counts, Overall, Report

TOLD = frozenset({"new_task", "announced", "forced"})
"""Kinds of signals and episodes that somebody announced."""
SEEN = frozenset({"error", "confidence", "features"})
"""Kinds of signals that a detector raised, from losses, confidence or inputs alone."""
ALARMS = TOLD | SEEN | {"new_class"}
"""Kinds of signals that count as an alarm."""
TOO_FEW: Final = "too few labels"


@dataclass(frozen=True, slots=True)
class Boundary:
    """A true boundary.

    Attributes:
        position: First event of the new regime.
        name: What the regime is called.
        oracle: Accuracy of a model trained on it, where one was trained.
    """

    position: int
    name: str | None = None
    oracle: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RunFacts:
    """What a run was and what it counted.

    Attributes:
        source: A file's name, ``demo``, a journal.
        model: ``model.name``.
        task_type: Classification or regression.
        events: Events scored.
        labels_at: ``(labels,)`` rising: events scored when each label arrived.
        labels_needed: Labels that an episode needs: support + query + holdout.
        label_delay: Delay of the labels in events, for No-Change.
        labelled: ``(n,)`` whose labels arrived at all, for No-Change; None: all.
        evicted: Events that left the window without a label.
        orphans: Labels whose event never came.
        dead_letters: Records that could not be used.
        counts: Every other counter by name.
        seeds: Every seed by purpose.
        versions: Python and library versions.
        notes: What a reader must know to judge the numbers.
    """

    source: str
    model: str
    task_type: Literal["classification", "regression"]
    events: int
    labels_at: NDArray[np.int64]
    labels_needed: int
    label_delay: int = 0
    labelled: NDArray[np.bool_] | None = None
    evicted: int = 0
    orphans: int = 0
    dead_letters: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def assemble(
    facts: RunFacts,
    stream: StreamLosses,
    decisions: Iterable[Decision | Mapping[str, object]],
    boundaries: Sequence[Boundary] = (),
    story: Sequence[Claim] | None = None,
) -> Report:
    """Return the report.

    Args:
        facts: What the run was and counted.
        stream: Losses of the events whose truth is known.
        decisions: As published on the decisions topic, in order.
        boundaries: True boundaries, rising; empty where none is known.
        story: The demo's claims.

    Raises:
        ValueError: Boundaries do not rise within the stream.
        msgspec.ValidationError: A decision is none.
    """
    _check(boundaries, facts.events)
    rows = rows_of_decisions(read_decisions(decisions))
    ends = [*(b.position for b in boundaries), facts.events][1:]
    return Report(
        source=facts.source,
        model=facts.model,
        task_type=facts.task_type,
        seeds=dict(facts.seeds),
        versions=dict(facts.versions),
        notes=list(facts.notes),
        counts=_counts(facts, rows),
        overall=_overall(facts, stream, boundaries, ends),
        boundaries=[
            _boundary(facts, stream, rows, boundary, end)
            for boundary, end in zip(boundaries, ends, strict=True)
        ],
        signals=rows.signals,
        episodes=rows.episodes,
        gates=rows.gates,
        rollouts=rows.rollouts,
        story=None if story is None else list(story),
    )


def _check(boundaries: Sequence[Boundary], events: int) -> None:
    places = [b.position for b in boundaries]
    rising = all(a < b for a, b in zip([0, *places], [*places, events], strict=True))
    if places and not rising:
        raise ValueError(f"boundaries {places} must rise within 1..{events - 1}")


def _counts(facts: RunFacts, rows: DecisionRows) -> Counts:
    return Counts(
        events=facts.events,
        labels=len(facts.labels_at),
        evicted=facts.evicted,
        orphans=facts.orphans,
        dead_letters=facts.dead_letters,
        promotions=sum(r.promoted is not None for r in rows.rollouts),
        rollbacks=sum(r.promoted is not None and r.rolled_back is not None for r in rows.rollouts),
        other=dict(facts.counts),
    )


def _overall(
    facts: RunFacts, stream: StreamLosses, boundaries: Sequence[Boundary], ends: Sequence[int]
) -> Overall:
    classification = facts.task_type == "classification"
    whole = compare(stream, classification=classification)
    prompt = late = None
    if classification:
        prompt = no_change_accuracy(stream.truth)
        late = no_change_accuracy(stream.truth, facts.label_delay, facts.labelled)

    def pooled(n: int) -> StreamLosses:
        return pool(
            [
                first_events(stream, b.position, end, n)
                for b, end in zip(boundaries, ends, strict=True)
            ]
        )

    return Overall(
        whole=whole,
        first_50=compare(pooled(50), classification=classification),
        first_100=compare(pooled(100), classification=classification),
        no_change=prompt,
        no_change_late=late,
        kappa_temporal=kappa_temporal(whole.served.accuracy, prompt),
        kappa_temporal_late=kappa_temporal(whole.served.accuracy, late),
    )


def _boundary(
    facts: RunFacts, stream: StreamLosses, rows: DecisionRows, boundary: Boundary, end: int
) -> BoundaryRow:
    classification, start = facts.task_type == "classification", boundary.position
    alarm = _first_alarm(rows.signals, start, end, ALARMS)
    detected = _first_alarm(rows.signals, start, end, SEEN)
    conclusions = _conclusions(rows, start, end)
    promoted = min((p for p, _, moved in conclusions if moved), default=None)
    concluded_at = promoted
    if concluded_at is None and conclusions:
        concluded_at = conclusions[-1][0]
    labels = _labels(facts, start, end)
    open_at_end = _open_at(rows, start, end)
    given_up = bool(conclusions) and all(what == TOO_FEW for _, what, _ in conclusions)
    too_few = open_at_end or given_up or (not conclusions and labels < facts.labels_needed)

    return BoundaryRow(
        position=start,
        end=end,
        name=boundary.name,
        outcome=TOO_FEW if too_few else "decided",
        concluded=[what for _, what, _ in conclusions],
        alarm=alarm.position if alarm else None,
        alarm_by=alarm.detector if alarm else None,
        delay=alarm.position - start if alarm else None,
        detected=detected.position if detected else None,
        detected_by=detected.detector if detected else None,
        detection_delay=detected.position - start if detected else None,
        promoted=promoted,
        labels=labels,
        labels_used=None if concluded_at is None else _labels(facts, start, concluded_at),
        recovery=recovery(stream, start, end, boundary.oracle),
        whole=compare(stream.between(start, end), classification=classification),
        first_50=compare(first_events(stream, start, end, 50), classification=classification),
        first_100=compare(first_events(stream, start, end, 100), classification=classification),
        last_quarter=compare(
            stream.between(end - max(1, (end - start) // 4), end), classification=classification
        ),
    )


def _within(position: int, start: int, end: int, *, announced: bool) -> bool:
    """Whether something happened within a regime.

    A position counts the events scored by then, so what happens at ``start`` has seen no event
    of the regime yet and belongs to the one before, unless it announces the regime.
    """
    return start <= position < end if announced else start < position <= end


def _first_alarm(
    signals: Sequence[SignalRow], start: int, end: int, kinds: frozenset[str]
) -> SignalRow | None:
    for s in signals:
        if s.kind in kinds and _within(s.position, start, end, announced=s.kind in TOLD):
            return s
    return None


def _labels(facts: RunFacts, start: int, end: int) -> int:
    low, high = np.searchsorted(facts.labels_at, [start, end], side="right")
    return int(high - low)


def _conclusions(rows: DecisionRows, start: int, end: int) -> list[tuple[int, str, bool]]:
    """Return (position, what, whether the champion changed) within a regime, in order."""
    found: list[tuple[int, str, bool]] = []
    for episode in rows.episodes:
        if episode.ended is None or any(r.episode == episode.number for r in rows.rollouts):
            continue  # what its rollout concludes counts
        if _within(episode.ended, start, end, announced=episode.kind in TOLD):
            found.append((episode.ended, episode.outcome or "unknown", False))
    for rollout in rows.rollouts:
        found += [e for e in _ends_of(rollout) if _within(e[0], start, end, announced=False)]
    return sorted(found)


def _ends_of(rollout: RolloutRow) -> list[tuple[int, str, bool]]:
    found = []
    if rollout.promoted is not None:
        found.append((rollout.promoted, f"promoted {rollout.candidate}", True))
        if rollout.rolled_back is not None:
            what = f"rolled back {rollout.candidate}"
            found.append((rollout.rolled_back, what, False))
    elif rollout.ended is not None:
        what = rollout.phase.replace("_", " ")
        found.append((rollout.ended, f"{what} {rollout.candidate}", False))
    return found


def _open_at(rows: DecisionRows, start: int, end: int) -> bool:
    """Whether what opened in a regime was still without its verdict at the regime's end."""
    told = {e.number for e in rows.episodes if e.kind in TOLD}
    spans = [(e.opened, e.ended, e.number in told) for e in rows.episodes]
    spans += [(r.begun, r.ended, r.episode in told) for r in rows.rollouts]
    return any(
        _within(opened, start, end, announced=announced) and (closed is None or closed > end)
        for opened, closed, announced in spans
    )
