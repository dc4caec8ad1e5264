"""The bake-off: every recipe on the same support, judged on the same query and holdout.

Deterministic bit for bit on a CPU: the seed, the request and nothing else decide, save the
measured ``seconds``. A recipe that errs or diverges loses, and the result says why.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adapters.examples import Examples
from adapters.feature_schema import FeatureSchema, Rows
from adapters.grown_models import PROTOTYPES
from adapters.inner_loop import one_thread, with_weights
from adapters.joint import FINE_TUNE, SCRATCH, Descent
from adapters.meta_init import Algorithm, MetaInit
from adapters.model_file import Model
from adapters.prototypes import GrowthError
from adapters.recipes import (
    Adapted,
    DivergedError,
    RecipeError,
    Target,
    few_step,
    fine_tuned,
    hidden_of,
    prototypes,
    scratch,
    target_of,
    usable_support,
)

Outcome: TypeAlias = Literal["ok", "diverged", "error"]
Clock: TypeAlias = Callable[[], float]

RECIPES = (
    *("frozen", "recalled", "reptile", "maml", "fomaml", "anil", "meta-sgd", "joint"),
    *("fine_tune", "scratch", "prototypes"),
)
"""Every recipe; ``recalled`` stands for one ``recalled:<version>`` per earlier model."""


_POSITIVE = (
    *("fine_tune_steps", "fine_tune_lr", "scratch_steps", "scratch_lr"),
    *("prototype_steps", "prototype_lr"),
)


def _no_examples() -> Examples:
    return Examples(Rows(np.empty((0, 0))))


def _no_losses() -> NDArray[np.float64]:
    return np.empty(0)


@dataclass(frozen=True, slots=True, eq=False)
class BakeOff:
    """A request; refused with a ValueError where splits share a key.

    Attributes:
        recipes: Which of ``RECIPES`` to run.
        support: What recipes learn from; may be empty when only zero-step recipes run.
        query: What chooses the winner; may be empty.
        holdout: What the gate judges by; no recipe and no choice sees it.
        champion: The model in force; None before the first one.
        earlier: Version -> earlier champion, each tried as it is.
        meta_init: Starts of ``reptile``, ``maml`` and the other algorithms.
        seed: Seed of fresh weights and of dropout.
        schema: Raw features; needed only without champion and meta-init.
        new_classes: Classes of the support that the champion lacks and candidates shall know, in
            the order in which they follow the champion's own; needs a champion.
        fine_tune_steps: Adam steps of ``fine_tune``, full batch.
        fine_tune_lr: Adam's step size of ``fine_tune``.
        scratch_steps: Adam steps of ``scratch``, full batch: enough to converge.
        scratch_lr: Adam's step size of ``scratch``.
        scratch_weight_decay: Decoupled weight decay of ``scratch`` per unit of its step size.
        prototype_steps: Adam steps of ``prototypes``, full batch.
        prototype_lr: Adam's step size of ``prototypes``.
        evidence: What recipes that exist already are judged on beside, for the decision which task
            it is; may overlap with the splits, since nothing learns from it. May be empty.

    The defaults of the seven before that are ``FINE_TUNE`` and ``SCRATCH`` of ``adapters.joint``
    and ``PROTOTYPES`` of ``adapters.grown_models``.
    """

    recipes: tuple[str, ...]
    support: Examples
    query: Examples
    holdout: Examples
    champion: Model | None = None
    earlier: Mapping[str, Model] = field(default_factory=dict)
    meta_init: MetaInit | None = None
    seed: int = 0
    schema: FeatureSchema | None = None
    new_classes: tuple[str, ...] = ()
    fine_tune_steps: int = FINE_TUNE.steps
    fine_tune_lr: float = FINE_TUNE.lr
    scratch_steps: int = SCRATCH.steps
    scratch_lr: float = SCRATCH.lr
    scratch_weight_decay: float = SCRATCH.weight_decay
    prototype_steps: int = PROTOTYPES.steps
    prototype_lr: float = PROTOTYPES.lr
    evidence: Examples = field(default_factory=_no_examples)

    def __post_init__(self) -> None:
        unknown = [name for name in self.recipes if name not in RECIPES]
        if unknown or len(set(self.recipes)) != len(self.recipes):
            raise ValueError(f"recipes is {self.recipes}; name each once, out of {RECIPES}")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; use a number > 0")
        _check_new_classes(self.new_classes, self.champion)
        splits = {"support": self.support, "query": self.query, "holdout": self.holdout}
        for first, second in (("support", "query"), ("support", "holdout"), ("query", "holdout")):
            shared = np.intersect1d(splits[first].keys, splits[second].keys)
            if len(shared):
                count = int(np.isin(splits[second].keys, shared).sum())
                raise ValueError(
                    f"{count} of {len(splits[second])} {second} examples share {len(shared)} keys"
                    f" with {first}; split by group before the bake-off"
                )


def _check_new_classes(names: tuple[str, ...], champion: Model | None) -> None:
    if not names:
        return
    if champion is None or champion.task_type == "regression":
        raise ValueError(f"new_classes is {names}; they need a champion that names classes")
    known = set(champion.class_names) & set(names)
    if known or len(set(names)) != len(names):
        raise ValueError(
            f"new_classes is {names} beside the champion's {champion.class_names};"
            " name each once, and only classes that it lacks"
        )


@dataclass(frozen=True, slots=True, eq=False)
class RecipeResult:
    """How one recipe did.

    Attributes:
        name: The recipe; ``recalled:<version>`` for a recalled one.
        zero_step: Whether it used no support: it exists already.
        outcome: ``ok``, ``diverged`` (weights not finite) or ``error``.
        message: Why it lost, or what was dropped; may be empty.
        query_losses: ``(n_query,)`` in [0, 1]; empty unless ok.
        holdout_losses: ``(n_holdout,)`` in [0, 1]; empty unless ok.
        curve: (steps, mean query loss) along the way; empty without query.
        seconds: What it took. The only field that differs from run to run.
        model: The new weights; None for zero-step recipes (the caller has them) and for losers.
        evidence_losses: ``(n_evidence,)`` in [0, 1] of a zero-step recipe, NaN on rows whose key is
            in its lineage; empty for the others and for losers.
    """

    name: str
    zero_step: bool
    outcome: Outcome
    message: str
    query_losses: NDArray[np.float64]
    holdout_losses: NDArray[np.float64]
    curve: tuple[tuple[int, float], ...]
    seconds: float
    model: Model | None
    evidence_losses: NDArray[np.float64] = field(default_factory=_no_losses)

    @property
    def query_loss(self) -> float:
        """Mean query loss; infinite for a loser, and where there is no query."""
        return float(self.query_losses.mean()) if len(self.query_losses) else float("inf")


def run_bake_off(request: BakeOff, clock: Clock = time.perf_counter) -> tuple[RecipeResult, ...]:
    """Return one result per recipe, in the request's order.

    Args:
        request: What to try on which examples.
        clock: Monotonic seconds, for ``RecipeResult.seconds`` alone.
    """
    with one_thread():
        target = target_of(
            request.support,
            request.champion,
            request.meta_init,
            request.schema,
            request.new_classes,
        )
        results: list[RecipeResult] = []
        for name in request.recipes:
            if name == "frozen":
                results.append(_as_it_is(name, request.champion, request, clock))
            elif name == "recalled":
                results += [
                    _as_it_is(f"recalled:{version}", model, request, clock)
                    for version, model in request.earlier.items()
                ]
            else:
                results.append(_learned(name, target, request, clock))
        return tuple(results)


def _as_it_is(name: str, model: Model | None, request: BakeOff, clock: Clock) -> RecipeResult:
    def attempt() -> RecipeResult:
        if model is None:
            raise RecipeError("there is no champion")
        seen = np.isin(request.evidence.keys, model.trained_on)
        losses = np.where(seen, np.nan, _losses(model, request.evidence))
        result = _judged(name, model, request, zero_step=True)
        return replace(result, evidence_losses=losses)

    return _recorded(name, attempt, clock, zero_step=True)


def _learned(name: str, target: Target, request: BakeOff, clock: Clock) -> RecipeResult:
    def attempt() -> RecipeResult:
        support, dropped = usable_support(target, request.support)
        note = ""
        if dropped:
            note = (
                f"dropped {dropped} of {len(request.support)} support labels"
                f" outside the classes {list(target.class_names)}"
            )
        if not len(support):
            raise RecipeError(f"{name} needs support{': ' + note if note else ''}")
        adapted = _adapt(name, target, support, request)
        curve = _curve(adapted, request.query)
        result = _judged(name, adapted.model, request, zero_step=False)
        return replace(result, message=note, curve=curve, model=adapted.model)

    return _recorded(name, attempt, clock, zero_step=False)


def _recorded(
    name: str, attempt: Callable[[], RecipeResult], clock: Clock, *, zero_step: bool
) -> RecipeResult:
    """Return what ``attempt`` returns, or a lost result that says what it raised."""
    began = clock()
    outcome: Outcome = "error"
    try:
        return replace(attempt(), seconds=clock() - began)
    except (RecipeError, GrowthError) as error:
        message = str(error)
    except DivergedError as error:
        outcome, message = "diverged", str(error)
    except Exception as error:  # noqa: BLE001 - a user's module may raise anything; it is recorded
        message = f"{type(error).__name__}: {error}"
    nothing = np.empty(0)
    return RecipeResult(
        name, zero_step, outcome, message, nothing, nothing, (), clock() - began, None
    )


def _adapt(name: str, target: Target, support: Examples, request: BakeOff) -> Adapted:
    champion, init = request.champion, request.meta_init
    if name == "fine_tune":
        if champion is None:
            raise RecipeError("there is no champion to fine-tune")
        descent = Descent(request.fine_tune_steps, request.fine_tune_lr, 0.0, request.seed)
        return fine_tuned(target, champion, support, descent)
    if name == "prototypes":
        if champion is None:
            raise RecipeError("there is no champion whose embedding prototypes could use")
        descent = Descent(request.prototype_steps, request.prototype_lr, 0.0, request.seed)
        return prototypes(target, champion, support, descent)
    if name == "scratch":
        descent = Descent(
            request.scratch_steps,
            request.scratch_lr,
            request.scratch_weight_decay,
            request.seed,
        )
        return scratch(target, support, hidden_of(champion, init), descent)
    if init is None:
        raise RecipeError(f"{name} needs a meta-init; run meta-train")
    return few_step(target, init, cast(Algorithm, name), support)


def _judged(name: str, model: Model, request: BakeOff, *, zero_step: bool) -> RecipeResult:
    return RecipeResult(
        name=name,
        zero_step=zero_step,
        outcome="ok",
        message="",
        query_losses=_losses(model, request.query),
        holdout_losses=_losses(model, request.holdout),
        curve=(),
        seconds=0.0,
        model=None,
    )


def _losses(model: Model, examples: Examples) -> NDArray[np.float64]:
    if not len(examples):
        return np.empty(0)
    return model.losses(model.predict(examples.rows), examples.truths)


def _curve(adapted: Adapted, query: Examples) -> tuple[tuple[int, float], ...]:
    if not len(query):
        return ()
    return tuple(
        (at, float(_losses(_with(adapted.model, weights), query).mean()))
        for at, weights in adapted.path
    )


def _with(model: Model, weights: Mapping[str, Tensor]) -> Model:
    return replace(model, module=with_weights(model.module, weights))


def choose(
    results: Sequence[RecipeResult], *, recommended: str | None, careful: str | None = None
) -> str:
    """Return the name of the winner.

    The least mean query loss wins; ties go to frozen, then to recalled ones, then to the
    recommended recipe, then to the order of ``RECIPES``. Without a query set (an announced task)
    the recommended recipe wins if it is ok, and else frozen, which is also what is left when
    every recipe lost.

    Args:
        results: Of one bake-off.
        recommended: What meta-validation recommends; None without a meta-init.
        careful: A recipe that changes less than the others that learn. It wins against the best of
            them unless it is worse by more than one standard error of the paired difference, under
            no difference (the rule of Breiman et al., Classification and Regression Trees, 1984,
            section 3.4.3).
    """
    fine = {result.name: result for result in results if result.outcome == "ok"}
    if not any(len(result.query_losses) for result in fine.values()):
        return recommended if recommended in fine and recommended is not None else "frozen"

    def rank(result: RecipeResult) -> tuple[float, int, int]:
        kind = result.name.partition(":")[0]
        favour = {"frozen": 0, "recalled": 1}.get(kind, 2 if result.name == recommended else 3)
        return result.query_loss, favour, RECIPES.index(kind)

    best = min(fine.values(), key=rank)
    if careful in fine and careful is not None and not best.zero_step:
        worse = fine[careful].query_losses - best.query_losses
        if worse.sum() <= np.sqrt(np.square(worse).sum()):
            return careful
    return best.name
