"""A task's inputs in a few numbers a feature, and a test of whether other rows are alike.

A profile counts how many rows fell into each quarter of a number's range and into each category.
Rows are compared by Pearson's two-sample chi-square per feature, at the smallest p-value times the
number of features (Bonferroni). It sees features move one by one, not how they go together, and
takes rows as independent: on a stream whose neighbours are alike it rejects too often.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from adapters.feature_schema import Rows

QUARTERS = (0.25, 0.5, 0.75)
FEWEST = 5.0
"""Rows that a cell must be expected to hold; rarer cells are taken together (Cochran 1954)."""


class InputProfile(msgspec.Struct, frozen=True, array_like=True):
    """How a task's raw features were distributed.

    Attributes:
        rows: How many rows it was made from.
        edges: Per number: the quartiles, equal ones once.
        numbers: Per number: rows below, between and above the edges, then rows with null.
        categories: Per category feature: rows by value; ``None`` is null.
    """

    rows: int
    edges: tuple[tuple[float, ...], ...]
    numbers: tuple[tuple[int, ...], ...]
    categories: tuple[dict[str | None, int], ...]

    @staticmethod
    def of(rows: Rows) -> "InputProfile":
        """Return the profile of some rows, at least one."""
        if not len(rows):
            raise ValueError("a profile needs at least one row")
        edges = tuple(_quartiles(column) for column in rows.numbers.T)
        return InputProfile(
            len(rows),
            edges,
            tuple(_counted(c, e) for c, e in zip(rows.numbers.T, edges, strict=True)),
            tuple(dict(Counter(column)) for column in zip(*rows.categories, strict=True)),
        )

    def p_value(self, rows: Rows) -> float:
        """Return the chance of rows this different, were they drawn as the profile's were.

        1 where no feature varies. The p-value is of a chi-square approximation.

        Raises:
            ValueError: The rows have other features.
        """
        width, kinds = rows.numbers.shape[1], len(rows.categories[0]) if rows.categories else 0
        if (width, kinds) != (len(self.edges), len(self.categories)) or not len(rows):
            raise ValueError(
                f"{len(rows)} rows of {width} numbers and {kinds} categories against a profile of "
                f"{len(self.edges)} and {len(self.categories)}"
            )
        pairs: list[tuple[Sequence[int], Sequence[int]]] = [
            (ours, _counted(column, edges))
            for ours, edges, column in zip(self.numbers, self.edges, rows.numbers.T, strict=True)
        ]
        for known, column in zip(self.categories, zip(*rows.categories, strict=True), strict=True):
            seen = Counter(column)
            values = list(dict.fromkeys([*known, *seen]))
            pairs.append(([known.get(v, 0) for v in values], [seen.get(v, 0) for v in values]))
        found = [p for p in (_homogeneity(*pair) for pair in pairs) if p is not None]
        return min(1.0, min(found) * len(found)) if found else 1.0


def _quartiles(column: NDArray[np.float64]) -> tuple[float, ...]:
    known = column[~np.isnan(column)]
    if not len(known):
        return ()
    return tuple(np.unique(np.quantile(known, QUARTERS)).tolist())


def _counted(column: NDArray[np.float64], edges: tuple[float, ...]) -> tuple[int, ...]:
    missing = np.isnan(column)
    bins = np.searchsorted(np.array(edges), column[~missing], side="left")
    return (*np.bincount(bins, minlength=len(edges) + 1).tolist(), int(missing.sum()))


def _homogeneity(ours: Sequence[int], theirs: Sequence[int]) -> float | None:
    """Return the p-value of equal shares; None where only one cell has rows enough."""
    table = np.array([ours, theirs], np.float64)
    table = table[:, table.sum(axis=0) > 0]
    n, m = table.sum(axis=1)
    expected_of_fewer = table.sum(axis=0) * min(n, m) / (n + m)
    rare = expected_of_fewer < FEWEST
    if rare.sum() > 1:
        pooled = table[:, rare].sum(axis=1, keepdims=True)
        table = np.concatenate([table[:, ~rare], pooled], axis=1)
    cells = table.shape[1]
    if cells < 2:
        return None
    difference = np.sqrt(m / n) * table[0] - np.sqrt(n / m) * table[1]
    statistic = float((difference**2 / table.sum(axis=0)).sum())
    return float(chdtrc(cells - 1, statistic))
