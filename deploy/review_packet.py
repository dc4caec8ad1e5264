"""The review packet: one page that holds what a person needs to approve or reject a candidate.

The page is a pure function of the episode, so whoever knows the episode knows its digest, and an
approval that names the digest names exactly these numbers.
"""

import hashlib
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape

from deploy.registry_records import EpisodeRecord, RecipeRecord, TaskRecord

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; color: #1c2430 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 1.6em }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .25em .8em }
th { font-weight: 600 } tr + tr td { border-top: 1px solid #dde3ea }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #3b6ea8; height: .7em; display: inline-block } .winner { background: #eaf2fb }
code { font-size: .85em; overflow-wrap: anywhere }
"""


def packet_html(record: EpisodeRecord) -> str:
    """Return the page: self-contained, no scripts, every value escaped."""
    signal, gate = record.signal, record.gate
    at = datetime.fromtimestamp(record.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    title = f"{record.model}, route {record.route}: {record.outcome}"
    sections = [
        f"<h1>{escape(title)}</h1><p>{escape(record.reason)}</p>",
        _table(
            "Why",
            [
                ("signal", f"{signal.kind} by {signal.detector}"),
                ("at event", f"{signal.at}, change point {signal.change_point}"),
                ("statistic", f"{signal.statistic:.6g} against {signal.threshold:.6g}"),
                *([("detail", signal.detail)] if signal.detail else []),
                ("decided", f"{at}, after {record.position} events and {record.labels} labels"),
                ("champion", record.champion),
            ],
        ),
        *([_task(record.task)] if record.task else []),
        _recipes(record),
    ]
    if gate:
        sections.append(
            _table(
                "Gate, on the holdout",
                [
                    ("verdict", f"{gate.verdict}: {gate.reason}"),
                    ("rows", f"{gate.n} (decides from {gate.n_min})"),
                    ("loss", f"champion {gate.champion_loss:.4f}, new {gate.candidate_loss:.4f}"),
                    ("wins : losses", f"{gate.wins} : {gate.losses}"),
                    ("p-value", f"{gate.p_value:.4g}"),
                ],
            )
        )
    sections += [
        _table(
            "Examples",
            [(split.name, f"{split.rows} rows, {split.digest}") for split in record.splits],
        ),
        _table("Lineage", _lineage(record)),
        "<p>To answer, set the tag <code>metadrift.review</code> of the model version to "
        "<code>approve|reject &lt;first 8 of this page's digest&gt; &lt;your name&gt; [reason]"
        "</code>. The digest is the version's tag <code>metadrift.packet</code>.</p>",
    ]
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
    body = "\n".join(sections)
    return f"<!doctype html>\n<html lang='en'><head>{head}</head>\n<body>\n{body}\n</body></html>\n"


def packet_digest(html: str) -> str:
    """Return the sha256 of the page, 64 hex digits."""
    return hashlib.sha256(html.encode()).hexdigest()


def packet_png(record: EpisodeRecord) -> bytes:
    """Return the picture: final losses by recipe, and losses over the steps of each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # heavy, and only the outbox draws
    from matplotlib.figure import Figure

    recipes = [recipe for recipe in record.recipes if recipe.outcome == "ok"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    bars, curves = figure.subplots(1, 2)
    places = range(len(recipes))
    for shift, losses, name in (
        (-0.2, [recipe.query_loss for recipe in recipes], "query"),
        (0.2, [recipe.holdout_loss for recipe in recipes], "holdout"),
    ):
        shown = [
            (place + shift, x) for place, x in zip(places, losses, strict=True) if x is not None
        ]
        bars.barh([place for place, _ in shown], [x for _, x in shown], 0.4, label=name)
    bars.set_yticks(list(places), [recipe.name for recipe in recipes])
    bars.invert_yaxis()
    bars.set_xlabel("mean loss")
    bars.legend()
    for recipe in recipes:
        if len(recipe.curve) > 1:
            steps, losses_by_step = zip(*recipe.curve, strict=True)
            curves.plot(steps, losses_by_step, marker="o", markersize=3, label=recipe.name)
        elif recipe.query_loss is not None and recipe.zero_step:
            curves.axhline(recipe.query_loss, linestyle=":", color="grey")
            curves.annotate(recipe.name, (0, recipe.query_loss), fontsize=8)
    curves.set_xlabel("step")
    curves.set_ylabel("mean query loss")
    if curves.get_legend_handles_labels()[0]:
        curves.legend()
    figure.suptitle(f"{record.model}: {record.outcome}")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()


def _task(task: TaskRecord) -> str:
    rows = [("decision", f"{task.kind} {task.task}".strip()), ("why", task.reason)]
    for standing in (task.champion, *task.remembered):
        lost = "-" if standing.loss is None else f"{standing.loss:.3f}"
        held = "-" if standing.reference is None else f"{standing.reference:.3f}"
        rows.append(
            (
                standing.name,
                f"{standing.standing}: loss {lost} on {standing.labels} labels, reference {held}; "
                f"evidence for {standing.e_explains:.3g}, against {standing.e_fails:.3g}",
            )
        )
    wrong = f"wrong with probability at most {task.alpha:g}: evidence of {task.needed:.3g} decides"
    return _table("Which task", [*rows, ("error level", wrong)])


def _recipes(record: EpisodeRecord) -> str:
    header = "".join(
        f"<th>{name}</th>" for name in ("recipe", "query loss", "", "holdout loss", "accuracy", "")
    )
    rows = "".join(_recipe_row(recipe, recipe.name == record.winner) for recipe in record.recipes)
    return f"<h2>Bake-off</h2><table><tr>{header}</tr>{rows}</table>"


def _recipe_row(recipe: RecipeRecord, winner: bool) -> str:
    share = min(max(recipe.query_loss or 0.0, 0.0), 1.0)
    bar = f"<span class='bar' style='width:{share * 10:.2f}em'></span>"
    note = recipe.message if recipe.outcome != "ok" else "chosen" if winner else ""
    return (
        f"<tr{' class=winner' if winner else ''}><td>{escape(recipe.name)}</td>"
        f"{_number(recipe.query_loss)}<td>{bar}</td>{_number(recipe.holdout_loss)}"
        f"{_number(recipe.accuracy)}<td>{escape(note)}</td></tr>"
    )


def _number(value: float | None) -> str:
    return f"<td class='number'>{'' if value is None else f'{value:.4f}'}</td>"


def _lineage(record: EpisodeRecord) -> Iterable[tuple[str, str]]:
    yield "episode", record.key
    if record.candidate_digest:
        yield "candidate", record.candidate_digest
    for span in record.offsets:
        yield f"{span.topic}, partition {span.partition}", f"offsets {span.first} to {span.last}"
    if record.config_fingerprint:
        yield "configuration", record.config_fingerprint
    for heading, values in (("seeds", record.seeds), ("versions", record.versions)):
        if values:
            yield heading, ", ".join(f"{name} {value}" for name, value in sorted(values.items()))


def _table(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td><code>{escape(value)}</code></td></tr>"
        for name, value in rows
    )
    return f"<h2>{escape(heading)}</h2><table>{cells}</table>"
