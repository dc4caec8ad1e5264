"""A meta-evaluation as a picture: scores over labels, and over steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

from adapters.evaluation_results import MetaEvaluation
from pipeline.report.timeline_look import BLUE, FAINT, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OWN = (BLUE, SKY, PURPLE)
_OTHERS = (ORANGE, RED, GREEN, GREY, INK, "#999933", "#661100", "#44aa99")


def draw_evaluation(path: Path, found: MetaEvaluation, title: str) -> None:
    """Write the picture, 1600 x 700 pixels PNG; meta-learned recipes are solid, others dashed.

    Args:
        path: Where to; its folder must exist.
        found: What to show.
        title: Above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shots = sorted({score.shots for score in found.scores})
    names = list(dict.fromkeys(score.recipe for score in found.scores))
    own = {score.recipe for score in found.scores if score.meta_learned}
    looks = _looks([n for n in names if n in own], [n for n in names if n not in own])
    with mpl.rc_context({"font.size": 12, "font.family": "DejaVu Sans", "axes.edgecolor": GREY}):
        figure = Figure(figsize=(16, 7), dpi=100)
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.06, right=0.85, top=0.82, bottom=0.1, wspace=0.18)
        for name in names:
            _over_labels(left, found, name, shots, looks[name])
            _over_steps(right, found, name, shots[-1], looks[name])
        metric = found.metric.replace("_", " ")
        left.set_xticks(shots)
        left.set_xlabel("labels per class" if found.metric == "accuracy" else "labels")
        left.set_ylabel(metric)
        right.set_xlabel(f"steps, {shots[-1]} labels")
        right.set_xscale("symlog", linthresh=4)
        for axes in (left, right):
            axes.axhline(found.target, color=FAINT, linewidth=1.5, zorder=0)
            axes.spines[["top", "right"]].set_visible(False)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="center right", frameon=False)
        figure.text(0.06, 0.93, title, fontsize=17, color=INK, weight="bold")
        figure.text(0.06, 0.875, f"Worth it? {found.verdict}", color=INK)
        figure.savefig(path, format="png", metadata={"Software": "metadrift"})


def _looks(own: Sequence[str], others: Sequence[str]) -> dict[str, tuple[str, str]]:
    solid = {name: (_OWN[i % len(_OWN)], "-") for i, name in enumerate(own)}
    return solid | {name: (_OTHERS[i % len(_OTHERS)], "--") for i, name in enumerate(others)}


def _over_labels(
    axes: "Axes", found: MetaEvaluation, name: str, shots: Sequence[int], look: tuple[str, str]
) -> None:
    mine = {score.shots: score for score in found.scores if score.recipe == name}
    here = [mine[count] for count in shots]
    axes.errorbar(
        shots,
        [score.score for score in here],
        yerr=[
            [score.score - score.low for score in here],
            [score.high - score.score for score in here],
        ],
        color=look[0],
        linestyle=look[1],
        marker="o",
        capsize=3,
        label=name.replace("_", " "),
    )


def _over_steps(
    axes: "Axes", found: MetaEvaluation, name: str, shots: int, look: tuple[str, str]
) -> None:
    (score,) = (s for s in found.scores if (s.recipe, s.shots) == (name, shots))
    if score.curve:
        steps, values = [p.steps for p in score.curve], [p.score for p in score.curve]
        axes.plot(steps, values, color=look[0], linestyle=look[1], marker=".")
