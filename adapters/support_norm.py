"""Batch norm over tasks: each task is normalised with the statistics of its own support.

Stored statistics belong to no single task, and statistics of the query would let its rows influence
each other (transduction). So mean and variance are taken over the support's rows alone, by the
weights of the moment, and normalise support and query alike; gradients flow through them. This is
MetaBN of Bronskill, Gordon, Requeima, Nowozin & Turner, "TaskNorm: Rethinking Batch Normalization
for Meta-Learning" (ICML 2020).

An adapted module needs no support any more: ``support_statistics`` are its stored statistics.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a part of ``module`` is a batch norm."""
    return any(isinstance(part, _BatchNorm) for part in module.modules())


@dataclass(slots=True)
class _Rows:
    """How many of the rows in a forward pass are the support, and what was seen of them."""

    support: int = 0
    seen: dict[str, Tensor] = field(default_factory=dict)


class _SupportNorm(nn.Module):
    """A batch norm whose statistics are those of the first ``rows.support`` rows."""

    def __init__(self, name: str, norm: _BatchNorm, rows: _Rows) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias  # the names that the weights go by
        self.name, self.eps, self.rows = name, norm.eps, rows

    def forward(self, x: Tensor) -> Tensor:
        support = x[: self.rows.support]
        over = [0, *range(2, x.ndim)]
        if support.numel() // support.shape[1] < 2:
            raise ValueError(
                f"{self.name} is a batch norm and sees one value per channel: give it a support of"
                " two or more examples"
            )
        mean, variance = support.mean(over), support.var(over, unbiased=False)
        self.rows.seen |= {
            f"{self.name}.running_mean": mean,
            f"{self.name}.running_var": variance,
        }
        shape = (1, -1) + (1,) * (x.ndim - 2)
        out: Tensor = (x - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class SupportNormed:
    """A copy of a module in eval mode whose batch norms look at the support.

    Attributes:
        module: The copy; it shares no tensor with the original.
        buffers: Its remaining buffers.
    """

    module: nn.Module
    buffers: Mapping[str, Tensor]
    _rows: _Rows

    @staticmethod
    def of(module: nn.Module) -> "SupportNormed":
        """Return the copy; ``module`` is left as it was."""
        rows, normed = _Rows(), copy.deepcopy(module).eval()
        for name, part in list(normed.named_modules()):
            for child_name, child in list(part.named_children()):
                if isinstance(child, _BatchNorm):
                    path = f"{name}.{child_name}" if name else child_name
                    setattr(part, child_name, _SupportNorm(path, child, rows).eval())
        return SupportNormed(normed, dict(normed.named_buffers()), rows)

    def __call__(self, weights: Mapping[str, Tensor], support: Tensor, rows: Tensor) -> Tensor:
        """Return the outputs for ``rows``, ``(n, C)``, normalised as ``support`` is; one task."""
        self._rows.support = len(support)
        inputs = support if rows is support else torch.cat([support, rows])
        outputs: Tensor = functional_call(self.module, {**weights, **self.buffers}, (inputs,))
        return outputs if rows is support else outputs[len(support) :]

    def statistics(self, weights: Mapping[str, Tensor], support: Tensor) -> dict[str, Tensor]:
        """Return the support's statistics by the names of the batch norms' buffers; one task."""
        with torch.no_grad():
            self(weights, support, support)
        return {name: value.detach().clone() for name, value in self._rows.seen.items()}


def support_statistics(
    module: nn.Module, weights: Mapping[str, Tensor], support: Tensor
) -> dict[str, Tensor]:
    """Return the batch norms' buffers for one adapted task; empty where there is no batch norm.

    Args:
        module: Gives the forward pass; left as it was.
        weights: The adapted weights, without a task axis.
        support: Inputs ``(n, ...)`` that they were adapted to.
    """
    if not has_batch_norm(module):
        return {}
    return SupportNormed.of(module).statistics(weights, support)
