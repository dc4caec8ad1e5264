"""The inner loop, once, for every adapter: gradient steps on fast weights of many tasks at once.

Tasks are independent, so the gradient of the summed task losses is every task's own gradient:
one backward pass serves all of them. Weights carry a leading task axis. A module runs in eval mode
(batch norm uses its stored statistics, no dropout), so neither its weights nor its buffers change.
"""

import copy
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from adapters.model_file import TaskType
from adapters.modules import MLP
from adapters.tasks import Batch

Tensors: TypeAlias = dict[str, Tensor]
Forward: TypeAlias = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""(weights with a leading task axis, inputs ``(tasks, n, d)``) -> outputs ``(tasks, n, C)``."""


def weights_of(module: nn.Module) -> Tensors:
    """Return copies of the parameters by name."""
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def with_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of ``module`` that holds ``weights``; ValueError if names or shapes differ."""
    clone = copy.deepcopy(module)
    parameters = dict(clone.named_parameters())
    wrong = sorted(parameters.keys() ^ weights.keys())
    wrong += [
        n for n in parameters.keys() & weights.keys() if parameters[n].shape != weights[n].shape
    ]
    if wrong:
        raise ValueError(f"weights {wrong} do not fit {type(module).__name__}; rebuild them for it")
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
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
        depth = len(module.layers)
        return _mlp_forward([f"layers.{i}" for i in range(depth)])
    frozen = copy.deepcopy(module).eval()
    buffers = {name: value.detach().clone() for name, value in frozen.named_buffers()}

    def one(weights: Tensors, inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(frozen, {**weights, **buffers}, (inputs,))
        return outputs

    over = torch.func.vmap(one)
    return lambda weights, inputs: over(dict(weights), inputs)


def _mlp_forward(layers: list[str]) -> Forward:
    def linear(weights: Mapping[str, Tensor], layer: str, x: Tensor) -> Tensor:
        bias = weights[f"{layer}.bias"].unsqueeze(1)
        return torch.baddbmm(bias, x, weights[f"{layer}.weight"].transpose(1, 2))

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        x = inputs
        for layer in layers:
            x = linear(weights, layer, x).relu()
        return linear(weights, "head", x)

    return forward


@dataclass(frozen=True, slots=True)
class TaskLoss:
    """Mean loss of each task: cross entropy, or squared error of output 0 for regression.

    Attributes:
        forward: Forward pass over tasks.
        task_type: ``classification`` or ``regression``.
    """

    forward: Forward
    task_type: TaskType

    @staticmethod
    def of(module: nn.Module, task_type: TaskType) -> "TaskLoss":
        """Return the loss of ``module``'s forward pass; ``module`` is never changed by it."""
        return TaskLoss(forward_over_tasks(module), task_type)

    def __call__(self, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return ``(tasks,)`` losses of fast weights on ``batch`` of ``(tasks, n, ...)``."""
        outputs = self.forward(weights, batch.inputs)
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
) -> Tensors:
    """Return each task's weights after one gradient step on its own examples.

    Args:
        loss: Loss of each task.
        weights: Fast weights, ``(tasks, *shape)`` each.
        step_sizes: Step size of every parameter, ``shape`` each (or broadcast to it).
        batch: ``(tasks, n, d)`` inputs and ``(tasks, n)`` targets.
        create_graph: Keep the graph, to differentiate through the step (second-order MAML);
            ``weights`` must then require a gradient, or depend on what does.
    """
    if not create_graph:
        weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
    total = loss(weights, batch).sum()
    grads = torch.autograd.grad(total, list(weights.values()), create_graph=create_graph)
    moved = {
        name: torch.addcmul(value, step_sizes[name], grad, value=-1)
        for (name, value), grad in zip(weights.items(), grads, strict=True)
    }
    return moved if create_graph else {name: value.detach() for name, value in moved.items()}


def descend(
    loss: TaskLoss,
    weights: Mapping[str, Tensor],
    step_sizes: Mapping[str, Tensor],
    batch: Batch,
    *,
    steps: int,
    create_graph: bool = False,
) -> Tensors:
    """Return each task's weights after ``steps`` times ``step``, same arguments."""
    fast = dict(weights)
    for _ in range(steps):
        fast = step(loss, fast, step_sizes, batch, create_graph=create_graph)
    return fast


def trajectory(
    loss: TaskLoss,
    weights: Mapping[str, Tensor],
    step_sizes: Mapping[str, Tensor],
    support: Batch,
    *,
    steps: int,
    at: Container[int],
) -> list[tuple[int, Tensors]]:
    """Return (steps, one task's weights) after each number of steps in ``at``.

    Args:
        loss: Loss of each task.
        weights: Start weights, without a task axis; they stay as they were.
        step_sizes: Step size of every parameter.
        support: ``(n, d)`` inputs and ``(n,)`` targets.
        steps: Number of steps.
        at: Which of 0, 1, ..., ``steps`` to return.
    """
    fast = for_tasks(weights, 1)
    batch = Batch(support.inputs[None], support.targets[None])
    path = []
    for done in range(steps + 1):
        if done:
            fast = step(loss, fast, step_sizes, batch)
        if done in at:
            path.append((done, {name: value[0].clone() for name, value in fast.items()}))
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
