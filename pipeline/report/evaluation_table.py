"""A meta-evaluation as tables for people, and its answer in words."""

from io import StringIO

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from adapters.evaluation_results import MetaEvaluation, PairedGain
from pipeline.report.evaluation_document import EvaluationDocument

NONE = "-"


def evaluation_text(document: EvaluationDocument) -> str:
    """Return the same as plain text of 100 columns."""
    console = Console(file=StringIO(), width=100, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(evaluation_tables(document))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def evaluation_tables(document: EvaluationDocument) -> RenderableType:
    """Return what ``rich`` prints: a table per number of labels, one of costs, the verdicts.

    All of it fits into 80 columns with two numbers of labels.
    """
    found = document.evaluation
    parts: list[RenderableType] = [_scores(found, verdict.shots) for verdict in found.verdicts]
    parts.append(_costs(document))
    parts += [Text(verdict.words) for verdict in found.verdicts]
    parts.append(Text(f"worth it? {found.verdict}", style="bold"))
    return Group(*parts)


def _scores(found: MetaEvaluation, shots: int) -> Table:
    here = [score for score in found.scores if score.shots == shots]
    plural = "s" if shots > 1 else ""
    per = " per class" if found.metric == "accuracy" else ""
    table = _table(
        f"{shots} label{plural}{per}, {here[0].episodes} episodes, "
        f"{len(found.test_tasks)} unseen task{'s' if len(found.test_tasks) > 1 else ''}"
    )
    metric = "accuracy" if found.metric == "accuracy" else "mean error"
    for name in (metric, f"gain of {found.recipe}", "steps"):
        table.add_column(name, justify="right", no_wrap=True)
    gains = {g.baseline: g for g in found.gains if (g.shots, g.recipe) == (shots, found.recipe)}
    for score in here:
        table.add_row(
            score.recipe + (" *" if score.meta_learned else ""),
            _score(found, score.score, (score.high - score.low) / 2),
            _gain(found, gains.get(score.recipe)),
            NONE if score.steps_to_target is None else str(score.steps_to_target),
        )
    unit = ", in points" if found.metric == "accuracy" else ""
    table.caption = (
        f"* meta-learned. Gains{unit} with 95 % interval. steps: to reach {found.target:.3g}"
    )
    table.caption_justify = "left"
    return table


def _costs(document: EvaluationDocument) -> Table:
    found = document.evaluation
    table = _table("cost")
    shots = [verdict.shots for verdict in found.verdicts]
    heads = [
        "training s",
        "MB",
        *(h for n in shots for h in (f"ms, {n} label{'s' * (n > 1)}", "MB")),
    ]
    for head in heads:
        table.add_column(head, justify="right")
    trained = {c.recipe: c for c in (*document.training.costs, *found.training_costs)}
    adapted = {(score.recipe, score.shots): score for score in found.scores}
    for recipe in dict.fromkeys(score.recipe for score in found.scores):
        before = trained.get(recipe)
        cells = [NONE, NONE]
        if before is not None:
            cells = [f"{before.seconds:.1f}", _megabytes(before.peak_bytes)]
        for count in shots:
            took = adapted[recipe, count]
            ms = NONE if took.seconds is None else f"{took.seconds * 1000:.1f}"
            cells += [ms, _megabytes(took.peak_bytes)]
        table.add_row(recipe, *cells)
    table.caption = (
        "MB: memory at its highest above what was there before: of a start's meta-step, of a "
        "baseline's training, and of one adaptation"
    )
    table.caption_justify = "left"
    return table


def _megabytes(count: int | None) -> str:
    return NONE if count is None else f"{count / 1e6:.1f}"


def _table(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE
    )
    table.add_column("recipe", no_wrap=True)
    return table


def _score(found: MetaEvaluation, score: float, half: float) -> str:
    if found.metric == "accuracy":
        return f"{score:.3f} \u00b1 {half:.3f}"
    return f"{score:.3g} \u00b1 {half:.2g}"


def _gain(found: MetaEvaluation, gain: PairedGain | None) -> str:
    if gain is None:
        return NONE
    if found.metric == "accuracy":
        return f"{gain.gain * 100:+.1f} ({gain.low * 100:+.1f} .. {gain.high * 100:+.1f})"
    return f"{gain.gain:+.3g} ({gain.low:+.3g} .. {gain.high:+.3g})"
