"""The report as tables for people."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.report.report_rows import EpisodeRow, RolloutRow
from pipeline.report.report_schema import Comparison, Report, Score

NONE = "-"


def report_tables(report: Report) -> RenderableType:
    """Return what ``rich`` prints: quality, regimes, episodes, rollouts, counts and claims."""
    parts: list[RenderableType] = [_quality(report)]
    if report.boundaries:
        parts += _regimes(report)
    if report.episodes:
        parts += _episodes(report.episodes)
    if report.rollouts:
        parts += _rollouts(report.rollouts)
    if report.story is not None:
        parts.append(_story(report))
    parts.append(_counts(report))
    return Group(*parts)


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """Return an empty table: columns of words, then columns of numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def share(score: Score) -> str:
    """Return accuracy in percent, or for regression the mean loss.

    >>> share(Score(events=10, accuracy=0.9, loss=0.1))
    '90.0 %'
    >>> share(Score(events=10, accuracy=None, loss=0.25))
    'loss 0.250'
    """
    if score.accuracy is not None:
        return f"{score.accuracy:.1%}".replace("%", " %")
    return NONE if score.loss is None else f"loss {score.loss:.3f}"


def gain(pair: Comparison) -> str:
    """Return what metadrift gained over the frozen model, in points.

    >>> gain(Comparison(served=Score(events=2, accuracy=1.0, loss=0.0),
    ...                 frozen=Score(events=2, accuracy=0.5, loss=0.5)))
    '+50.0'
    """
    if pair.served.loss is None or pair.frozen.loss is None:
        return NONE
    return f"{100 * (pair.frozen.loss - pair.served.loss):+.1f}"


def number(value: float | None, form: str = "g") -> str:
    """Return a number, or a dash where there is none."""
    return NONE if value is None else format(value, form)


def _quality(report: Report) -> Table:
    table = _table(f"{report.source}: served against the frozen model", ["events"], _PAIR)
    overall = report.overall
    rows = [("the whole stream", overall.whole)]
    if report.boundaries:
        rows += [
            ("first 50 after each boundary", overall.first_50),
            ("first 100 after each boundary", overall.first_100),
        ]
    for name, pair in rows:
        table.add_row(name, str(pair.served.events), *_pair(pair))
    if overall.kappa_temporal is not None:
        late = number(overall.kappa_temporal_late, ".3f")
        table.caption = (
            f"kappa-temporal {overall.kappa_temporal:.3f}; {late} against labels as late as here"
        )
        table.caption_justify = "left"
    return table


_PAIR = ("n", "served", "frozen", "points")


def _pair(pair: Comparison) -> tuple[str, str, str]:
    return share(pair.served), share(pair.frozen), gain(pair)


def _regimes(report: Report) -> list[RenderableType]:
    """Return two tables, since one is wider than a terminal of 80 columns."""
    found = _table(
        "true boundaries",
        ["regime", "outcome", "concluded"],
        ["from", "alarm\nafter", "detected\nafter", "labels\nused"],
    )
    served = _table("served after them", ["regime"], ["recovery", *_PAIR[1:], "at end"])
    for row in report.boundaries:
        recovered = NONE
        if row.recovery is not None:
            recovered = "not yet" if row.recovery.events is None else str(row.recovery.events)
        found.add_row(
            row.name or NONE,
            row.outcome,
            ", ".join(row.concluded) or NONE,
            str(row.position),
            number(row.delay),
            number(row.detection_delay),
            number(row.labels_used),
        )
        served.add_row(
            row.name or NONE, recovered, *_pair(row.whole), share(row.last_quarter.served)
        )
    return [found, served]


def _episodes(episodes: Sequence[EpisodeRow]) -> list[RenderableType]:
    """Return the table, then a line of losses each: a column of them is too narrow to read."""
    table = _table(
        "episodes", ["no", "kind", "task", "winner", "outcome"], ["opened", "labels used"]
    )
    parts: list[RenderableType] = [table]
    for row in episodes:
        losses = [
            f"{r.name} {number(r.query_loss, '.2f') if r.outcome == 'ok' else r.outcome}"
            for r in row.recipes
        ]
        table.add_row(
            str(row.number),
            row.kind,
            " ".join(filter(None, (row.task_decision, row.task))) or NONE,
            row.winner or NONE,
            row.outcome or "open",
            str(row.opened),
            number(row.labels_used),
        )
        if losses:
            parts.append(Text(f"episode {row.number}, query loss: {', '.join(losses)}"))
    return parts


def _rollouts(rollouts: Sequence[RolloutRow]) -> list[RenderableType]:
    """Return the table, then a line of reasons each."""
    table = _table(
        "rollouts",
        ["no", "candidate", "end"],
        ["begun", "ended", "labels", "gain", "wrong served"],
    )
    parts: list[RenderableType] = [table]
    for row in rollouts:
        table.add_row(
            str(row.number),
            f"{row.candidate} ({row.recipe or NONE})",
            row.phase.replace("_", " "),
            str(row.begun),
            number(row.ended),
            number(row.labels),
            number(row.gain, "+.3f"),
            number(row.wrong_served),
        )
        if row.reason:
            parts.append(Text(f"rollout {row.number}: {row.reason}"))
    return parts


def _story(report: Report) -> Table:
    table = _table("claims", ["", "claim", "evidence"], [])
    for claim in report.story or []:
        held = Text("held", "green") if claim.held else Text("FAILED", "bold red")
        table.add_row(held, claim.claim, claim.evidence)
    return table


def _counts(report: Report) -> Text:
    counts = report.counts
    return Text(
        f"{counts.events} events, {counts.labels} labels, {counts.evicted} never labelled, "
        f"{counts.orphans} orphan labels, {counts.dead_letters} dead letters; "
        f"{counts.promotions} promotions, {counts.rollbacks} taken back",
        "dim",
    )
