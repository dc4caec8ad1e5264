"""Meta-SGD: Learning to Learn Quickly for Few-Shot Learning (Li, Zhou, Chen & Li, 2017).

The start and one step size per parameter are learned together, for a single step; a step size may
become 0 (do not touch) or negative. ``MAML(learn_step_sizes=True)`` learns them for several steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.inner_loop import TaskLoss
from adapters.maml import loss_after_steps
from adapters.meta_init import Algorithm
from adapters.meta_learner import MetaParameters, Outer, leaves_of
from adapters.tasks import EpisodeBatch


@dataclass(frozen=True, slots=True)
class MetaSGD:
    """How Meta-SGD meta-trains.

    Attributes:
        largest_step_size: Every parameter's step size is drawn uniformly from a twentieth of this
            to this, > 0; from there it is learned.
        inner_steps: Gradient steps, >= 1; 1 in the paper.
    """

    largest_step_size: float = 0.1
    inner_steps: int = 1

    @property
    def algorithm(self) -> Algorithm:
        """Its name."""
        return "meta-sgd"

    @property
    def outer(self) -> Outer:
        """How its gradient moves the start."""
        return "adam"

    def start(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> MetaParameters:
        """Return copies of ``weights``, and step sizes drawn by ``generator``, as leaves."""
        most = self.largest_step_size
        drawn = {
            name: (torch.rand(value.shape, generator=generator) * 0.95 + 0.05).to(value) * most
            for name, value in weights.items()
        }
        return MetaParameters(leaves_of(weights), leaves_of(drawn))

    def gradients(
        self,
        loss: TaskLoss,
        parameters: MetaParameters,
        batch: EpisodeBatch,
        generator: torch.Generator,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the mean query loss ``()`` and its gradient by weights and step sizes."""
        value = loss_after_steps(loss, parameters, batch, steps=self.inner_steps)
        return value.detach(), list(torch.autograd.grad(value, parameters.leaves))
