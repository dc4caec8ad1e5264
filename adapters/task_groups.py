"""Processes that share each meta-step: every one takes some of its tasks, gradients are averaged.

All members draw the same batch under the same seed, so only gradients cross, and every member takes
the same step: no weights are ever sent. The processes talk through ``torch.distributed`` with gloo
on the loopback interface and find each other through a file.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, distributed

_LONGEST_WAIT = timedelta(seconds=300)
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


class TaskGroup(Protocol):
    """The processes of one training, seen from one of them."""

    @property
    def rank(self) -> int:
        """Which one this is, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the mean of each tensor over the group; the same bits in every member."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """A group of one."""

    rank: int = 0
    size: int = 1

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return ``tensors``."""
        return list(tensors)


@dataclass(frozen=True, slots=True)
class GlooGroup:
    """A member of a group that ``joined`` made."""

    rank: int
    size: int

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the mean of each tensor over the group, by one all-reduce."""
        flat = torch.cat([tensor.detach().cpu().reshape(-1).double() for tensor in tensors])
        distributed.all_reduce(flat)  # double: the mean of floats hardly depends on their order
        parts = torch.split(flat / self.size, [tensor.numel() for tensor in tensors])
        return [
            part.view(tensor.shape).to(tensor) for part, tensor in zip(parts, tensors, strict=True)
        ]


@contextmanager
def joined(meeting: Path, rank: int, size: int) -> Iterator[TaskGroup]:
    """Join the group that meets at the file ``meeting``; leave it at the end.

    Args:
        meeting: A file that does not exist yet, in a folder that all members see.
        rank: Which member this is, from 0.
        size: How many there are; with 1 nothing is opened.

    Raises:
        RuntimeError: The others did not come, or one was lost.
    """
    if size == 1:
        yield Alone()
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=_LONGEST_WAIT,
    )
    try:
        yield GlooGroup(rank, size)
    finally:
        distributed.destroy_process_group()
