"""Squared Mahalanobis distance from few reference rows.

Up to 64 columns: Ledoit-Wolf covariance (Ledoit & Wolf, "A well-conditioned estimator for
large-dimensional covariance matrices", J. Multivariate Analysis 2004). Wider rows (images): the
leading principal components and one variance for all that is left, which is probabilistic PCA
(Tipping & Bishop, J. Royal Statistical Society B 1999), so that an event costs 64 dot products and
not the square of its width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FULL_WIDTH = 64
_TINY = 1e-12

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Precision:
    """An inverse covariance in factors: ``x' P x = sign |x W|^2 + weight |x|^2``.

    Attributes:
        factor: W, ``(width, rank)``.
        sign: 1 in the full form; -1 in the wide form, which weighs all directions like the noise
            and takes back what is too much along the leading ones.
        weight: 0 in the full form.
    """

    factor: Matrix
    sign: float
    weight: float

    def times(self, rows: Matrix) -> Matrix:
        """``P x`` for each row ``(n, width)``."""
        return self.sign * (rows @ self.factor) @ self.factor.T + self.weight * rows

    def length(self, rows: Matrix, factored: Matrix) -> Matrix:
        """``x' P x`` ``(...)`` for rows ``(..., width)`` and their ``x W`` ``(..., rank)``."""
        lengths: Matrix = self.sign * np.square(factored).sum(axis=-1)
        if self.weight:
            lengths = lengths + self.weight * np.square(rows).sum(axis=-1)
        return lengths


def fit_precision(centred: Matrix) -> Precision:
    """Precision of centred rows ``(n, width)``; well conditioned down to a single row."""
    n, width = centred.shape
    mean_square = float(np.mean(centred**2))
    floor = max(mean_square * 1e-6, _TINY)
    if width <= FULL_WIDTH:
        if n >= 2 and mean_square > _TINY:
            covariance = ledoit_wolf(centred)
        else:
            covariance = np.eye(width) * max(mean_square, 1.0)
        values, vectors = np.linalg.eigh(covariance)
        return Precision(vectors / np.sqrt(np.maximum(values, floor)), 1.0, 0.0)
    directions, values = principal_directions(centred, min(FULL_WIDTH, max(n // 4, 1)))
    left_over = (mean_square * width - float(values.sum())) / (width - len(values))
    noise = max(left_over, mean_square * 1e-3, _TINY)
    gain = 1.0 / noise - 1.0 / np.maximum(values, noise)
    return Precision(directions * np.sqrt(gain), -1.0, 1.0 / noise)


def ledoit_wolf(centred: Matrix) -> Matrix:
    """Covariance ``(width, width)`` of centred rows, shrunk towards a multiple of the identity."""
    n, width = centred.shape
    empirical = centred.T @ centred / n
    scale = float(np.trace(empirical)) / width
    squares = np.square(centred)
    energy = float(np.square(empirical).sum())
    noise = (float(np.square(squares.sum(axis=1)).sum()) / n - energy) / (n * width)
    distance = (energy - width * scale**2) / width
    share = min(noise / distance, 1.0) if distance > _TINY * scale**2 else 1.0
    shrunk: Matrix = (1.0 - share) * empirical + share * scale * np.eye(width)
    return shrunk


def principal_directions(centred: Matrix, count: int) -> tuple[Matrix, Matrix]:
    """Leading directions ``(width, count)`` and their variances, signs fixed.

    The largest entry of each direction is positive, so equal rows give equal directions. With
    fewer rows or columns than ``count`` there are fewer directions.
    """
    n, width = centred.shape
    count = min(count, n, width)
    if width <= n:
        values, vectors = np.linalg.eigh(centred.T @ centred / n)
        directions = vectors[:, ::-1][:, :count]
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T / n)
        directions = centred.T @ vectors[:, ::-1][:, :count]
        directions = directions / np.maximum(np.linalg.norm(directions, axis=0), _TINY)
    largest = np.argmax(np.abs(directions), axis=0)
    signs = np.where(directions[largest, np.arange(count)] < 0.0, -1.0, 1.0)
    return directions * signs, np.maximum(values[::-1][:count], 0.0)
