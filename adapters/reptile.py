"""Reptile: On First-Order Meta-Learning Algorithms (Nichol, Achiam & Schulman, 2018).

One task per meta-step is the serial version, several are the batched one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.inner_loop import TaskLoss, Tensors, for_tasks, step
from adapters.meta_init import Algorithm
from adapters.meta_learner import MetaParameters, Outer, fixed_step, leaves_of, pooled
from adapters.tasks import Batch, EpisodeBatch


@dataclass(frozen=True, slots=True)
class Reptile:
    """Meta-train by moving a fraction of the way to the weights adapted to each task.

    Attributes:
        inner_steps: SGD steps on each task, >= 1.
        step_size: SGD step size of the inner loop, > 0.
        batch: Examples per inner step, drawn without replacement from support and query together;
            all when there are fewer. Different minibatches are what Reptile learns from (section
            5.1 there).
    """

    inner_steps: int = 8
    step_size: float = 0.1
    batch: int = 20

    @property
    def algorithm(self) -> Algorithm:
        """Its name."""
        return "reptile"

    @property
    def outer(self) -> Outer:
        """How its gradient moves the start."""
        return "pull"

    def start(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> MetaParameters:
        """Return copies of ``weights`` as leaves, and the fixed step size; draws nothing."""
        return MetaParameters(leaves_of(weights), fixed_step(weights, self.step_size))

    def adapted(
        self,
        loss: TaskLoss,
        weights: Mapping[str, Tensor],
        examples: Batch,
        generator: torch.Generator,
    ) -> Tensors:
        """Return each task's weights after the inner steps, ``(tasks, *shape)`` each.

        Args:
            loss: Loss of each task.
            weights: Start weights, without a task axis.
            examples: ``(tasks, n, ...)``.
            generator: Draws the minibatches: the same positions for every task of the step.
        """
        tasks, n = examples.targets.shape
        fast, sizes = for_tasks(weights, tasks), fixed_step(weights, self.step_size)
        for _ in range(self.inner_steps):
            chosen = examples
            if self.batch < n:
                at = torch.randperm(n, generator=generator)[: self.batch]
                at = at.to(examples.targets.device)
                chosen = Batch(examples.inputs[:, at], examples.targets[:, at])
            fast = step(loss, fast, sizes, chosen)
        return fast

    def gradients(
        self,
        loss: TaskLoss,
        parameters: MetaParameters,
        batch: EpisodeBatch,
        generator: torch.Generator,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the mean loss of the adapted weights theta_i, and theta - mean_i(theta_i)."""
        examples = pooled(batch)
        fast = self.adapted(loss, parameters.weights, examples, generator)
        with torch.no_grad():
            value = loss(fast, examples, examples.inputs).mean()
            moves = [w - fast[name].mean(0) for name, w in parameters.weights.items()]
        return value, moves
