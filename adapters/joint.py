"""Ordinary training: Adam on whole modules, from a given or a fresh start.

Every non-meta-learned recipe stands on this: the first champion and joint pre-training (with early
stopping on a held-out part), fine-tuning and scratch (a fixed number of steps on few labels).
Adam: Kingma & Ba, ICLR 2015; decoupled weight decay: Loshchilov & Hutter, ICLR 2019.
"""

import copy
import math
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from adapters.inner_loop import Tensors, weights_of
from adapters.model_file import TaskType
from adapters.tasks import Batch

HeldOutLoss: TypeAlias = Callable[[nn.Module], float]


@dataclass(frozen=True, slots=True)
class Descent:
    """Full-batch Adam steps on a few examples.

    Attributes:
        steps: How many, >= 1.
        lr: Step size, > 0.
        weight_decay: Decoupled weight decay per unit of ``lr``.
        seed: Seed of fresh weights (scratch) and of dropout.
    """

    steps: int
    lr: float
    weight_decay: float
    seed: int = 0


FINE_TUNE = Descent(steps=100, lr=1e-2, weight_decay=0.0)
SCRATCH = Descent(steps=200, lr=3e-3, weight_decay=0.1)
"""What did best, at 20 and at 40 labels, on pairs of sorting plans that nothing else uses."""


def loss_of(module: nn.Module, batch: Batch, task_type: TaskType) -> Tensor:
    """Return the mean loss of ``module`` on ``(n, ...)`` examples, ``()``."""
    outputs: Tensor = module(batch.inputs)
    if task_type == "regression":
        return (outputs[:, 0] - batch.targets).square().mean()
    return cross_entropy(outputs, batch.targets)


def train_few(
    module: nn.Module,
    support: Batch,
    task_type: TaskType,
    *,
    descent: Descent,
    at: Container[int],
) -> list[tuple[int, Tensors]]:
    """Return (steps, weights) after each number of full-batch steps in ``at``.

    ``module`` is copied. Batch norm keeps its stored statistics (a few examples cannot estimate
    them); dropout is drawn under the seed, and the caller's random state is left alone.
    """
    learner = copy.deepcopy(module).train()
    for part in learner.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
    optimiser = torch.optim.AdamW(
        learner.parameters(), lr=descent.lr, weight_decay=descent.weight_decay, foreach=True
    )
    path = [(0, weights_of(learner))] if 0 in at else []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(descent.seed)
        for done in range(1, descent.steps + 1):
            optimiser.zero_grad()
            torch.autograd.backward(loss_of(learner, support, task_type))
            optimiser.step()
            if done in at:
                path.append((done, weights_of(learner)))
    return path


@dataclass(frozen=True, slots=True)
class JointSettings:
    """How a model is trained on many rows.

    Attributes:
        lr: Adam's step size.
        weight_decay: Decoupled weight decay per unit of ``lr``.
        batch: Rows per step.
        most_epochs: Passes over the rows, at most.
        look_every: Epochs from one look at the held-out loss to the next.
        patience: Looks without a better one before it stops.
        most_seconds: No epoch begins after these.
    """

    lr: float = 2e-3
    weight_decay: float = 1e-3
    batch: int = 64
    most_epochs: int = 60
    look_every: int = 1
    patience: int = 8
    most_seconds: float = math.inf


@dataclass(frozen=True, slots=True, eq=False)
class JointFit:
    """Outcome of ``train_jointly``.

    Attributes:
        weights: The best parameters, and with batch norm its statistics.
        held_out_loss: Theirs.
        epochs: That it took.
        out_of_time: Whether ``most_seconds`` ended it.
    """

    weights: Tensors
    held_out_loss: float
    epochs: int
    out_of_time: bool = False


def _state_of(module: nn.Module) -> Tensors:
    """Return copies of the parameters, and of the batch norms' statistics."""
    statistics = {
        name: value.clone()
        for name, value in module.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    }
    return weights_of(module) | statistics


def train_jointly(
    module: nn.Module,
    train: Batch,
    held_out: Batch | HeldOutLoss,
    task_type: TaskType,
    settings: JointSettings,
    *,
    seed: int,
    clock: Callable[[], float] = time.monotonic,
) -> JointFit:
    """Return the weights with the least held-out loss; ``module`` is the start and is copied.

    Args:
        module: The start.
        train: Rows to learn from.
        held_out: Rows whose mean loss says when to stop, or what says it of a module in
            evaluation mode.
        task_type: ``classification`` or ``regression``.
        settings: How.
        seed: Of the order of the rows, and of dropout.
        clock: Seconds, for ``settings.most_seconds``.

    Raises:
        ValueError: No epoch reached a finite held-out loss.
    """
    judge = _mean_loss_on(held_out, task_type) if isinstance(held_out, Batch) else held_out
    learner = copy.deepcopy(module).train()
    optimiser = torch.optim.AdamW(
        learner.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    n, best, since, epoch = len(train.targets), float("inf"), 0, 0
    weights: Tensors = {}
    began, late = clock(), False
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        while epoch < settings.most_epochs and since < settings.patience and not late:
            learner.train()
            for at in torch.split(torch.randperm(n), settings.batch):
                optimiser.zero_grad()
                chosen = Batch(train.inputs[at], train.targets[at])
                torch.autograd.backward(loss_of(learner, chosen, task_type))
                optimiser.step()
            epoch += 1
            late = clock() - began >= settings.most_seconds
            if epoch % settings.look_every and epoch < settings.most_epochs and not late:
                continue
            value, since = judge(learner.eval()), since + 1
            if value < best:
                best, since, weights = value, 0, _state_of(learner)
    if not weights:
        raise ValueError(
            f"no finite held-out loss in {epoch} epochs at lr {settings.lr}; use a smaller lr"
        )
    late = late and epoch < settings.most_epochs and since < settings.patience
    return JointFit(weights, best, epoch, late)


def _mean_loss_on(rows: Batch, task_type: TaskType) -> HeldOutLoss:
    def value(module: nn.Module) -> float:
        with torch.inference_mode():
            return loss_of(module, rows, task_type).item()

    return value
