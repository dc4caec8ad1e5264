"""MAML: Model-Agnostic Meta-Learning (Finn, Abbeel & Levine, ICML 2017), second order.

The start is trained by differentiating the query loss through the inner steps.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.inner_loop import TaskLoss, descend, for_tasks, same_step
from adapters.meta_init import Algorithm
from adapters.meta_learner import MetaParameters, Outer, fixed_step, leaves_of
from adapters.tasks import EpisodeBatch


@dataclass(frozen=True, slots=True)
class MAML:
    """How MAML meta-trains.

    Attributes:
        inner_steps: Gradient steps that the query loss is differentiated through, >= 1.
        step_size: Inner step size, or where the learned ones start, > 0.
        learn_step_sizes: Learn one step size per parameter beside the start, as Meta-SGD does but
            over several steps (``adapters.meta_sgd`` is the paper's form, with one step).
    """

    inner_steps: int = 5
    step_size: float = 0.1
    learn_step_sizes: bool = False

    @property
    def algorithm(self) -> Algorithm:
        """Its name."""
        return "maml"

    @property
    def outer(self) -> Outer:
        """How its gradient moves the start."""
        return "adam"

    def start(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> MetaParameters:
        """Return copies of ``weights``, and step sizes, as leaves; draws nothing."""
        if self.learn_step_sizes:
            sizes = leaves_of(same_step(weights, self.step_size))
        else:
            sizes = fixed_step(weights, self.step_size)
        return MetaParameters(leaves_of(weights), sizes)

    def gradients(
        self,
        loss: TaskLoss,
        parameters: MetaParameters,
        batch: EpisodeBatch,
        generator: torch.Generator,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the mean query loss ``()`` and its gradient through the steps; draws nothing."""
        value = loss_after_steps(loss, parameters, batch, steps=self.inner_steps)
        return value.detach(), list(torch.autograd.grad(value, parameters.leaves))


def loss_after_steps(
    loss: TaskLoss,
    parameters: MetaParameters,
    batch: EpisodeBatch,
    *,
    steps: int,
    only: Collection[str] | None = None,
) -> Tensor:
    """Return the mean query loss after adaptation, ``()``, differentiable in every leaf.

    ``only`` names the weights that adapt; None: all.
    """
    fast = descend(
        loss,
        for_tasks(parameters.weights, len(batch.support.targets)),
        parameters.step_sizes,
        batch.support,
        steps=steps,
        create_graph=True,
        only=only,
    )
    return loss(fast, batch.query, batch.support.inputs).mean()
