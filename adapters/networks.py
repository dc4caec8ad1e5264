"""Networks beyond the plain MLP: small images, and tables whose tasks differ in scale.

They are named by import path, as one's own modules are: ``adapters.networks:Conv4``.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

TaskNorm: TypeAlias = Literal["inputs", "batch", "layer"]


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, then a linear head.

    The embedding of Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, "Matching Networks for
    One Shot Learning" (NeurIPS 2016), with 64 filters; 32 are usual for MAML on mini-ImageNet.
    ``(n, channels * side * side) -> (n, outputs)``; 28 x 28 leaves one position, ``(n, filters)``.

    Args:
        outputs: Number of classes, or 1 for regression.
        inputs: Pixels of a row; when given it must be ``channels * side * side``.
        side: Height and width of the images, >= 16.
        channels: Of the images.
        filters: Of every block.
    """

    def __init__(
        self,
        outputs: int,
        *,
        inputs: int | None = None,
        side: int = 28,
        channels: int = 1,
        filters: int = 64,
    ) -> None:
        super().__init__()
        if side < 16 or min(channels, filters, outputs) < 1:
            raise ValueError(
                f"side is {side}, channels {channels}, filters {filters}, outputs {outputs}; use a"
                " side >= 16, and the others >= 1"
            )
        if inputs not in (None, channels * side * side):
            raise ValueError(
                f"rows have {inputs} inputs, {channels} x {side} x {side} images"
                f" {channels * side * side}; correct side or channels"
            )
        self.image = (channels, side, side)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(width, filters, 3, padding=1),
                    nn.BatchNorm2d(filters),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for width in (channels, filters, filters, filters)
            )
        )
        self.head = nn.Linear(filters * (side // 16) ** 2, outputs)

    def embed(self, x: Tensor) -> Tensor:
        """Return the last block's output, ``(n, e)``."""
        maps: Tensor = self.blocks(x.reshape(-1, *self.image))
        return maps.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, outputs)``."""
        logits: Tensor = self.head(self.embed(x))
        return logits


class NormalisedMLP(nn.Module):
    """An MLP, ``(n, inputs) -> (n, outputs)``, that does away with what shifts from task to task.

    Args:
        inputs: Width d of the encoded inputs, >= 1.
        hidden: Width of each hidden layer.
        outputs: Number of classes, or 1 for regression.
        norm: ``inputs``: every input by the task's own mean and spread, for tasks whose sensors
            are shifted or scaled. ``batch``: the hidden layers likewise (batch norm). ``layer``:
            each row by itself (layer norm), which needs no statistics.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, norm: TaskNorm = "inputs"
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        if min(*widths, outputs) < 1:
            raise ValueError(f"every width must be >= 1, got {widths} -> {outputs}")
        if norm not in get_args(TaskNorm):
            raise ValueError(f"norm is {norm!r}; use one of {get_args(TaskNorm)}")
        layers: list[nn.Module] = []
        if norm == "inputs":
            layers.append(nn.BatchNorm1d(inputs, affine=False))
        for before, after in pairwise(widths):
            layers.append(nn.Linear(before, after))
            if norm == "batch":
                layers.append(nn.BatchNorm1d(after))
            if norm == "layer":
                layers.append(nn.LayerNorm(after))
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], outputs)

    def embed(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, ``(n, e)``."""
        hidden: Tensor = self.layers(x)
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, outputs)``."""
        logits: Tensor = self.head(self.embed(x))
        return logits
