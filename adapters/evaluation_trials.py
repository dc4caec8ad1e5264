"""One recipe on one episode: adapt on the support, be judged on the query, or fail and be noted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from adapters.baselines import FINE_TUNED, Rivals, answers_of, errors_of
from adapters.evaluation_episodes import Episode
from adapters.examples import Examples
from adapters.inner_loop import with_weights
from adapters.joint import Descent
from adapters.meta_init import MetaInit
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

    def _run(
        self, recipe: str, support: Examples, query: Examples, tuning: Tuning, began: float
    ) -> tuple[Curve, float]:
        """Return (steps, mean error) along the way, and the seconds of adapting alone."""
        start = self.init.starts.get(recipe)
        if start is not None:
            adapted = few_step(self.rivals.target, self.init, start.algorithm, support)
        elif recipe in FINE_TUNED:
            adapted = self.rivals.fine_tuned(recipe, support, tuning.descents[recipe])
        elif recipe == "scratch":
            adapted = self.rivals.scratch(support)
        elif recipe == "joint_frozen":
            adapted = Adapted(self.rivals.joint, ())
        else:
            predict = self.rivals.predictor(recipe, support, tuning.support_weight)
            seconds = self.clock() - began
            return ((0, float(errors_of(predict(query.rows), query).mean())),), seconds
        seconds = self.clock() - began
        return along(adapted, query), seconds


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
