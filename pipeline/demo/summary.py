"""The end of the demo: report in the published schema, picture, table."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.demo.chapters import LABEL_DELAY_S, RATE
from pipeline.demo.evidence import spans, tell
from pipeline.demo.record import Record
from pipeline.report.assemble import Boundary, RunFacts, assemble
from pipeline.report.measures import StreamLosses
from pipeline.report.report_schema import Report
from pipeline.report.timeline import Words, draw_timeline
from pipeline.settings import Settings

TITLE = "A sorting centre whose plans change without notice"


def stream_losses(record: Record) -> StreamLosses:
    """Return the losses of what was served and of the first champion, against the truth."""
    n = len(record.script.ids)
    return StreamLosses(
        np.arange(n),
        record.served_losses(),
        record.losses_of(record.models[record.first], 0, n),
        record.script.truth,
    )


def report_of(record: Record, settings: Settings, seed: int, versions: Mapping[str, str]) -> Report:
    """Return the report with the story."""
    n, counts = len(record.script.ids), dict(record.counts)
    labelled = np.zeros(n, np.bool_)
    labelled[list(record.sent_ms)] = True
    episode = settings.episode
    facts = RunFacts(
        source="demo",
        model=settings.model.name,
        task_type=settings.model.task_type,
        events=n,
        labels_at=record.labels_at(),
        labels_needed=episode.support + episode.query + episode.holdout,
        label_delay=round(LABEL_DELAY_S * RATE),
        labelled=labelled,
        dead_letters=counts.get("dead_letters", 0),
        counts=counts,
        seeds={"demo": seed, "episode": episode.seed},
        versions=versions,
    )
    return assemble(
        facts,
        stream_losses(record),
        [*record.decisions, *record.standing],
        boundaries(record),
        tell(record),
    )


def boundaries(record: Record) -> list[Boundary]:
    """Return the true moments of change; new lanes' with the accuracy of a model fitted to them."""
    found = []
    before = record.script.stretches[0].lanes
    for i, (stretch, span) in enumerate(zip(record.script.stretches, spans(record), strict=True)):
        if i:
            oracle = None
            if stretch.lanes != before:
                losses = record.losses_of(record.fitted[i], span.start, span.end)
                oracle = float(1.0 - losses.mean())
            found.append(Boundary(span.start, stretch.name, oracle))
        before = stretch.lanes
    return found


def draw(path: Path, report: Report, record: Record, seed: int) -> None:
    """Write the picture."""
    held = sum(claim.held for claim in report.story or ())
    words = Words(
        TITLE,
        f"{report.counts.events:,} parcels, a label for every fifth, {LABEL_DELAY_S:g} s late; "
        f"seed {seed}; {held} of {len(report.story or ())} claims hold",
    )
    draw_timeline(path, report, stream_losses(record), words)
