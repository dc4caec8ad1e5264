"""Shiryaev-Roberts evidence that ranks have become extreme: the tail statistic.

Each conformal rank gives e-values ``kappa (1 - p)^(kappa - 1)`` (Vovk & Wang, "E-values", Annals of
Statistics 2021), tempered by the column's autocorrelation; ``M <- (M + 1) e``; the statistic is the
logarithm of the mean of ``M`` (Vovk, Nouretdinov & Gammerman, arXiv 2412.03464).

Within a block of events ``M_t = E_t (M_0 + S_t)`` with the running product E of the e-values and
``S_t`` the running sum of ``1 / E_(t-1)``: two accumulations, whose floats do not depend on where a
batch was cut. `TailEvidence.rebase` closes a block of at most 64 events.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_KAPPA = np.array([0.25, 0.5, 0.75])[:, None]
_LARGEST = 1e200

Matrix = NDArray[np.float64]


@dataclass(slots=True)
class TailEvidence:
    """State per kappa (3) and column, flattened to ``(3 T,)``.

    Attributes:
        start: M at the start of the block.
        product: E.
        total: S.
        power: Tempering of each column in (0, 1], ``(T,)``.
    """

    start: Matrix
    product: Matrix
    total: Matrix
    power: Matrix

    @classmethod
    def fresh(cls, power: Matrix) -> "TailEvidence":
        """No evidence yet."""
        size = 3 * len(power)
        return cls(np.zeros(size), np.ones(size), np.zeros(size), power)

    def path(self, above: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """M, E and S ``(n, 3 T)`` after each of the next rows; changes nothing.

        Args:
            above: Share of the reference above each value ``(n, T)``, C-contiguous, in (0, 1).
        """
        n = len(above)
        logs = np.log(above)[:, None, :]
        e = np.exp(((_KAPPA - 1.0) * logs + np.log(_KAPPA)) * self.power).reshape(n, -1)
        e[0] *= self.product
        product = np.multiply.accumulate(e, axis=0)
        inverse = np.empty_like(product)
        inverse[0] = 1.0 / self.product
        np.divide(1.0, product[:-1], out=inverse[1:])
        inverse[0] += self.total
        total = np.add.accumulate(inverse, axis=0)
        return product * (self.start + total), product, total

    def advance(self, product: Matrix, total: Matrix) -> None:
        """Take E and S of the last row that counts."""
        self.product, self.total = product.copy(), total.copy()

    def rebase(self) -> None:
        """Close a block, so that products and sums stay in range."""
        self.start = np.minimum(self.product * (self.start + self.total), _LARGEST)
        self.product = np.ones_like(self.product)
        self.total = np.zeros_like(self.total)

    def clear(self, columns: NDArray[np.bool_]) -> None:
        """Drop the evidence of some columns ``(T,)``."""
        if not columns.any():
            return
        cleared = np.concatenate([columns] * 3)
        self.start[cleared] = 0.0
        self.product[cleared] = 1.0
        self.total[cleared] = 0.0
