"""Joint pre-training, to be fine-tuned: the ablation that meta-learning has to beat.

The start is trained on the examples of all tasks at once, as if they were one (multi-task
pre-training with hard sharing: Caruana, "Multitask Learning", 1997), and adapts afterwards by the
same inner loop as every other start, with steps and step size tuned on meta-validation tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.inner_loop import TaskLoss, for_tasks
from adapters.meta_init import Algorithm
from adapters.meta_learner import MetaParameters, Outer, fixed_step, leaves_of, pooled
from adapters.tasks import EpisodeBatch


@dataclass(frozen=True, slots=True)
class JointPretraining:
    """How a joint start is trained.

    Attributes:
        step_size: Where the search for the step size of fine-tuning begins, > 0; plays no part in
            the training.
    """

    step_size: float = 0.1

    @property
    def algorithm(self) -> Algorithm:
        """Its name."""
        return "joint"

    @property
    def outer(self) -> Outer:
        """How its gradient moves the start."""
        return "adam"

    @property
    def inner_steps(self) -> int:
        """None: it is trained as it stands."""
        return 0

    def start(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> MetaParameters:
        """Return copies of ``weights`` as leaves, and the step size; draws nothing."""
        return MetaParameters(leaves_of(weights), fixed_step(weights, self.step_size))

    def gradients(
        self,
        loss: TaskLoss,
        parameters: MetaParameters,
        batch: EpisodeBatch,
        generator: torch.Generator,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the mean loss ``()`` on support and query, and its gradient; draws nothing."""
        examples = pooled(batch)
        shared = for_tasks(parameters.weights, len(examples.targets))
        value = loss(shared, examples, examples.inputs).mean()
        return value.detach(), list(torch.autograd.grad(value, parameters.leaves))
