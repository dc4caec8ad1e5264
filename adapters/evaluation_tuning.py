"""What the baselines leave open, chosen on meta-validation episodes: nothing sees a test task."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from adapters.baselines import FINE_TUNED, POOLED, Rivals, errors_of
from adapters.evaluation_episodes import EpisodeDrawer
from adapters.evaluation_results import FineTuning, SupportWeight
from adapters.evaluation_trials import Tuning, along
from adapters.examples import Examples
from adapters.joint import FINE_TUNE
from adapters.pooled_regression import SUPPORT_WEIGHTS, USUAL_WEIGHT
from adapters.recipes import DivergedError, usable_support

Tell: TypeAlias = Callable[[str, int, int], None]
"""What is being done, how much of it is done, out of how much."""

LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Step sizes of fine-tuning that are tried, each with every step count of its curve."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen with one number of labels.

    Attributes:
        tuning: For the baselines.
        fine_tuning: The same with how it was chosen, per fine-tuned baseline.
        support_weight: Of ``pooled_logistic_regression``.
    """

    tuning: Tuning
    fine_tuning: tuple[FineTuning, ...]
    support_weight: SupportWeight


def choose(rivals: Rivals, drawer: EpisodeDrawer, episodes: int, seed: int, report: Tell) -> Chosen:
    """Return what does best on meta-validation; ties go to fewer and smaller steps, less weight.

    Args:
        rivals: The baselines.
        drawer: Draws the episodes that judge; those that choose are drawn alike.
        episodes: How many choose.
        seed: Of the draw.
        report: Told how far it is.
    """
    descents: dict[str, dict[tuple[int, float], list[float]]] = {name: {} for name in FINE_TUNED}
    weights: dict[float, list[float]] = {weight: [] for weight in SUPPORT_WEIGHTS}
    split, what = drawer.split, f"choosing on meta-validation, {drawer.shots} shots"
    try:
        chooser = replace(drawer, tasks=split.validation) if split.validation else None
    except ValueError:  # no meta-validation task has enough rows; ``episodes`` says so: 0
        chooser = None
    drawn = chooser.draw(episodes, seed) if chooser is not None else ()
    for done, episode in enumerate(drawn, 1):
        support, _ = usable_support(rivals.target, split.data.examples.take(episode.support))
        query = split.data.examples.take(episode.query)
        for name, found in descents.items():
            _note_descents(rivals, name, support, query, found)
        for weight, errors in weights.items():
            said = rivals.pooled.predictor(support, weight)(query.rows)
            errors.append(float(errors_of(said, query).mean()))
        report(what, done, episodes)
    count = episodes if chooser is not None else 0
    tunings = tuple(_fine_tuning(name, drawer.shots, descents[name], count) for name in FINE_TUNED)
    weight = min(weights, key=lambda w: (sum(weights[w]), w)) if count else USUAL_WEIGHT
    descent_of = {t.recipe: replace(FINE_TUNE, lr=t.lr, steps=t.steps) for t in tunings}
    return Chosen(
        Tuning(descent_of, weight), tunings, SupportWeight(POOLED, drawer.shots, weight, count)
    )


def _note_descents(
    rivals: Rivals,
    name: str,
    support: Examples,
    query: Examples,
    found: dict[tuple[int, float], list[float]],
) -> None:
    """Add the query errors of every step size after every number of steps."""
    for lr in LEARNING_RATES:
        try:
            path = along(rivals.fine_tuned(name, support, replace(FINE_TUNE, lr=lr)), query)
        except DivergedError:
            continue
        for steps, error in path[1:]:
            found.setdefault((steps, lr), []).append(error)


def _fine_tuning(
    name: str, shots: int, found: dict[tuple[int, float], list[float]], episodes: int
) -> FineTuning:
    whole = {choice: errors for choice, errors in found.items() if len(errors) == episodes}
    if not whole:
        return FineTuning(name, shots, FINE_TUNE.lr, FINE_TUNE.steps, 0)
    steps, lr = min(whole, key=lambda choice: (sum(whole[choice]), *choice))
    return FineTuning(name, shots, lr, steps, episodes)
