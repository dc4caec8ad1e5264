"""Paired gains with intervals, and the verdict in words; it can say no.

The meta-learned recipe was recommended by meta-validation, before any meta-test episode was seen.
Its rival is the baseline that did best on the very episodes that judge: a choice that can only
favour the baselines.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapters.evaluation_results import Answer, Metric, PairedGain, RecipeScore, Verdict

_RESAMPLES = 4000


def bootstrap_interval(
    differences: NDArray[np.float64], tasks: NDArray[np.intp], seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean difference.

    Tasks are resampled, and in each the episodes: episodes of one task resemble each other, and
    the question is about tasks to come. With one task only its episodes are resampled.

    Args:
        differences: ``(episodes,)``.
        tasks: ``(episodes,)``, which task each is of.
        seed: Of the resampling.
    """
    random = np.random.default_rng(seed)
    groups = [differences[tasks == task] for task in np.unique(tasks)]
    drawn = random.integers(0, len(groups), (_RESAMPLES, len(groups)))
    means = np.empty(drawn.shape)
    for i, group in enumerate(groups):
        here = drawn == i
        picked = random.integers(0, len(group), (int(here.sum()), len(group)))
        means[here] = group[picked].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval (normal); one value gives no width."""
    mean = float(values.mean())
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return mean, mean - half, mean + half


def judge(
    metric: Metric,
    recipe: str,
    scores: Sequence[RecipeScore],
    gains: Sequence[PairedGain],
    tasks: int,
) -> tuple[tuple[Verdict, ...], str]:
    """Return one verdict per number of labels, and a sentence over all.

    Args:
        metric: What a score is.
        recipe: The meta-learned recipe that was recommended.
        scores: Of all recipes.
        gains: Of all pairs.
        tasks: How many meta-test tasks gave episodes.
    """
    sign = 1 if metric == "accuracy" else -1
    verdicts = []
    for shots in sorted({score.shots for score in scores}):
        here = {score.recipe: score for score in scores if score.shots == shots}
        rivals = [score for score in here.values() if not score.meta_learned]
        best = max(rivals, key=lambda score: (sign * score.score, score.recipe))
        (gain,) = (
            g for g in gains if (g.shots, g.recipe, g.baseline) == (shots, recipe, best.recipe)
        )
        verdicts.append(_verdict(metric, here[recipe], best, gain, tasks))
    return tuple(verdicts), _overall(verdicts, recipe)


def _verdict(
    metric: Metric, own: RecipeScore, best: RecipeScore, gain: PairedGain, tasks: int
) -> Verdict:
    answer: Answer = "yes" if gain.low > 0 else "no" if gain.gain <= 0 else "not shown"
    use = own.recipe if answer == "yes" else best.recipe
    times, unit = (100, " points") if metric == "accuracy" else (1, "")
    size = f"{abs(gain.gain) * times:.3g}{unit}"
    interval = f"95 % interval {gain.low * times:.3g} to {gain.high * times:.3g}"
    one = metric == "mean_absolute_error"
    labels = f"{own.shots} label{'s' if own.shots > 1 else ''}{'' if one else ' per class'}"
    both = f"{own.recipe} reaches {own.score:.3g}, {best.recipe} {best.score:.3g}"
    better = "better" if gain.gain > 0 else "worse"
    match answer:
        case "yes":
            end = f"{own.recipe} is {size} better than the strongest baseline ({interval})"
        case "no":
            end = f"{own.recipe} is {size} {better} ({interval}); use {best.recipe}"
        case "not shown":
            of = "this one task" if tasks == 1 else f"these {tasks} tasks"
            end = (
                f"{own.recipe} is {size} better, but {of} cannot tell that from chance "
                f"({interval}); use {best.recipe}, or bring more tasks"
            )
    caution = " (one task only: says nothing about others)" if tasks == 1 else ""
    words = f"with {labels}: {answer}{caution}. {both}; {end}"
    return Verdict(own.shots, answer, use, words)


def _overall(verdicts: Sequence[Verdict], recipe: str) -> str:
    worth = [v.shots for v in verdicts if v.answer == "yes"]
    if len(worth) == len(verdicts):
        return f"yes: meta-learning is worth it here; use {recipe}"
    if not worth:
        shown = any(v.answer == "not shown" for v in verdicts)
        others = ", ".join(dict.fromkeys(v.use for v in verdicts))
        if shown:
            return f"no: that meta-learning is worth it here is not shown; use {others}"
        return f"no: meta-learning is not worth it here; use {others}"
    for_these = ", ".join(str(shots) for shots in worth)
    rest = "; ".join(f"with {v.shots}: {v.use}" for v in verdicts if v.answer != "yes")
    return f"it depends on the labels: yes with {for_these} ({recipe}); {rest}"
