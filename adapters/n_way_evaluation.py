"""N-way K-shot evaluation: every contestant answers the same episodes of classes it never saw."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.tasks import Batch, NWayTasks

Answers = Callable[[Batch, Tensor], Tensor]
"""(support ``(s, d)`` and ``(s,)``, query inputs ``(q, d)``) -> class numbers ``(q,)``.

A contestant gets the whole query at once and must answer each row as if it were alone: no
statistics over the query (non-transductive).
"""


def n_way_accuracies(
    source: NWayTasks,
    contestants: Mapping[str, Answers],
    *,
    shots: int,
    queries: int,
    episodes: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Return the accuracy of each contestant in each episode, ``(episodes,)`` by name.

    Args:
        source: Of the classes that judge.
        contestants: By name.
        shots: Support rows per class.
        queries: Query rows per class.
        episodes: How many.
        seed: Of the episodes; contestants draw nothing from it.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {name: np.empty(episodes) for name in contestants}
    for i in range(episodes):
        drawn = source.sample(1, source.ways * shots, source.ways * queries, generator)
        support = Batch(drawn.support.inputs[0], drawn.support.targets[0])
        truth = drawn.query.targets[0]
        for name, answer in contestants.items():
            said = answer(support, drawn.query.inputs[0])
            found[name][i] = (said == truth).double().mean().item()
    return found
