"""ANIL: Almost No Inner Loop (Raghu, Raghu, Bengio & Vinyals, "Rapid Learning or Feature Reuse?",
ICLR 2020).

Only the head adapts to a task; the rest of the network is trained as the features that make this
enough. Cheaper than MAML, since no gradient goes through the body's inner steps: there are none.
Where the loss knows body and head apart (our MLP), the body runs once per row and meta-step, and
the inner steps see its outputs alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.inner_loop import TaskLoss, descend, for_tasks
from adapters.maml import loss_after_steps
from adapters.meta_init import Algorithm
from adapters.meta_learner import MetaParameters, Outer, leaves_of
from adapters.tasks import Batch, EpisodeBatch


@dataclass(frozen=True, slots=True)
class ANIL:
    """How ANIL meta-trains.

    Attributes:
        inner_steps: Gradient steps of the head that the query loss is differentiated through, >= 1.
        step_size: Inner step size of the head, > 0. The body's is 0, which is how a start of ANIL
            adapts later without anybody knowing what made it.
        head: Name of the part that adapts.
    """

    inner_steps: int = 5
    step_size: float = 0.1
    head: str = "head"

    @property
    def algorithm(self) -> Algorithm:
        """Its name."""
        return "anil"

    @property
    def outer(self) -> Outer:
        """How its gradient moves the start."""
        return "adam"

    def start(self, weights: Mapping[str, Tensor], generator: torch.Generator) -> MetaParameters:
        """Return copies of ``weights`` as leaves; ValueError where there is no head."""
        adapting = self._adapting(weights)
        if not adapting:
            parts = sorted({name.partition(".")[0] for name in weights})
            raise ValueError(
                f"ANIL adapts the part {self.head!r}, the module has {parts}; call its last layer"
                " 'head', or train another algorithm"
            )
        sizes = {
            name: value.new_tensor(self.step_size if name in adapting else 0.0)
            for name, value in weights.items()
        }
        return MetaParameters(leaves_of(weights), sizes)

    def gradients(
        self,
        loss: TaskLoss,
        parameters: MetaParameters,
        batch: EpisodeBatch,
        generator: torch.Generator,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the mean query loss ``()`` and its gradient by head and body; draws nothing."""
        only = self._adapting(parameters.weights)
        if loss.body is not None and loss.head is not None and self.head == "head":
            shared = for_tasks(parameters.weights, len(batch.support.targets))
            support, query = (
                Batch(loss.body(shared, part.inputs), part.targets)
                for part in (batch.support, batch.query)
            )
            of_head = TaskLoss(loss.head, loss.task_type)
            head = {name: value for name, value in shared.items() if name in only}
            sizes, steps = parameters.step_sizes, self.inner_steps
            fast = descend(of_head, head, sizes, support, steps=steps, create_graph=True)
            value = of_head(fast, query).mean()
        else:
            value = loss_after_steps(loss, parameters, batch, steps=self.inner_steps, only=only)
        return value.detach(), list(torch.autograd.grad(value, parameters.leaves))

    def _adapting(self, weights: Mapping[str, Tensor]) -> frozenset[str]:
        return frozenset(n for n in weights if n == self.head or n.startswith(f"{self.head}."))
