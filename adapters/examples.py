"""Labelled raw rows with their lineage keys, before any encoding."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adapters.feature_schema import Rows


def _no_values() -> NDArray[np.float64]:
    return np.empty(0)


def _no_keys() -> NDArray[np.uint64]:
    return np.empty(0, dtype=np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """``n`` labelled rows.

    Attributes:
        rows: Raw rows.
        labels: ``n`` class names; empty for regression.
        values: ``(n,)`` finite float64 targets; empty for classification.
        keys: ``(n,)`` uint64 ``lineage_key`` of each row's group (or id).
    """

    rows: Rows
    labels: tuple[str, ...] = ()
    values: NDArray[np.float64] = field(default_factory=_no_values)
    keys: NDArray[np.uint64] = field(default_factory=_no_keys)

    def __post_init__(self) -> None:
        n = len(self.rows)
        if sorted((len(self.labels), len(self.values))) != [0, n]:
            raise ValueError(
                f"{n} rows with {len(self.labels)} labels and {len(self.values)} values;"
                " give one label (classification) or one value (regression) per row"
            )
        if len(self.keys) != n or self.keys.dtype != np.uint64:
            raise ValueError(
                f"{n} rows with {len(self.keys)} {self.keys.dtype} keys; give n uint64"
            )
        if not np.isfinite(self.values).all():
            raise ValueError("values holds NaN or infinity; leave those rows out")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def truths(self) -> tuple[str, ...] | NDArray[np.float64]:
        """Labels, or values for regression: what ``Model.losses`` takes."""
        return self.labels if self.labels else self.values

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> "Examples":
        """Return the examples at ``indices``, in that order."""
        at = np.asarray(indices, dtype=np.intp)
        labels = tuple(self.labels[i] for i in at.tolist()) if self.labels else ()
        values = self.values[at] if len(self.values) else self.values
        return Examples(self.rows.take(at), labels, values, self.keys[at])
