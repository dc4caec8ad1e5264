"""The variance of window sums of one stream's normal scores, measured and bounded from below.

Autocorrelation makes the false alarms: on a stream that wanders, sums over a window vary far more
than its length. Each window's sums are therefore divided by their own measured variance, taken at a
lower confidence bound while few windows were seen and never below what an AR(1) stream of the
measured autocorrelation would have.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOWS = (8, 16, 32, 64)
_LENGTHS = np.array(WINDOWS, dtype=np.float64)
LEAST_EFFECTIVE = 50.0
TAIL_LONGEST_RUN = 1.2

Matrix = NDArray[np.float64]


@dataclass(slots=True)
class WindowVariance:
    """Per window w (rows) and column k.

    Attributes:
        squares: Sum of squared window sums over w, ``(4, K)``.
        counts: Windows summed, ``(4,)``.
        rho: Autocorrelation of the calibration rows, ``(K,)``.
    """

    squares: Matrix
    counts: Matrix
    rho: Matrix

    @classmethod
    def calibrate(cls, z: Matrix) -> "WindowVariance":
        """Measure on the normal scores ``(n, K)`` of the calibration rows, in stream order."""
        n, width = z.shape
        power = np.maximum(np.square(z).sum(axis=0), 1e-12)
        first = (z[1:] * z[:-1]).sum(axis=0) / power
        second = (z[2:] * z[:-2]).sum(axis=0) / power
        slow = np.where(second > 2.0 / np.sqrt(n), np.sqrt(np.maximum(second, 0.0)), 0.0)
        rho = np.clip(np.maximum(first, slow) - 1.0 / np.sqrt(n), 0.0, 0.98)
        counts = np.array([max(n - w + 1, 1) for w in WINDOWS], dtype=np.float64)
        squares = np.repeat(counts[:, None], width, axis=1)
        for i, w in enumerate(WINDOWS):
            if n - w + 1 >= 2 * w:
                # The scores of n rows sum to zero by construction, which shrinks their windows.
                squares[i] = np.square(window_sums(z, w)).sum(axis=0) / w / (1.0 - w / n)
        return cls(squares, counts, rho)

    @property
    def run_length(self) -> Matrix:
        """Rows that count as one independent row, ``(K,)``."""
        return (1.0 + self.rho) / (1.0 - self.rho)

    def add(self, z: Matrix, new: int) -> None:
        """Count the full windows that end in the last ``new`` rows of ``z``."""
        total = running_sums(z[-(new + WINDOWS[-1]) :])
        for i, w in enumerate(WINDOWS):
            ends = total[max(len(total) - new, w) :]
            if len(ends):
                starts = total[len(total) - len(ends) - w : -w]
                self.squares[i] += np.square(ends - starts).sum(axis=0) / w
                self.counts[i] += len(ends)

    def inverse(self, reference_rows: int) -> Matrix:
        """One over the variance of each window sum, ``(4, K)``; 0 where a column is off.

        A column is off until the reference holds 50 independent rows.
        """
        measured = self.squares / self.counts[:, None]
        blocks = self.counts / _LENGTHS
        run = self.run_length
        if blocks[-1] < 8.0:
            _raise_to_shorter_windows(measured, blocks)
        doubt = np.minimum(0.9, np.sqrt(1.33 / np.maximum(blocks, 1.5)))
        variance = np.maximum(1.0, measured * (1.0 - doubt)[:, None])
        if blocks[-1] < 16.0:
            for i, w in enumerate(WINDOWS):
                if blocks[i] < 8.0:
                    variance[i] = np.maximum(variance[i], 0.8 * measured[i])
                if blocks[i] < 16.0:
                    variance[i] = np.maximum(variance[i], self._autoregressive(w))
        lengths = _LENGTHS[:, None]
        spread = lengths * (variance + lengths * (np.maximum(1.0, run) / reference_rows))
        inverse: Matrix = np.where(reference_rows / run >= LEAST_EFFECTIVE, 1.0 / spread, 0.0)
        return inverse

    def _autoregressive(self, w: int) -> Matrix:
        rho = self.rho
        variance: Matrix = self.run_length - 2.0 * rho * (1.0 - rho**w) / (w * (1.0 - rho) ** 2)
        return variance


def _raise_to_shorter_windows(measured: Matrix, blocks: Matrix) -> None:
    """Where few windows were seen, let the variance grow on as it did up to the shorter ones."""
    for i in range(1, len(WINDOWS)):
        if blocks[i] < 8.0:
            growth = np.ones(measured.shape[1])
            if i >= 2:
                growth = np.clip(measured[i - 1] / np.maximum(measured[i - 2], 1e-12), 1.0, 2.0)
            measured[i] = np.maximum(measured[i], measured[i - 1] * growth)


def running_sums(z: Matrix) -> Matrix:
    """Sums of the first 0, 1, ... rows, ``(n + 1, K)``."""
    total = np.zeros((len(z) + 1, z.shape[1]))
    np.add.accumulate(z, axis=0, out=total[1:])
    return total


def window_sums(z: Matrix, w: int) -> Matrix:
    """Sums over every full window of ``w`` rows, ``(n - w + 1, K)``."""
    total = running_sums(z)
    sums: Matrix = total[w:] - total[:-w]
    return sums
