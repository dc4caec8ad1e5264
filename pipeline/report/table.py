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
        parts.append(_regimes(report))
    if report.episodes:
        parts.append(_episodes(report.episodes))
    if report.rollouts:
        parts.append(_rollouts(report.rollouts))
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


def _regimes(report: Report) -> Table:
    table = _table(
        "true boundaries",
        ["regime", "outcome", "concluded"],
        [
            "from",
            "alarm after",
            "detected after",
            "labels used",
            "recovery",
            "served",
            "frozen",
            "points",
            "at end",
        ],
    )
    for row in report.boundaries:
        recovered = NONE
        if row.recovery is not None:
            recovered = "not yet" if row.recovery.events is None else str(row.recovery.events)
        table.add_row(
            row.name or NONE,
            row.outcome,
            ", ".join(row.concluded) or NONE,
            str(row.position),
            number(row.delay),
            number(row.detection_delay),
            number(row.labels_used),
            recovered,
            *_pair(row.whole),
            share(row.last_quarter.served),
        )
    return table


def _episodes(episodes: Sequence[EpisodeRow]) -> Table:
    table = _table(
        "episodes",
        ["kind", "task", "winner", "outcome", "query loss by recipe"],
        ["no", "opened", "labels"],
    )
    for row in episodes:
        losses = [
            f"{r.name} {number(r.query_loss, '.2f') if r.outcome == 'ok' else r.outcome}"
            for r in row.recipes
        ]
        table.add_row(
            row.kind,
            " ".join(filter(None, (row.task_decision, row.task))) or NONE,
            row.winner or NONE,
            row.outcome or "open",
            ", ".join(losses) or NONE,
            str(row.number),
            str(row.opened),
            number(row.labels_used),
        )
    return table


def _rollouts(rollouts: Sequence[RolloutRow]) -> Table:
    table = _table(
        "rollouts",
        ["candidate", "end", "why"],
        ["no", "begun", "ended", "labels", "gain", "wrong served"],
    )
    for row in rollouts:
        table.add_row(
            f"{row.candidate} ({row.recipe or NONE})",
            row.phase.replace("_", " "),
            row.reason,
            str(row.number),
            str(row.begun),
            number(row.ended),
            number(row.labels),
            number(row.gain, "+.3f"),
            number(row.wrong_served),
        )
    return table


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
