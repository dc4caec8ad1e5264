"""Reptile: On First-Order Meta-Learning Algorithms (Nichol, Achiam & Schulman, 2018)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.inner_loop import TaskLoss, Tensors, are_finite, for_tasks, step
from adapters.tasks import Batch


@dataclass(frozen=True, slots=True)
class Reptile:
    """Meta-train by moving a fraction of the way to the weights adapted to each task.

    Attributes:
        inner_steps: SGD steps on each task, >= 1.
        step_size: SGD step size of the inner loop, > 0.
        batch: Examples per inner step, drawn without replacement; all when the support is
            smaller. Different minibatches are what Reptile learns from (section 5.1 there).
    """

    inner_steps: int = 8
    step_size: float = 0.1
    batch: int = 20

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
        fast = for_tasks(weights, tasks)
        sizes = {name: torch.tensor(self.step_size, dtype=w.dtype) for name, w in weights.items()}
        for _ in range(self.inner_steps):
            chosen = examples
            if self.batch < n:
                at = torch.randperm(n, generator=generator)[: self.batch]
                chosen = Batch(examples.inputs[:, at], examples.targets[:, at])
            fast = step(loss, fast, sizes, chosen)
        return fast

    def meta_step(
        self,
        loss: TaskLoss,
        weights: Mapping[str, Tensor],
        examples: Batch,
        generator: torch.Generator,
        *,
        pull: float,
    ) -> tuple[Tensors, float]:
        """Return (theta + pull * mean_i(theta_i - theta), mean loss of the theta_i).

        Arguments as ``adapted``. Where the loss or a weight is not finite, the start comes back
        unmoved, with the loss NaN.
        """
        fast = self.adapted(loss, weights, examples, generator)
        with torch.no_grad():
            value = loss(fast, examples).mean().item()
            moved = {name: w + pull * (fast[name].mean(0) - w) for name, w in weights.items()}
        if math.isfinite(value) and are_finite(moved):
            return moved, value
        return dict(weights), math.nan
