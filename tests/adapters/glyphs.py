"""Glyphs for the tests: each class a few strokes, each drawing of it shaky and out of place."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.tasks import TaskData, TaskSet

SIDE = 16


def glyphs(classes: int, drawings: int, seed: int, prefix: str = "glyph") -> TaskSet:
    """Return one ``TaskData`` per class, inputs ``(drawings, SIDE * SIDE)`` in [0, 1]."""
    random = np.random.default_rng(seed)
    tasks = []
    for c in range(classes):
        corners = random.uniform(3, SIDE - 4, (4, 2))
        images = np.stack([_drawing(corners, random) for _ in range(drawings)])
        keys = np.arange(drawings, dtype=np.uint64) + np.uint64(1000 * c + 10**6 * seed)
        inputs = torch.from_numpy(images.reshape(drawings, -1).astype(np.float32))
        tasks.append(TaskData(f"{prefix} {c}", inputs, torch.zeros(drawings, dtype=int), keys))
    return TaskSet(tuple(tasks))


def _drawing(corners: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    image = np.zeros((SIDE, SIDE))
    moved = corners + random.normal(0, 0.5, corners.shape) + random.integers(-1, 2, 2)
    for a, b in pairwise(moved):
        for t in np.linspace(0, 1, 24):
            row, column = np.clip(np.rint(a + t * (b - a)), 0, SIDE - 1).astype(int)
            image[row, column] = 1.0
    return image
