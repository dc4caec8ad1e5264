"""One recipe on one episode: adapt on the support, be judged on the query, or fail and be noted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from adapters.baselines import FINE_TUNED, Predictor, Rivals, answers_of, errors_of
from adapters.evaluation_episodes import Episode
from adapters.examples import Examples
from adapters.inner_loop import with_weights
from adapters.joint import Descent
from adapters.meta_init import MetaInit
from adapters.peak_memory import measured
from adapters.recipes import Adapted, DivergedError, RecipeError, few_step, usable_support
from adapters.task_splits import TaskSplit

Clock: TypeAlias = Callable[[], float]
Curve: TypeAlias = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the baselines leave open.

    Attributes:
        descents: Adam's steps by fine-tuned baseline.
        support_weight: Of ``pooled_logistic_regression``.
    """

    descents: Mapping[str, Descent]
    support_weight: float


@dataclass(slots=True)
class Trials:
    """One recipe's results, episode by episode.

    Attributes:
        errors: Mean query errors; NaN where it failed.
        seconds: Of adapting, where it did not.
        curves: (steps, mean query error) along the way, of what takes steps.
        failure: Why it failed the first time.
    """

    errors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Where recipes are tried.

    Attributes:
        split: Whose data.
        init: Gives the starts.
        rivals: Give the baselines.
        clock: Seconds.
    """

    split: TaskSplit
    init: MetaInit
    rivals: Rivals
    clock: Clock

    def tried(self, recipe: str, episode: Episode, tuning: Tuning, into: Trials) -> None:
        """Run one recipe on one episode and note what came of it."""
        examples = self.split.data.examples
        known, _ = usable_support(self.rivals.target, examples.take(episode.support))
        query = examples.take(episode.query)
        began = self.clock()
        try:
            curve, seconds = self._run(recipe, known, query, tuning, began)
        except (RecipeError, DivergedError, ValueError) as error:
            into.failure = into.failure or f"{type(error).__name__}: {error}"
            into.errors.append(float("nan"))
            return
        into.errors.append(curve[-1][1])
        into.seconds.append(seconds)
        if len(curve) > 1:
            into.curves.append(curve)

    def peak_bytes(self, recipe: str, episode: Episode, tuning: Tuning) -> int | None:
        """Return the peak memory of one adaptation, see ``peak_memory``; None where it fails."""
        examples = self.split.data.examples.take(episode.support)
        known, _ = usable_support(self.rivals.target, examples)
        try:
            return measured(lambda: self._adapt(recipe, known, tuning), self.clock).peak_bytes
        except (RecipeError, DivergedError, ValueError):
            return None

    def _run(
        self, recipe: str, support: Examples, query: Examples, tuning: Tuning, began: float
    ) -> tuple[Curve, float]:
        """Return (steps, mean error) along the way, and the seconds of adapting alone."""
        adapted = self._adapt(recipe, support, tuning)
        seconds = self.clock() - began
        if isinstance(adapted, Adapted):
            return along(adapted, query), seconds
        return ((0, float(errors_of(adapted(query.rows), query).mean())),), seconds

    def _adapt(self, recipe: str, support: Examples, tuning: Tuning) -> Adapted | Predictor:
        start = self.init.starts.get(recipe)
        if start is not None:
            return few_step(self.rivals.target, self.init, start.algorithm, support)
        if recipe in FINE_TUNED:
            return self.rivals.fine_tuned(recipe, support, tuning.descents[recipe])
        if recipe == "scratch":
            return self.rivals.scratch(support)
        if recipe == "joint_frozen":
            return Adapted(self.rivals.joint, ())
        return self.rivals.predictor(recipe, support, tuning.support_weight)


def along(adapted: Adapted, query: Examples) -> Curve:
    """Return (steps, mean query error) at each point of the path; (0, error) without a path."""
    model = adapted.model
    if not adapted.path:
        return ((0, float(errors_of(answers_of(model, query.rows), query).mean())),)
    found = []
    for steps, weights in adapted.path:
        then = replace(model, module=with_weights(model.module, weights))
        found.append((steps, float(errors_of(answers_of(then, query.rows), query).mean())))
    return tuple(found)
