"""Modules that metadrift builds itself."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters.model_file import Architecture


class MLP(nn.Module):
    """Fully connected ReLU network, ``(n, inputs) -> (n, outputs)``.

    Args:
        inputs: Width d of the encoded inputs, >= 1.
        hidden: Width of each hidden layer; empty for a linear model.
        outputs: Number of classes, or 1 for regression.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        if min(*widths, outputs) < 1:
            raise ValueError(f"every width must be >= 1, got {widths} -> {outputs}")
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], outputs)

    def embed(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, ``(n, e)``; the inputs themselves if there is none."""
        for layer in self.layers:
            own = layer._parameters  # layer.weight costs 1 us a look-up, half as much as its relu
            x = torch.relu(functional.linear(x, cast(Tensor, own["weight"]), own["bias"]))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, outputs)``."""
        logits: Tensor = self.head(self.embed(x))
        return logits


def initialise(architecture: Architecture, seed: int) -> nn.Module:
    """Return the architecture's module as drawn under ``seed``; leaves the global RNG alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return architecture.build()
