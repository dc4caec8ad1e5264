"""Fitting a first champion: one model on every labelled row at hand."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from adapters.examples import Examples
from adapters.feature_schema import FeatureSchema, Preprocessor
from adapters.inner_loop import one_thread, with_weights
from adapters.joint import JointSettings, train_jointly
from adapters.model_file import Architecture, Model
from adapters.modules import initialise
from adapters.recipes import MLP_PATH, USUAL_HIDDEN, Target, encoded, target_scale
from adapters.tasks import Batch

MOST_HOLDOUT_LOSSES = 2_000
"""Held-out losses kept in ``info``: plenty to prime a detector."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to fit a champion.

    Attributes:
        hidden: Hidden widths of the MLP.
        held_out: Share of the keys (groups) that early stopping and ``holdout_losses`` use.
        training: Optimiser and patience.
    """

    hidden: tuple[int, ...] = USUAL_HIDDEN
    held_out: float = 0.2
    training: JointSettings = field(default_factory=JointSettings)

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; use a number in (0, 1)")


def fit_joint(
    schema: FeatureSchema,
    examples: Examples,
    *,
    class_names: tuple[str, ...] = (),
    settings: FitSettings | None = None,
    seed: int = 0,
) -> Model:
    """Return an MLP fitted to all examples, whatever their task, with early stopping.

    ``info["holdout_losses"]`` holds its losses on the held-out rows, drawn in random order: what
    primes an error monitor. ``trained_on`` names the held-out rows too, since they chose when to
    stop.

    Args:
        schema: Raw features.
        examples: Labels for classification, values for regression.
        class_names: Order of the outputs; empty means the sorted labels.
        settings: How to fit.
        seed: Seed of weights, batches and held-out choice.

    Raises:
        ValueError: Fewer than two keys, one class, or a label outside ``class_names``.
    """
    settings = settings or FitSettings()
    keys = np.unique(examples.keys)
    names = class_names or tuple(sorted(set(examples.labels)))
    if len(keys) < 2:
        raise ValueError(f"{len(keys)} different keys; fitting needs at least 2, better hundreds")
    if examples.labels and (len(names) < 2 or not set(examples.labels) <= set(names)):
        raise ValueError(
            f"labels {sorted(set(examples.labels))[:8]} with class_names {names};"
            " fitting needs at least two classes, and all of them named"
        )
    shuffled = np.random.default_rng(seed).permutation(keys)
    held_keys = shuffled[: min(len(keys) - 1, max(1, round(settings.held_out * len(keys))))]
    held = np.isin(examples.keys, held_keys)
    train, test = (examples.take(np.flatnonzero(chosen)) for chosen in (~held, held))
    test = test.take(np.random.default_rng(seed).permutation(len(test)))
    preprocessor = Preprocessor.fit(schema, train.rows)
    regression = len(examples.values) > 0
    mean, std = target_scale(train.values)
    architecture = Architecture(
        MLP_PATH,
        {
            "inputs": preprocessor.d,
            "hidden": list(settings.hidden),
            "outputs": 1 if regression else len(names),
        },
    )
    target = Target(schema, "regression" if regression else "classification", names, 1.0)

    def batch(part: Examples) -> Batch:
        return encoded(target, part, preprocessor, mean, std)

    module = initialise(architecture, seed)
    with one_thread():
        fit = train_jointly(
            module, batch(train), batch(test), target.task_type, settings.training, seed=seed
        )
        module = with_weights(module, fit.weights)
        scale = 1.0
        if regression:
            with torch.inference_mode():
                outputs = module(torch.from_numpy(preprocessor.encode(train.rows)))[:, 0]
            error = np.abs(outputs.numpy().astype(np.float64) * std + mean - train.values).mean()
            scale = 4 * float(error) or 1.0
        unfinished = Model(
            module=module,
            architecture=architecture,
            schema=schema,
            preprocessor=preprocessor,
            task_type=target.task_type,
            class_names=names,
            loss_scale=scale,
            target_mean=mean,
            target_std=std,
        )
        losses = unfinished.losses(unfinished.predict(test.rows), test.truths)
    info: dict[str, object] = {
        "recipe": "joint",
        "seed": seed,
        "epochs": fit.epochs,
        "rows": len(train),
        "held_out_rows": len(test),
        "holdout_loss": float(losses.mean()),
        "holdout_losses": losses[:MOST_HOLDOUT_LOSSES].tolist(),
    }
    return replace(unfinished, trained_on=keys, info=info)
