"""Recipes: the ways to get a candidate from a few labels, all on the same support.

======================  =====================================================  ==================
recipe                  starts from                                            learns by
======================  =====================================================  ==================
``frozen``              the champion                                           nothing
``recalled:<version>``  an earlier champion                                    nothing
``reptile``, ``maml``,  the meta-init's start and preprocessor                 a few gradient steps
``fomaml``, ``anil``,
``meta-sgd``, ``joint``
``fine_tune``           the champion                                           Adam
``scratch``             fresh weights, preprocessor fitted on the support      Adam
``prototypes``          the champion, units from the support's prototypes      Adam
======================  =====================================================  ==================

Where the target names classes that the champion lacks, meta-learned starts and ``fine_tune`` begin
with units for them, made from the support's prototypes, beside the units they have.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.examples import Examples
from adapters.feature_schema import FeatureSchema, Preprocessor
from adapters.grown_models import grown_model, grown_start, reheaded, taught
from adapters.inner_loop import Tensors, are_finite, trajectory, weights_of, with_weights
from adapters.joint import Descent, train_few
from adapters.meta_init import Algorithm, MetaInit
from adapters.model_file import Architecture, Model, TaskType
from adapters.modules import MLP, initialise
from adapters.tasks import Batch

MLP_PATH = f"{MLP.__module__}:{MLP.__qualname__}"
USUAL_HIDDEN = (64, 64)
"""Hidden widths of a scratch model where no MLP is at hand to copy them from."""


class RecipeError(Exception):
    """A recipe cannot run on this request; it loses, and the result says why."""


class DivergedError(Exception):
    """A recipe's weights became NaN or infinite; it loses, and the result says at which step."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """What a recipe learned.

    Attributes:
        model: The candidate.
        path: Weights after the named numbers of steps, for the curve; the last is the model's.
    """

    model: Model
    path: tuple[tuple[int, Tensors], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What every candidate of one bake-off must look like from outside.

    Attributes:
        schema: Raw features.
        task_type: ``classification`` or ``regression``.
        class_names: The champion's, in its order; then new ones.
        loss_scale: The champion's, so that losses compare.
    """

    schema: FeatureSchema
    task_type: TaskType
    class_names: tuple[str, ...]
    loss_scale: float


def target_of(
    support: Examples,
    champion: Model | None,
    meta_init: MetaInit | None,
    schema: FeatureSchema | None,
    new_classes: tuple[str, ...] = (),
) -> Target:
    """Return what candidates must look like: as the champion, or else as the data suggest."""
    if champion is not None:
        names = champion.class_names + new_classes
        return Target(champion.schema, champion.task_type, names, champion.loss_scale)
    known = meta_init.schema if meta_init is not None else schema
    if known is None:
        raise ValueError("a bake-off without champion and meta_init needs a schema; pass schema")
    if len(support.values):
        error = float(np.abs(support.values - np.median(support.values)).mean())
        return Target(known, "regression", (), 4 * error if error > 0 else 1.0)
    names = meta_init.class_names if meta_init is not None else ()
    return Target(known, "classification", names or tuple(sorted(set(support.labels))), 1.0)


def usable_support(target: Target, support: Examples) -> tuple[Examples, int]:
    """Return the support whose labels the head knows, and how many examples were dropped."""
    if target.task_type == "regression":
        return support, 0
    known = set(target.class_names)
    kept = [i for i, label in enumerate(support.labels) if label in known]
    return support.take(kept), len(support) - len(kept)


def encoded(
    target: Target, support: Examples, preprocessor: Preprocessor, mean: float, std: float
) -> Batch:
    """Return the support as tensors: class indices, or values in output units."""
    inputs = torch.from_numpy(preprocessor.encode(support.rows))
    if target.task_type == "regression":
        scaled = ((support.values - mean) / std).astype(np.float32)
        return Batch(inputs, torch.from_numpy(scaled))
    index = {name: i for i, name in enumerate(target.class_names)}
    return Batch(inputs, torch.tensor([index[label] for label in support.labels]))


def few_step(target: Target, init: MetaInit, algorithm: Algorithm, support: Examples) -> Adapted:
    """Return the meta-init's start after its few gradient steps on the support."""
    start = init.starts.get(algorithm)
    if start is None:
        raise RecipeError(f"the meta-init has no {algorithm} start; run meta-train with it")
    if init.schema != target.schema or init.task_type != target.task_type:
        raise RecipeError("the meta-init is for another schema or task type; run meta-train again")
    if not _may_serve(init, target):
        raise RecipeError(
            f"the meta-init's classes {init.class_names or init.slots} are not the champion's"
            f" {target.class_names}; run meta-train with the champion's classes in that order"
        )
    batch = encoded(target, support, init.preprocessor, init.target_mean, init.target_std)
    outputs = len(target.class_names) or init.n_outputs
    architecture, module, step_sizes = grown_start(init, start, outputs, batch)
    path = trajectory(
        module,
        init.task_type,
        weights_of(module),
        step_sizes,
        batch,
        steps=start.steps,
        at=_curve_points(start.steps),
    )
    _refuse_divergence(path)
    model = Model(
        module=with_weights(module, path[-1][1]),
        architecture=architecture,
        schema=init.schema,
        preprocessor=init.preprocessor,
        task_type=init.task_type,
        class_names=target.class_names,
        loss_scale=target.loss_scale,
        target_mean=init.target_mean,
        target_std=init.target_std,
        trained_on=_lineage(init.trained_on, support),
        info={"recipe": algorithm, "steps": start.steps, "support": len(support)},
    )
    return Adapted(model, tuple(path))


def _may_serve(init: MetaInit, target: Target) -> bool:
    """Whether the start has the target's classes, or lacks only the newest of them."""
    if init.slots:
        return init.slots == len(target.class_names)
    return init.class_names == target.class_names[: len(init.class_names)]


def fine_tuned(target: Target, champion: Model, support: Examples, descent: Descent) -> Adapted:
    """Return the champion after Adam on the support, in its own preprocessor."""
    batch = _for_champion(target, champion, support)
    start = grown_model(champion, target.class_names, batch)
    return _adapted("fine_tune", start, support, _adam(start, batch, descent))


def prototypes(target: Target, champion: Model, support: Examples, descent: Descent) -> Adapted:
    """Return the champion with units from the support's prototypes, after a few steps of those.

    Only classes that the champion lacks get new units; where it lacks none, every unit is made
    anew from the prototypes, on the champion's embedding (see ``adapters.prototypes``).
    """
    if target.task_type == "regression":
        raise RecipeError("prototypes are of classes; a regression has none")
    batch = _for_champion(target, champion, support)
    known, wanted = len(champion.class_names), len(target.class_names)
    if wanted > known:
        start = grown_model(champion, target.class_names, batch)
    else:
        start, known = reheaded(champion, batch), 0
    path = taught(start, known, batch, descent, _curve_points(descent.steps))
    _refuse_divergence(path)
    return _adapted("prototypes", start, support, path)


def _for_champion(target: Target, champion: Model, support: Examples) -> Batch:
    return encoded(
        target, support, champion.preprocessor, champion.target_mean, champion.target_std
    )


def _adapted(
    recipe: str, start: Model, support: Examples, path: list[tuple[int, Tensors]]
) -> Adapted:
    model = replace(
        start,
        module=with_weights(start.module, path[-1][1]),
        trained_on=_lineage(start.trained_on, support),
        info={"recipe": recipe, "steps": path[-1][0], "support": len(support)},
    )
    return Adapted(model, tuple(path))


def scratch(
    target: Target, support: Examples, hidden: tuple[int, ...], descent: Descent
) -> Adapted:
    """Return a fresh MLP trained on the support alone, as its preprocessor is."""
    preprocessor = Preprocessor.fit(target.schema, support.rows)
    outputs = len(target.class_names) if target.task_type == "classification" else 1
    architecture = Architecture(
        MLP_PATH, {"inputs": preprocessor.d, "hidden": list(hidden), "outputs": outputs}
    )
    mean, std = target_scale(support.values)
    untrained = Model(
        module=initialise(architecture, descent.seed),
        architecture=architecture,
        schema=target.schema,
        preprocessor=preprocessor,
        task_type=target.task_type,
        class_names=target.class_names,
        loss_scale=target.loss_scale,
        target_mean=mean,
        target_std=std,
    )
    batch = encoded(target, support, preprocessor, mean, std)
    path = _adam(untrained, batch, descent)
    model = replace(
        untrained,
        module=with_weights(untrained.module, path[-1][1]),
        trained_on=np.unique(support.keys),
        info={
            "recipe": "scratch",
            "steps": descent.steps,
            "support": len(support),
            "seed": descent.seed,
        },
    )
    return Adapted(model, tuple(path))


def target_scale(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return (mean, std) that standardise regression targets; (0, 1) for classification."""
    if not len(values):
        return 0.0, 1.0
    std = float(values.std())
    return float(values.mean()), std if std > 0 else 1.0


def hidden_of(*sources: Model | MetaInit | None) -> tuple[int, ...]:
    """Return the hidden widths of the first source that is our MLP."""
    for source in sources:
        if source is not None and source.architecture.path == MLP_PATH:
            return tuple(cast("list[int]", source.architecture.kwargs["hidden"]))
    return USUAL_HIDDEN


def _adam(model: Model, batch: Batch, descent: Descent) -> list[tuple[int, Tensors]]:
    points = _curve_points(descent.steps)
    path = train_few(model.module, batch, model.task_type, descent=descent, at=points)
    _refuse_divergence(path)
    return path


def _refuse_divergence(path: list[tuple[int, Tensors]]) -> None:
    for at, weights in path:
        if not are_finite(weights):
            raise DivergedError(f"weights are not finite after {at} steps")


def _curve_points(steps: int) -> set[int]:
    """Return 0, every step up to 4, then doubling, and the last."""
    points, at = {0, steps}, 1
    while at < steps:
        points.add(at)
        at = at + 1 if at < 4 else 2 * at
    return points


def _lineage(before: NDArray[np.uint64], support: Examples) -> NDArray[np.uint64]:
    return np.union1d(before, support.keys)
