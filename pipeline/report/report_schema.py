"""What ``report.json`` (replay) and ``summary.json`` (demo) hold; published as a JSON Schema.

Positions count events from 0 in the order they were scored; a boundary is the position of the
first event of a new regime. ``accuracy`` is null for regression; ``loss`` is the loss in [0, 1]
that every test of metadrift takes (0/1, or |error| / (4 x training MAE) clipped at 1).
"""

from typing import Literal

import msgspec

from pipeline.report.report_rows import EpisodeRow, GateRow, RolloutRow, SignalRow

FORMAT = "metadrift-report/1"

BoundaryOutcome = Literal["decided", "too few labels"]
RecoveryReference = Literal["oracle", "before"]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A model over some events.

    Attributes:
        events: How many events with a known truth.
        accuracy: Share of right answers; null for regression and where there are no events.
        loss: Mean loss in [0, 1]; null where there are no events.
    """

    events: int
    accuracy: float | None
    loss: float | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What was served, and the stream's first champion on the same events."""

    served: Score
    frozen: Score


class Overall(msgspec.Struct, frozen=True, kw_only=True):
    """The whole stream.

    Attributes:
        whole: Every event with a known truth.
        first_50: The first 50 events after each true boundary, pooled.
        first_100: The first 100 events after each true boundary, pooled.
        no_change: Accuracy of predicting the label before, known at once.
        no_change_late: The same with labels as few and late as the stream's own.
        kappa_temporal: (accuracy - no_change) / (1 - no_change) of what was served.
        kappa_temporal_late: The same against ``no_change_late``.
    """

    whole: Comparison
    first_50: Comparison
    first_100: Comparison
    no_change: float | None
    no_change_late: float | None
    kappa_temporal: float | None
    kappa_temporal_late: float | None


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """How soon the served model was good again.

    Attributes:
        events: Least n after which the mean over the next 50 events is at least 95 % of the
            reference; null: not before the regime's end (censored).
        reference: That accuracy (regression: 1 - loss).
        against: ``oracle``: of a model trained on the regime; ``before``: of the served model
            over the last 200 events before the boundary.
        area_lost: Sum over the regime's events of reference minus served accuracy; only
            against an oracle.
    """

    events: int | None
    reference: float
    against: RecoveryReference
    area_lost: float | None


class BoundaryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One regime: from a true boundary to the next one or the end.

    Attributes:
        position: Its first event.
        end: The event after its last one.
        name: What the regime is called.
        outcome: ``too few labels``: nothing was concluded, and fewer labels came than an episode
            needs, or an episode or rollout was still without its verdict at the end; else
            ``decided``.
        concluded: What was concluded, in order: ``frozen wins``, ``promoted <version>``, ...
        alarm: Position of its first alarm; null: none.
        alarm_by: Which detector.
        delay: Events from the boundary to the alarm.
        detected: Position of the first alarm that a detector raised: from losses, confidence or
            inputs, not because a task name or a person told; null: none.
        detected_by: Which detector.
        detection_delay: Events from the boundary to that alarm.
        promoted: Position of its first promotion; null: none.
        labels: Labels that arrived within it.
        labels_used: Labels that arrived from the boundary to the first promotion (else to the
            last conclusion): detection and adaptation together; null: nothing was concluded.
        recovery: Null where there is nothing to compare with.
        whole: All its events.
        first_50: Its first 50 events.
        first_100: Its first 100 events.
        last_quarter: The last quarter of its events.
    """

    position: int
    end: int
    name: str | None
    outcome: BoundaryOutcome
    concluded: list[str]
    alarm: int | None
    alarm_by: str | None
    delay: int | None
    detected: int | None
    detected_by: str | None
    detection_delay: int | None
    promoted: int | None
    labels: int
    labels_used: int | None
    recovery: Recovery | None
    whole: Comparison
    first_50: Comparison
    first_100: Comparison
    last_quarter: Comparison


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted.

    Attributes:
        events: Events scored.
        labels: Labels joined.
        evicted: Events that left the window without a label.
        orphans: Labels whose event never came.
        dead_letters: Records that could not be used.
        promotions: Promotions.
        rollbacks: Promotions taken back.
        other: Every other counter by name.
    """

    events: int
    labels: int
    evicted: int
    orphans: int
    dead_letters: int
    promotions: int
    rollbacks: int
    other: dict[str, int]


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A claim of the demo, and whether the numbers bear it out."""

    claim: str
    held: bool
    evidence: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report.

    Attributes:
        format: Names this format and its version.
        source: What was read: a file's name, ``demo``, a journal.
        model: ``model.name``.
        task_type: ``classification`` or ``regression``.
        seeds: Every seed by purpose.
        versions: Python and library versions.
        notes: What a reader must know to judge the numbers.
        counts: What was counted.
        overall: Quality over the whole stream.
        boundaries: Quality and reactions per true boundary; empty where none is known.
        signals: Every signal.
        episodes: Every episode.
        gates: Every look at a holdout.
        rollouts: Every rollout.
        story: The demo's claims; null elsewhere.
    """

    format: str = FORMAT
    source: str
    model: str
    task_type: Literal["classification", "regression"]
    seeds: dict[str, int]
    versions: dict[str, str]
    notes: list[str]
    counts: Counts
    overall: Overall
    boundaries: list[BoundaryRow]
    signals: list[SignalRow]
    episodes: list[EpisodeRow]
    gates: list[GateRow]
    rollouts: list[RolloutRow]
    story: list[Claim] | None = None


def report_json_schema() -> dict[str, object]:
    """Return the JSON Schema (2020-12) of a report."""
    schema: dict[str, object] = msgspec.json.schema(Report)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": FORMAT,
        **schema,
    }


def encode_report(report: Report) -> bytes:
    """Return the report as indented JSON with a final newline; NaN becomes null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def decode_report(document: bytes) -> Report:
    """Read what ``encode_report`` wrote.

    Raises:
        msgspec.ValidationError: It is no report of this format.
    """
    report = msgspec.json.decode(document, type=Report)
    if report.format != FORMAT:
        raise msgspec.ValidationError(
            f"format is {report.format!r}; this release reads {FORMAT!r}: make the report again"
        )
    return report
