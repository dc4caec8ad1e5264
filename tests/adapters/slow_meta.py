"""Meta-gradients the slow way: one task after another, written from the papers, sharing nothing
with ``adapters`` but the modules."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss

from adapters.tasks import Batch, EpisodeBatch

Weights = dict[str, Tensor]


class TwoLayers(nn.Module):
    """Linear, batch norm, tanh, linear; its forward is also written out by hand below."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.norm(self.first(x))))
        return out


def outputs_of(module: nn.Module, weights: Weights, x: Tensor, support: Tensor) -> Tensor:
    if not isinstance(module, TwoLayers):
        return functional_call(module, weights, (x,))  # type: ignore[no-any-return]
    hidden = x @ weights["first.weight"].T + weights["first.bias"]
    seen = support @ weights["first.weight"].T + weights["first.bias"]
    centred = hidden - seen.mean(0)
    scale = ((seen - seen.mean(0)) ** 2).mean(0).add(1e-5).sqrt()
    normed = centred / scale * weights["norm.weight"] + weights["norm.bias"]
    return torch.tanh(normed) @ weights["head.weight"].T + weights["head.bias"]


def loss_at(module: nn.Module, weights: Weights, batch: Batch, support: Tensor) -> Tensor:
    outputs = outputs_of(module, weights, batch.inputs, support)
    if batch.targets.is_floating_point():
        return mse_loss(outputs[:, 0], batch.targets)
    return cross_entropy(outputs, batch.targets)


def tasks_of(batch: EpisodeBatch) -> list[tuple[Batch, Batch]]:
    return [
        (
            Batch(batch.support.inputs[t], batch.support.targets[t]),
            Batch(batch.query.inputs[t], batch.query.targets[t]),
        )
        for t in range(len(batch.support.targets))
    ]


def adapted(
    module: nn.Module,
    weights: Weights,
    sizes: Weights,
    support: Batch,
    steps: int,
    names: set[str],
    *,
    second_order: bool,
) -> Weights:
    fast = dict(weights)
    for _ in range(steps):
        value = loss_at(module, fast, support, support.inputs)
        moving = sorted(names)
        grads = torch.autograd.grad(value, [fast[n] for n in moving], create_graph=second_order)
        for name, grad in zip(moving, grads, strict=True):
            fast[name] = fast[name] - sizes[name] * grad
            if not second_order:
                fast[name] = fast[name].detach().requires_grad_()
    return fast


def second_order(
    module: nn.Module,
    weights: Weights,
    sizes: Weights,
    batch: EpisodeBatch,
    steps: int,
    names: set[str],
) -> tuple[float, list[Tensor]]:
    """Return the mean query loss and its gradient by every leaf among weights and sizes."""
    leaves = [t for t in (*weights.values(), *sizes.values()) if t.requires_grad]
    total, sums = 0.0, [torch.zeros_like(leaf) for leaf in leaves]
    episodes = tasks_of(batch)
    for support, query in episodes:
        fast = adapted(module, weights, sizes, support, steps, names, second_order=True)
        value = loss_at(module, fast, query, support.inputs)
        for so_far, grad in zip(sums, torch.autograd.grad(value, leaves), strict=True):
            so_far.add_(grad / len(episodes))
        total += value.item() / len(episodes)
    return total, sums


def first_order(
    module: nn.Module, weights: Weights, sizes: Weights, batch: EpisodeBatch, steps: int
) -> tuple[float, list[Tensor]]:
    """Return the mean query loss, and the mean of its gradients at the adapted weights."""
    total, sums = 0.0, [torch.zeros_like(value) for value in weights.values()]
    episodes = tasks_of(batch)
    for support, query in episodes:
        fast = adapted(module, weights, sizes, support, steps, set(weights), second_order=False)
        value = loss_at(module, fast, query, support.inputs)
        ends = [fast[name] for name in weights]
        for so_far, grad in zip(sums, torch.autograd.grad(value, ends), strict=True):
            so_far.add_(grad / len(episodes))
        total += value.item() / len(episodes)
    return total, sums
