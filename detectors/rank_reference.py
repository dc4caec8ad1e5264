"""Conformal ranks against sorted reference rows, and their normal scores."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
_EDGE = 1.0 / 1024.0

Matrix = NDArray[np.float64]


class RankReference:
    """Reference rows, sorted by column.

    Args:
        rows: ``(m, K)``, finite.
    """

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._sorted = np.sort(np.ascontiguousarray(rows.T), axis=1)
        self.count = len(rows)

    def above(self, rows: NDArray[np.float32], first_event: int) -> Matrix:
        """Share of the reference above each value, in (0, 1), ``(n, K)``; small means large value.

        Ties are broken by the event's number, not at random, so a replay decides the same.
        """
        n, width = rows.shape
        values = np.ascontiguousarray(rows.T)
        below = np.empty((width, n), dtype=np.int64)
        for k in range(width):
            below[k] = self._sorted[k].searchsorted(values[k])
        nearest = np.take_along_axis(self._sorted, np.minimum(below, self.count - 1), axis=1)
        place = spread(first_event, n, width)
        tied = nearest == values
        if tied.any():
            not_above = below.copy()
            for k in np.flatnonzero(tied.any(axis=1)).tolist():
                not_above[k] = self._sorted[k].searchsorted(values[k], side="right")
            rank = below.T + (not_above - below + 1).T * place
        else:
            rank = below.T + place
        share: Matrix = (self.count + 1.0 - rank) / (self.count + 1.0)
        return share


def normal_scores(above: Matrix) -> Matrix:
    """Normal score of each rank, large for large values."""
    scores: Matrix = -ndtri(above)
    return scores


def own_scores(rows: NDArray[np.float32]) -> Matrix:
    """Normal scores of rows among themselves ``(n, K)``."""
    n, width = rows.shape
    place = spread(0, n, width)
    scores = np.empty((n, width))
    levels = ndtri((np.arange(n) + 0.5) / n)
    for k in range(width):
        scores[np.lexsort((place[:, k], rows[:, k])), k] = levels
    return scores


def spread(first_event: int, n: int, width: int) -> Matrix:
    """Evenly spread numbers in (0, 1), one per event and column ``(n, width)``."""
    index = np.arange(n * width, dtype=np.uint64) + np.uint64(first_event * width % 2**64)
    share = ((index * _MULTIPLIER) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.clip(share, _EDGE, 1.0 - _EDGE).reshape(n, width)
