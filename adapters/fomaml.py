"""FOMAML: first-order MAML (Finn, Abbeel & Levine, ICML 2017, section 5.2; named so by Nichol,
Achiam & Schulman, 2018).

The gradient of the query loss is taken at the adapted weights and given to the start as it is: the
second derivatives are dropped, and with them half of the time and most of the memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.inner_loop import TaskLoss, descend, for_tasks
from adapters.meta_init import Algorithm
from adapters.meta_learner import MetaParameters, Outer, fixed_step, leaves_of
from adapters.tasks import EpisodeBatch


@dataclass(frozen=True, slots=True)
class FOMAML:
    """How first-order MAML meta-trains.

    Attributes:
        inner_steps: Gradient steps on a task, >= 1.
        step_size: Inner step size, > 0. It cannot be learned: that takes second derivatives.
    """

    inner_steps: int = 5
    step_size: float = 0.1

    @property
    def algorithm(self) -> Algorithm:
        """Its name."""
        return "fomaml"

    @property
    def outer(self) -> Outer:
        """How its gradient moves the start."""
        return "adam"

    def start(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> MetaParameters:
        """Return copies of ``weights`` as leaves, and the fixed step size; draws nothing."""
        return MetaParameters(leaves_of(weights), fixed_step(weights, self.step_size))

    def gradients(
        self,
        loss: TaskLoss,
        parameters: MetaParameters,
        batch: EpisodeBatch,
        generator: torch.Generator,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the mean query loss ``()`` and its gradient at the adapted weights."""
        shared = for_tasks(parameters.weights, len(batch.support.targets))
        fast = descend(loss, shared, parameters.step_sizes, batch.support, steps=self.inner_steps)
        ends = [value.requires_grad_() for value in fast.values()]
        value = loss(fast, batch.query, batch.support.inputs).mean()
        return value.detach(), [grad.sum(0) for grad in torch.autograd.grad(value, ends)]
