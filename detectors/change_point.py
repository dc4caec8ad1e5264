"""Where a change began: maximum-likelihood estimates over what a monitor has kept.

Both maximise the likelihood of one change against the regimes being constant on either side
(Hinkley, "Inference about the change-point in a sequence of random variables", Biometrika 1970).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

_VARIANCE_FLOOR = 0.05
_VARIANCE_PRIOR = 4.0


def rise_start(
    losses: Sequence[float], before_sum: float = 0.0, before_count: int = 0
) -> int | None:
    """Index of the first loss of the regime with the raised mean, or None where nothing rose.

    Args:
        losses: In order, each in [0, 1]. Graded losses use the same Bernoulli quasi-likelihood.
        before_sum: Sum of earlier losses known to be of the old regime.
        before_count: Their number.

    >>> rise_start([0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 1, 1])
    7
    >>> rise_start([1, 1, 1, 0, 0, 0]) is None
    True
    """
    x = np.asarray(losses, dtype=np.float64)
    n = len(x)
    first = 0 if before_count else 1
    if n <= first:
        return None
    starts = np.arange(first, n)
    left_sum = before_sum + np.concatenate(([0.0], np.cumsum(x)))[starts]
    left_count = before_count + starts
    right_count = n - starts
    right_sum = np.maximum(before_sum + x.sum() - left_sum, 0.0)
    likelihood = _bernoulli(left_sum, left_count) + _bernoulli(right_sum, right_count)
    rose = right_sum / right_count > left_sum / left_count
    if not rose.any():
        return None
    return int(starts[np.argmax(np.where(rose, likelihood, -np.inf))])


def _bernoulli(total: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    mean = np.clip(total / count, 0.0, 1.0)
    return count * (xlogy(mean, mean) + xlogy(1.0 - mean, 1.0 - mean))


def shift_start(z: NDArray[np.float64]) -> int:
    """Index of the first row of the new regime among normal scores.

    Args:
        z: Scores ``(n, K)``, standard normal before the change; after it each column has a mean
            and a variance of its own.

    >>> shift_start(np.array([[0.1], [-0.3], [0.2], [2.1], [1.9], [2.2], [2.0]]))
    3
    """
    n = len(z)
    left = np.arange(n, 0, -1, dtype=np.float64)[:, None]
    total = np.cumsum(z[::-1], axis=0)[::-1]
    square = np.cumsum(z[::-1] ** 2, axis=0)[::-1]
    mean = total / left
    variance = np.maximum(square / left - mean**2, _VARIANCE_FLOOR)
    variance = (variance * left + _VARIANCE_PRIOR) / (left + _VARIANCE_PRIOR)
    gain = square - left * np.log(variance) - np.maximum(square - left * mean**2, 0.0) / variance
    return int(np.argmax(gain.sum(axis=1)))
