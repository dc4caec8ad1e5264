"""The timeline picture: accuracy served and frozen, true boundaries, and what metadrift did."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl

from pipeline.report.measures import StreamLosses, rolling_accuracy
from pipeline.report.report_schema import Report
from pipeline.report.timeline_lanes import canary_span, draw_lanes, legend_handles
from pipeline.report.timeline_look import BLUE, FAINT, GREEN, GREY, INK, ORANGE, PURPLE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LETTERS = 180
"""Letters of a boundary's name that fit across the picture."""


class Words(NamedTuple):
    """What the picture says around the data."""

    title: str
    subtitle: str = ""


def draw_timeline(
    path: Path, report: Report, stream: StreamLosses, words: Words, window: int = 100
) -> None:
    """Write the picture, 1600 x 900 pixels PNG.

    Args:
        path: Where to; its folder must exist.
        report: What happened.
        stream: Losses of the events whose truth is known.
        words: Title and subtitle.
        window: Events in the rolling mean.

    Raises:
        ValueError: No event's truth is known, so there is nothing to draw.
    """
    if not len(stream):
        raise ValueError("no event's truth is known: give a file with labels")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 12, "font.family": "DejaVu Sans", "axes.edgecolor": GREY}):
        figure = Figure(figsize=(16, 9), dpi=100)
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            2,
            1,
            height_ratios=(3.2, 1.7),
            hspace=0.06,
            left=0.075,
            right=0.985,
            top=0.815,
            bottom=0.075,
        )
        top = figure.add_subplot(grid[0])
        bottom = figure.add_subplot(grid[1], sharex=top)
        _accuracy(top, report, stream, window)
        draw_lanes(bottom, report)
        for axes in (top, bottom):
            _boundaries(axes, report)
            axes.set_xlim(0, max(report.counts.events, 1))
            axes.spines[["top", "right"]].set_visible(False)
        top.tick_params(labelbottom=False)
        bottom.set_xlabel("event")
        _head(figure, top, report, words)
        figure.savefig(path, format="png", metadata={"Software": "metadrift"})


# ---------------------------------------------------------------- accuracy


def _accuracy(axes: "Axes", report: Report, stream: StreamLosses, window: int) -> None:
    classification = report.task_type == "classification"
    skipped = min(window // 3, len(stream) - 1)  # the mean of a handful of events says nothing
    frozen = rolling_accuracy(stream.frozen, window)[skipped:]
    served = rolling_accuracy(stream.served, window)[skipped:]
    x = stream.position[skipped:]
    axes.fill_between(
        x, frozen, served, where=(served > frozen).tolist(), color=BLUE, alpha=0.10, linewidth=0
    )
    axes.plot(x, frozen, color=GREY, linewidth=1.8, linestyle=(0, (5, 2)))
    axes.plot(x, served, color=BLUE, linewidth=2.6)
    oracles = [
        (b.position, b.end, b.recovery.reference)
        for b in report.boundaries
        if b.recovery is not None and b.recovery.against == "oracle"
    ]
    for start, end, level in oracles:
        axes.plot(
            [start, end],
            [level, level],
            color=PURPLE,
            linewidth=1.6,
        )
    for rollout in report.rollouts:
        if rollout.weights:
            axes.axvspan(*canary_span(rollout, report), color=ORANGE, alpha=0.13, linewidth=0)
        if rollout.promoted is not None:
            axes.axvline(rollout.promoted, color=GREEN, linewidth=1.4)
        if rollout.rolled_back is not None:
            axes.axvline(rollout.rolled_back, color=RED, linewidth=1.4, linestyle="--")
    what = "accuracy" if classification else "1 - loss"
    axes.set_ylabel(f"{what}, last {window} events")
    low = min(float(served.min()), float(frozen.min()), 0.9)
    axes.set_ylim(max(0.0, low - 0.08), 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _boundaries(axes: "Axes", report: Report) -> None:
    for boundary in report.boundaries:
        axes.axvline(boundary.position, color=INK, linewidth=1.3, linestyle=(0, (1, 2)), zorder=1)


# ---------------------------------------------------------------- title and legend


def _head(figure: "Figure", top: "Axes", report: Report, words: Words) -> None:
    figure.text(0.075, 0.955, words.title, fontsize=19, weight="bold", color=INK, va="center")
    figure.text(0.075, 0.918, words.subtitle, fontsize=12.5, color=GREY, va="center")
    for boundary in report.boundaries:
        share = (boundary.end - boundary.position) / max(report.counts.events, 1)
        letters = int(share * _LETTERS) - 1
        if boundary.name is None or letters < 3:
            continue
        lines = textwrap.wrap(boundary.name, letters, max_lines=2, placeholder="…")
        top.annotate(
            "\n".join(lines),
            (boundary.position, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(1, 3),
            textcoords="offset points",
            va="bottom",
            fontsize=10.5,
            color=INK,
            linespacing=1.05,
        )
    handles = legend_handles(report)
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.07, 0.905),
        ncols=7,
        frameon=False,
        fontsize=10.5,
        handletextpad=0.6,
        handlelength=1.8,
        columnspacing=1.3,
        labelspacing=0.35,
        borderaxespad=0.0,
    )
