"""What every meta-learning algorithm is: a start, and a gradient of it from a batch of episodes.

An algorithm holds no state and takes no step. The loop (``adapters.meta_loops``) owns the outer
optimiser, clipping, the guard against divergence, checkpoints and processes, once for all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from adapters.inner_loop import TaskLoss, Tensors
from adapters.meta_init import Algorithm
from adapters.tasks import Batch, EpisodeBatch

Outer: TypeAlias = Literal["adam", "pull"]
"""How the start moves: by Adam, or by a fraction of the gradient itself (Reptile)."""


@dataclass(frozen=True, slots=True, eq=False)
class MetaParameters:
    """What is learned: leaves that require a gradient, and step sizes that may stay fixed.

    Attributes:
        weights: Start weights by name.
        step_sizes: Step size of every weight, of its shape or ``()``; the same names.
    """

    weights: Tensors
    step_sizes: Tensors

    @property
    def leaves(self) -> list[Tensor]:
        """What the outer optimiser moves, in a fixed order."""
        return [t for t in (*self.weights.values(), *self.step_sizes.values()) if t.requires_grad]


class MetaLearner(Protocol):
    """One algorithm."""

    @property
    def algorithm(self) -> Algorithm:
        """Its name."""
        ...

    @property
    def outer(self) -> Outer:
        """How its gradient moves the start."""
        ...

    @property
    def inner_steps(self) -> int:
        """Gradient steps on a task that the start is trained for."""
        ...

    def start(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> MetaParameters:
        """Return copies of ``weights``, and step sizes, as leaves."""
        ...

    def gradients(
        self,
        loss: TaskLoss,
        parameters: MetaParameters,
        batch: EpisodeBatch,
        generator: torch.Generator,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss ``()`` and the gradient of every one of ``parameters.leaves``.

        Both are means over the batch's tasks, so that batches of equal size average. Nothing of
        ``parameters`` is changed. Not finite where the inner loop diverged.
        """
        ...


def leaves_of(weights: Mapping[str, Tensor]) -> Tensors:
    """Return copies that require a gradient."""
    return {name: value.detach().clone().requires_grad_() for name, value in weights.items()}


def fixed_step(weights: Mapping[str, Tensor], size: float) -> Tensors:
    """Return one scalar step size for every weight; not learned."""
    return {name: value.new_tensor(size) for name, value in weights.items()}


def pooled(batch: EpisodeBatch) -> Batch:
    """Return support and query of every task together, ``(tasks, support + query, ...)``."""
    if not batch.query.targets.shape[1]:
        return batch.support
    return Batch(
        torch.cat([batch.support.inputs, batch.query.inputs], dim=1),
        torch.cat([batch.support.targets, batch.query.targets], dim=1),
    )
