"""The inner loop, once, for every adapter: gradient steps on fast weights of many tasks at once.

Tasks are independent, so the gradient of the summed task losses is every task's own gradient:
one backward pass serves all of them. Weights carry a leading task axis. A copy of the module runs,
without dropout; batch norm takes its statistics from each task's support
(``adapters.support_norm``). Neither weights nor buffers of the module itself change.
"""

import copy
from collections.abc import Collection, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from adapters.model_file import TaskType
from adapters.modules import MLP
from adapters.support_norm import SupportNormed, has_batch_norm, support_statistics
from adapters.tasks import Batch

Tensors: TypeAlias = dict[str, Tensor]


class Forward(Protocol):
    """A forward pass of many tasks, each with its own weights."""

    def __call__(
        self, weights: Mapping[str, Tensor], inputs: Tensor, support: Tensor | None = None
    ) -> Tensor:
        """Return outputs ``(tasks, n, C)``.

        Args:
            weights: ``(tasks, *shape)`` each.
            inputs: ``(tasks, n, ...)``.
            support: ``(tasks, k, ...)`` inputs that batch norm takes its statistics from; may be
                ``inputs`` itself. None: its stored statistics. Without batch norm of no effect.
        """
        ...


def weights_of(module: nn.Module) -> Tensors:
    """Return copies of the parameters by name."""
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def with_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of ``module`` that holds ``weights``.

    Args:
        module: What to copy.
        weights: Every parameter by name; buffers may be among them, the others stay.

    Raises:
        ValueError: Names or shapes differ.
    """
    clone = copy.deepcopy(module)
    places: Tensors = dict(clone.named_parameters())
    wrong = sorted(places.keys() - weights.keys())
    places |= dict(clone.named_buffers())
    wrong += sorted(weights.keys() - places.keys())
    wrong += [n for n, value in weights.items() if n in places and places[n].shape != value.shape]
    if wrong:
        raise ValueError(f"weights {wrong} do not fit {type(module).__name__}; rebuild them for it")
    with torch.no_grad():
        for name, value in weights.items():
            places[name].copy_(value)
    return clone


def for_tasks(weights: Mapping[str, Tensor], tasks: int) -> Tensors:
    """Return ``weights`` seen by ``tasks`` tasks: a leading axis, no copy."""
    return {name: value.unsqueeze(0).expand(tasks, *value.shape) for name, value in weights.items()}


def same_step(weights: Mapping[str, Tensor], size: float) -> Tensors:
    """Return step sizes of ``size`` for every parameter, each of its parameter's shape."""
    return {name: torch.full_like(value, size) for name, value in weights.items()}


def are_finite(weights: Mapping[str, Tensor]) -> bool:
    """Whether no weight is NaN or infinite."""
    return all(bool(torch.isfinite(value).all()) for value in weights.values())


def forward_over_tasks(module: nn.Module) -> Forward:
    """Return the forward pass of ``module`` with each task's own weights.

    Our MLP takes one ``baddbmm`` per layer; any other module goes through ``torch.func.vmap``.
    """
    if type(module) is MLP:
        body, head = _mlp_parts(module)
        return lambda weights, inputs, support=None: head(weights, body(weights, inputs))
    frozen = copy.deepcopy(module).eval()
    buffers = dict(frozen.named_buffers())

    def stored(weights: Tensors, inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(frozen, {**weights, **buffers}, (inputs,))
        return outputs

    over = torch.func.vmap(stored)
    normed = SupportNormed.of(module) if has_batch_norm(module) else None

    def forward(
        weights: Mapping[str, Tensor], inputs: Tensor, support: Tensor | None = None
    ) -> Tensor:
        if normed is None or support is None:
            return over(dict(weights), inputs)
        if support is inputs:
            return torch.func.vmap(lambda w, x: normed(w, x, x))(dict(weights), inputs)
        return torch.func.vmap(normed)(dict(weights), support, inputs)

    return forward


def _mlp_parts(module: MLP) -> tuple[Forward, Forward]:
    """Return the pass from inputs to the last hidden layer, and the one from there to outputs."""
    layers = [f"layers.{i}" for i in range(len(module.layers))]

    def linear(weights: Mapping[str, Tensor], layer: str, x: Tensor) -> Tensor:
        bias = weights[f"{layer}.bias"].unsqueeze(1)
        return torch.baddbmm(bias, x, weights[f"{layer}.weight"].transpose(1, 2))

    def body(
        weights: Mapping[str, Tensor], inputs: Tensor, support: Tensor | None = None
    ) -> Tensor:
        x = inputs
        for layer in layers:
            x = linear(weights, layer, x).relu()
        return x

    def head(
        weights: Mapping[str, Tensor], inputs: Tensor, support: Tensor | None = None
    ) -> Tensor:
        return linear(weights, "head", inputs)

    return body, head


@dataclass(frozen=True, slots=True)
class TaskLoss:
    """Mean loss of each task: cross entropy, or squared error of output 0 for regression.

    Attributes:
        forward: Forward pass over tasks.
        task_type: ``classification`` or ``regression``.
        body: Its part up to the inputs of the part ``head``, where it can run by itself (our MLP).
        head: The rest; None together with ``body``.
    """

    forward: Forward
    task_type: TaskType
    body: Forward | None = None
    head: Forward | None = None

    @staticmethod
    def of(module: nn.Module, task_type: TaskType, device: str = "cpu") -> "TaskLoss":
        """Return the loss of ``module``'s forward pass on ``device``; ``module`` is left alone."""
        body, head = _mlp_parts(module) if type(module) is MLP else (None, None)
        forward = forward_over_tasks(copy.deepcopy(module).to(device))
        return TaskLoss(forward, task_type, body, head)

    def __call__(
        self, weights: Mapping[str, Tensor], batch: Batch, support: Tensor | None = None
    ) -> Tensor:
        """Return ``(tasks,)`` losses of fast weights on ``batch`` of ``(tasks, n, ...)``.

        ``support`` is what batch norm takes its statistics from, as for ``Forward``.
        """
        outputs = self.forward(weights, batch.inputs, support)
        if self.task_type == "regression":
            return (outputs[..., 0] - batch.targets).square().mean(1)
        each = cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return each.view(batch.targets.shape).mean(1)


def step(
    loss: TaskLoss,
    weights: Mapping[str, Tensor],
    step_sizes: Mapping[str, Tensor],
    batch: Batch,
    *,
    create_graph: bool = False,
    only: Collection[str] | None = None,
) -> Tensors:
    """Return each task's weights after one gradient step on its own examples.

    Args:
        loss: Loss of each task.
        weights: Fast weights, ``(tasks, *shape)`` each.
        step_sizes: Step size of every parameter, ``shape`` each (or broadcast to it).
        batch: ``(tasks, n, d)`` inputs and ``(tasks, n)`` targets.
        create_graph: Keep the graph, to differentiate through the step (second-order MAML);
            ``weights`` must then require a gradient, or depend on what does.
        only: Names of the weights that take the step; None: all.
    """
    if not create_graph:
        weights = {name: value.detach() for name, value in weights.items()}
    taking = [name for name in weights if only is None or name in only]
    if not create_graph:
        for name in taking:
            weights[name].requires_grad_()
    total = loss(weights, batch, batch.inputs).sum()
    grads = torch.autograd.grad(total, [weights[n] for n in taking], create_graph=create_graph)
    moved = dict(weights)
    for name, grad in zip(taking, grads, strict=True):
        moved[name] = torch.addcmul(weights[name], step_sizes[name], grad, value=-1)
    return moved if create_graph else {name: value.detach() for name, value in moved.items()}


def descend(
    loss: TaskLoss,
    weights: Mapping[str, Tensor],
    step_sizes: Mapping[str, Tensor],
    batch: Batch,
    *,
    steps: int,
    create_graph: bool = False,
    only: Collection[str] | None = None,
) -> Tensors:
    """Return each task's weights after ``steps`` times ``step``, same arguments."""
    fast = dict(weights)
    for _ in range(steps):
        fast = step(loss, fast, step_sizes, batch, create_graph=create_graph, only=only)
    return fast


def trajectory(
    module: nn.Module,
    task_type: TaskType,
    weights: Mapping[str, Tensor],
    step_sizes: Mapping[str, Tensor],
    support: Batch,
    *,
    steps: int,
    at: Container[int],
) -> list[tuple[int, Tensors]]:
    """Return (steps, one task's weights) after each number of steps in ``at``.

    Where the module has batch norms, the statistics that go with the weights are among them, so
    that ``with_weights`` gives a module which answers row by row.

    Args:
        module: Gives the forward pass; left as it was.
        task_type: ``classification`` or ``regression``.
        weights: Start weights, without a task axis; they stay as they were.
        step_sizes: Step size of every parameter.
        support: ``(n, d)`` inputs and ``(n,)`` targets.
        steps: Number of steps.
        at: Which of 0, 1, ..., ``steps`` to return.
    """
    loss, fast = TaskLoss.of(module, task_type), for_tasks(weights, 1)
    batch = Batch(support.inputs[None], support.targets[None])
    path = []
    for done in range(steps + 1):
        if done:
            fast = step(loss, fast, step_sizes, batch)
        if done in at:
            own = {name: value[0].clone() for name, value in fast.items()}
            path.append((done, own | support_statistics(module, own, support.inputs)))
    return path


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one torch thread: quicker for models this small, and the same bits every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
