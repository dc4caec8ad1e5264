"""Meta-evaluation: is meta-learning worth it on tasks that no start has seen?

Every recipe and every baseline adapts on the same supports and is judged on the same queries, row
by row (non-transductive). Nothing is chosen on meta-test tasks: steps and the recommended recipe
come from meta-training, what the baselines leave open from meta-validation episodes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from adapters.baselines import BASELINES, JOINT_STEPS, Rivals
from adapters.evaluation_episodes import EpisodeDrawer, Order, Times
from adapters.evaluation_results import (
    CurvePoint,
    LabelsNeeded,
    MetaEvaluation,
    Metric,
    NotUsed,
    PairedGain,
    RecipeScore,
)
from adapters.evaluation_trials import Bench, Clock, Trials, Tuning
from adapters.evaluation_tuning import Chosen, Tell, choose
from adapters.evaluation_verdict import bootstrap_interval, judge, mean_interval
from adapters.inner_loop import one_thread
from adapters.meta_init import MetaInit
from adapters.recipes import RecipeError
from adapters.task_splits import TaskSplit

NOT_META_LEARNED = "joint"
"""A start of this name is a baseline: it was trained on all tasks at once."""


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How to evaluate.

    Attributes:
        shots: Numbers of labels per class (regression: in all) to adapt from, rising.
        episodes: Meta-test episodes per number of labels; 600 or more for a number to publish.
        query: Query rows per episode, at most.
        order: ``random``, or ``time``: support from the earlier half, query from the later.
        validation_episodes: Meta-validation episodes that choose for the baselines.
        target: Score to count labels and steps to; None: what the best baseline reaches with
            the most labels.
        joint_steps: Steps that the jointly trained rival gets at least, unless it stops getting
            better on held-out rows.
        seed: Of everything drawn.
    """

    shots: tuple[int, ...] = (1, 5)
    episodes: int = 600
    query: int = 60
    order: Order = "random"
    validation_episodes: int = 48
    target: float | None = None
    joint_steps: int = JOINT_STEPS
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shots or list(self.shots) != sorted({s for s in self.shots if s >= 1}):
            raise ValueError(f"shots is {self.shots}; give rising numbers >= 1, such as 1, 5")
        for name in ("episodes", "query", "validation_episodes", "joint_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; use a number >= 1")


def meta_evaluate(
    split: TaskSplit,
    init: MetaInit,
    settings: EvaluationSettings,
    *,
    times: Times | None = None,
    tell: Tell | None = None,
    clock: Clock = time.perf_counter,
) -> MetaEvaluation:
    """Return what every recipe reaches on the meta-test tasks; same seed, same scores.

    Args:
        split: Of the data; its meta-test rows must be unknown to ``init``.
        init: Meta-trained over a task column.
        settings: How to evaluate.
        times: ``(n,)``, one per row of the data, for ``order="time"``.
        tell: Told how far it is.
        clock: Seconds.

    Raises:
        LeakError: The meta-init saw a meta-test row.
        RecipeError: It is for N-way episodes, or has no meta-learned start.
        ValueError: No meta-test task has enough rows.
    """
    split.refuse_trained(init.trained_on, "the meta-init")
    report = tell or _nobody
    report("joint training", 0, 1)
    with one_thread():
        rivals = Rivals.of(init, split, settings.seed, settings.joint_steps, clock)
    report("joint training", 1, 1)
    bench = Bench(split, init, rivals, clock)
    metric: Metric = "mean_absolute_error" if init.task_type == "regression" else "accuracy"
    starts = [str(name) for name in init.starts]
    own = [name for name in starts if name != NOT_META_LEARNED]
    if not own:
        raise RecipeError("the meta-init has no meta-learned start; train one, such as maml")
    recipes = [*starts, *(b for b in BASELINES if metric == "accuracy" or b != "prototypes")]
    drawers = [
        EpisodeDrawer(split, split.test, shots, settings.query, settings.order, times)
        for shots in settings.shots
    ]
    scores: list[RecipeScore] = []
    gains: list[PairedGain] = []
    choices: list[Chosen] = []
    with one_thread():
        for drawer in drawers:
            choices.append(
                choose(rivals, drawer, settings.validation_episodes, settings.seed, report)
            )
            here, pairs = _at_one(
                bench, drawer, recipes, own, choices[-1].tuning, settings, report, metric
            )
            scores += here
            gains += pairs
    target = settings.target if settings.target is not None else _best_baseline(scores, metric)
    scores = [replace(s, steps_to_target=_first(s.curve, target, metric)) for s in scores]
    tasks = tuple(dict.fromkeys(name for drawer in drawers for name in drawer.able))
    recipe = _recommended(init, own)
    verdicts, verdict = judge(metric, recipe, scores, gains, len(tasks))
    return MetaEvaluation(
        metric=metric,
        test_tasks=tasks,
        recipe=recipe,
        target=target,
        scores=tuple(scores),
        gains=tuple(gains),
        verdicts=verdicts,
        verdict=verdict,
        labels_needed=tuple(
            LabelsNeeded(name, _labels_needed(name, scores, target, metric)) for name in recipes
        ),
        fine_tuning=tuple(t for chosen in choices for t in chosen.fine_tuning),
        support_weights=tuple(chosen.support_weight for chosen in choices),
        not_used=tuple(
            NotUsed(t.name, drawer.shots, t.reason) for drawer in drawers for t in drawer.left_out
        ),
        training_costs=rivals.costs,
        digests=dict(split.digests),
        seed=settings.seed,
    )


def _at_one(
    bench: Bench,
    drawer: EpisodeDrawer,
    recipes: Sequence[str],
    own: Sequence[str],
    tuning: Tuning,
    settings: EvaluationSettings,
    report: Tell,
    metric: Metric,
) -> tuple[list[RecipeScore], list[PairedGain]]:
    """Return scores and gains with one number of labels."""
    trials = {recipe: Trials() for recipe in recipes}
    owners = []
    what = f"episodes, {drawer.shots} shots"
    for done, episode in enumerate(drawer.draw(settings.episodes, settings.seed), 1):
        owners.append(drawer.able.index(episode.task))
        for recipe in recipes:
            bench.tried(recipe, episode, tuning, trials[recipe])
        report(what, done, settings.episodes)
    first = next(iter(drawer.draw(1, settings.seed)))
    peaks = {recipe: bench.peak_bytes(recipe, first, tuning) for recipe in recipes}
    errors = _with_failures(trials, metric)
    scores = [
        replace(
            _score(recipe, recipe in own, drawer.shots, errors[recipe], trials[recipe], metric),
            peak_bytes=peaks[recipe],
        )
        for recipe in recipes
    ]
    sign = 1 if metric == "accuracy" else -1
    scores.sort(key=lambda score: (-sign * score.score, score.recipe))
    tasks = np.array(owners, np.intp)
    gains = []
    for recipe in own:
        for baseline in (name for name in recipes if name not in own):
            better = errors[baseline] - errors[recipe]
            low, high = bootstrap_interval(better, tasks, settings.seed)
            mean = float(better.mean())
            gains.append(PairedGain(drawer.shots, recipe, baseline, mean, low, high))
    return scores, gains


def _with_failures(trials: Mapping[str, Trials], metric: Metric) -> dict[str, NDArray[np.float64]]:
    """Return errors, a failure as wrong throughout (regression: as the worst of the others)."""
    errors = {name: np.array(t.errors) for name, t in trials.items()}
    if metric == "accuracy":
        return {name: np.nan_to_num(e, nan=1.0) for name, e in errors.items()}
    worst = np.nanmax(np.stack(list(errors.values())), axis=0)
    return {name: np.where(np.isnan(e), worst, e) for name, e in errors.items()}


def _score(
    recipe: str,
    meta_learned: bool,
    shots: int,
    errors: NDArray[np.float64],
    trials: Trials,
    metric: Metric,
) -> RecipeScore:
    values = 1 - errors if metric == "accuracy" else errors
    mean, low, high = mean_interval(values)
    points: dict[int, list[float]] = {}
    for curve in trials.curves:
        for steps, error in curve:
            points.setdefault(steps, []).append(1 - error if metric == "accuracy" else error)
    return RecipeScore(
        recipe=recipe,
        meta_learned=meta_learned,
        shots=shots,
        episodes=len(errors),
        score=mean,
        low=low,
        high=high,
        seconds=float(np.median(trials.seconds)) if trials.seconds else None,
        failed=len(errors) - len(trials.seconds),
        failure=trials.failure,
        curve=tuple(CurvePoint(s, float(np.mean(v))) for s, v in sorted(points.items())),
    )


def _reaches(score: float, target: float, metric: Metric) -> bool:
    return score >= target if metric == "accuracy" else score <= target


def _first(curve: Sequence[CurvePoint], target: float, metric: Metric) -> int | None:
    return next((p.steps for p in curve if _reaches(p.score, target, metric)), None)


def _labels_needed(
    name: str, scores: Sequence[RecipeScore], target: float, metric: Metric
) -> int | None:
    enough = [s.shots for s in scores if s.recipe == name and _reaches(s.score, target, metric)]
    return min(enough, default=None)


def _best_baseline(scores: Sequence[RecipeScore], metric: Metric) -> float:
    most = max(score.shots for score in scores)
    found = [s.score for s in scores if s.shots == most and not s.meta_learned]
    return max(found) if metric == "accuracy" else min(found)


def _recommended(init: MetaInit, own: Sequence[str]) -> str:
    """Return the recommended start, or the meta-learned one that meta-validation liked best."""
    if init.recommended in own:
        return init.recommended

    def loss(name: str) -> float:
        table = init.validation.get(name)
        return float(cast("dict[str, float]", table)["loss"]) if isinstance(table, dict) else np.inf

    return min(own, key=lambda name: (loss(name), name))


def _nobody(what: str, done: int, of: int) -> None:
    """Tell nobody."""
