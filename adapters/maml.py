"""MAML: Model-Agnostic Meta-Learning (Finn, Abbeel & Levine, ICML 2017), and Meta-SGD.

The start weights are trained by differentiating the query loss through the inner steps. With
``learn_step_sizes`` every parameter's own step size is trained too (Meta-SGD: Li, Zhou, Chen & Li,
"Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.inner_loop import TaskLoss, Tensors, descend, for_tasks, same_step
from adapters.tasks import EpisodeBatch


@dataclass(frozen=True, slots=True)
class MAML:
    """How MAML meta-trains.

    Attributes:
        inner_steps: Gradient steps that the query loss is differentiated through, >= 1.
        step_size: Inner step size, or where the learned ones start, > 0.
        learn_step_sizes: Learn one step size per parameter (Meta-SGD).
        first_order: Drop second derivatives (FOMAML): cheaper, a little worse.
    """

    inner_steps: int = 5
    step_size: float = 0.1
    learn_step_sizes: bool = True
    first_order: bool = False

    def __post_init__(self) -> None:
        if self.learn_step_sizes and self.first_order:
            raise ValueError(
                "learn_step_sizes needs second derivatives; set one of it and first_order to false"
            )

    def start(self, weights: Mapping[str, Tensor]) -> tuple[Tensors, Tensors]:
        """Return (weights, step sizes) as leaves, ready for a meta-optimiser."""
        leaves = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
        sizes = same_step(leaves, self.step_size)
        return leaves, {n: s.requires_grad_(self.learn_step_sizes) for n, s in sizes.items()}

    def meta_loss(
        self,
        loss: TaskLoss,
        weights: Mapping[str, Tensor],
        step_sizes: Mapping[str, Tensor],
        batch: EpisodeBatch,
    ) -> Tensor:
        """Return the mean query loss after adaptation, ``()``.

        Differentiable in ``weights`` and, unless ``first_order``, in ``step_sizes``.
        """
        shared = for_tasks(weights, len(batch.support.targets))
        fast = descend(
            loss,
            shared,
            step_sizes,
            batch.support,
            steps=self.inner_steps,
            create_graph=not self.first_order,
        )
        if self.first_order:  # adds zero, but its derivative by the start is the identity
            fast = {name: f + (shared[name] - shared[name].detach()) for name, f in fast.items()}
        return loss(fast, batch.query).mean()

    def meta_step(
        self,
        loss: TaskLoss,
        weights: Mapping[str, Tensor],
        step_sizes: Mapping[str, Tensor],
        batch: EpisodeBatch,
        *,
        optimiser: torch.optim.Optimizer,
    ) -> float:
        """Take one step of ``optimiser`` on the meta-loss; return the loss.

        A loss or gradient that is not finite takes no step.
        """
        optimiser.zero_grad()
        value = self.meta_loss(loss, weights, step_sizes, batch)
        torch.autograd.backward(value)
        leaves = [t for t in (*weights.values(), *step_sizes.values()) if t.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(leaves, _LARGEST_GRADIENT)
        if torch.isfinite(norm) and torch.isfinite(value):
            optimiser.step()
        return value.item()


_LARGEST_GRADIENT = 10.0  # norm; one bad batch must not throw the start away
