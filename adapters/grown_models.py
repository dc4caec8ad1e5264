"""Models and meta-learned starts with units for classes that they lack, and what those learn.

``taught`` moves the units made from prototypes alone, so that a known class can lose nothing but
what a new one takes from it.
"""

from collections.abc import Container
from dataclasses import replace

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from adapters.inner_loop import Tensors, weights_of, with_weights
from adapters.joint import Descent
from adapters.meta_init import MetaInit, Start
from adapters.model_file import Architecture, Model
from adapters.prototypes import (
    Units,
    embedded,
    grown,
    head_name,
    head_units,
    linear_head,
    with_prototype_head,
)
from adapters.support_norm import support_statistics
from adapters.tasks import Batch

PROTOTYPES = Descent(steps=50, lr=0.1, weight_decay=0.0)
"""What did well with 20 labels of a new lane on two seeds of the sorting centre, and with an
embedding that had collapsed onto its two classes; the step size is relative (see ``taught``)."""
KNOWN_WEIGHT = 2.0
"""What an example of a known class counts beside one of a new class: the new one shall not live at
the cost of the others."""


def grown_model(model: Model, class_names: tuple[str, ...], batch: Batch) -> Model:
    """Return the model with a unit for each of ``class_names``; its own classes come first.

    Args:
        model: The champion; it stays as it is, and is returned where it lacks no class.
        class_names: Its own in their order, then new ones.
        batch: Support in the model's own encoding, ``(n, d)`` and ``(n,)``.

    Raises:
        GrowthError: As ``grown``.
    """
    if class_names == model.class_names:
        return model
    architecture, module = grown(
        model.module, model.architecture, batch.inputs, batch.targets, len(class_names)
    )
    return replace(model, module=module, architecture=architecture, class_names=class_names)


def reheaded(model: Model, batch: Batch) -> Model:
    """Return the model with a whole head of prototypes; raises GrowthError as that."""
    architecture, module = with_prototype_head(
        model.module, model.architecture, batch.inputs, batch.targets, len(model.class_names)
    )
    return replace(model, module=module, architecture=architecture)


def taught(
    model: Model, trained_units: int, batch: Batch, descent: Descent, at: Container[int]
) -> list[tuple[int, Tensors]]:
    """Return (steps, weights) after Adam steps on the units from ``trained_units`` on.

    Everything else stays: embedding, trained units, and so every decision between known classes.

    Args:
        model: Grown; it is copied.
        trained_units: Units that stay as they are, the first ones.
        batch: Support in the model's own encoding, ``(n, d)`` and ``(n,)``.
        descent: Steps and step size, for embeddings scaled to a root mean square length of one and
            in units of the spread of the trained logits (without trained units: of all).
        at: Which numbers of steps to return.
    """
    embedding = embedded(model.module, batch.inputs)
    length = embedding.square().sum(1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    head = head_units(linear_head(model.module))
    moved = [torch.zeros_like(part[trained_units:]) for part in (head.weight, head.bias)]
    for part in moved:
        part.requires_grad_()
    logits = embedding @ head.weight.T + head.bias
    kept = logits[:, :trained_units] if trained_units > 1 else logits
    spread = (kept - kept.mean(1, keepdim=True)).square().mean().sqrt().item()
    optimiser = torch.optim.AdamW(
        moved, lr=descent.lr * (spread or 1.0), weight_decay=descent.weight_decay
    )
    counts = torch.ones(len(head.bias))
    counts[:trained_units] = KNOWN_WEIGHT

    def now() -> Units:
        return Units(
            torch.cat(
                [head.weight[:trained_units], head.weight[trained_units:] + moved[0] / length]
            ),
            torch.cat([head.bias[:trained_units], head.bias[trained_units:] + moved[1]]),
        )

    fixed, name = weights_of(model.module), head_name(model.architecture)
    path = []
    for done in range(descent.steps + 1):
        if done:
            optimiser.zero_grad()
            units = now()
            now_said = embedding @ units.weight.T + units.bias
            torch.autograd.backward(cross_entropy(now_said, batch.targets, weight=counts))
            optimiser.step()
        if done in at:
            units = now()
            own = {f"{name}.weight": units.weight, f"{name}.bias": units.bias}
            path.append((done, fixed | {key: part.detach().clone() for key, part in own.items()}))
    return path


def grown_start(
    init: MetaInit, start: Start, outputs: int, batch: Batch
) -> tuple[Architecture, nn.Module, Tensors]:
    """Return a meta-init's start with ``outputs`` units, and its step sizes.

    The new units are made on the start's own embedding, before its gradient steps (Proto-MAML);
    each takes the mean of the old units' step sizes.

    Raises:
        GrowthError: As ``grown``.
    """
    module = with_weights(init.architecture.build(), start.weights)
    if outputs == init.n_outputs:
        return init.architecture, module, dict(start.step_sizes)
    # Batch norms embed with the statistics of the support, as the few steps themselves do.
    seen = with_weights(
        module, {**start.weights, **support_statistics(module, start.weights, batch.inputs)}
    )
    architecture, wider = grown(seen, init.architecture, batch.inputs, batch.targets, outputs)
    wrapped = architecture.path != init.architecture.path
    step_sizes: Tensors = {}
    for name, weight in weights_of(wider).items():
        size = start.step_sizes[name.removeprefix("inner.") if wrapped else name]
        if size.shape and size.shape != weight.shape:
            mean = size.mean(0, keepdim=True)
            more = mean.expand(len(weight) - len(size), *mean.shape[1:])
            size = torch.cat([size, more])
        step_sizes[name] = size
    return architecture, wider, step_sizes
