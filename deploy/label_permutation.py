"""Are the labels permuted? A consistent swap of labels looks like a concept drift to every test.

After such a swap the champion is still right up to a renaming of the classes, while the inputs are
those of before. So, over the labels since the change point, the best renaming of its predicted
classes (a linear assignment) is found, and the labels are called suspect when all of this holds:

- the inputs have not moved;
- the champion as it is errs more than its reference says (binomial tail below ``NEW_ERRORS_RISK``);
- renamed it is about as good as its reference: the likelihood of its hits under the reference
  accuracy is 1 / ``RISK`` times that under a real change which turns ``PARTIAL`` of the stream. The
  ratio is a nonnegative supermartingale for every smaller change too, so that by Ville's inequality
  asking after every label makes a false answer likely with at most ``RISK`` (for two classes, where
  there is one renaming to choose);
- no renaming but noise explains the labels far worse: the likelihood under the renaming is
  C! / ``RISK`` times the largest one under labels that are replaced at random (C! for having
  chosen the best of as many renamings).

A plan change that sends 4 to 6 of 10 digits to the other lane leaves both the champion and its
renaming near .5: not suspect. A real change that turns every class is told apart by nothing in the
data; that is why a person is asked. Assignment: D. F. Crouse, "On implementing 2D rectangular
assignment algorithms", IEEE Transactions on Aerospace and Electronic Systems 52(4), 2016 (SciPy's).

>>> import numpy as np
>>> suspect(np.array([[1, 9], [8, 0]]), reference_accuracy=0.95, inputs_moved=False).permutation
(1, 0)
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

LEAST_LABELS = 10
RISK = 0.1
NEW_ERRORS_RISK = 0.001
PARTIAL = 0.6
BEST_REFERENCE = 0.995
"""A reference of 1 would make a single slip impossible."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Whether the labels look permuted.

    Attributes:
        holds: They do.
        permutation: For each predicted class the label it now gets; the identity if that is best.
        accuracy: Champion's accuracy on these labels.
        accuracy_permuted: Its accuracy after the renaming.
        n: Labels looked at.
        reason: One sentence with the numbers.
    """

    holds: bool
    permutation: tuple[int, ...]
    accuracy: float
    accuracy_permuted: float
    n: int
    reason: str


def suspect(
    counts: NDArray[np.int64], *, reference_accuracy: float, inputs_moved: bool
) -> Suspicion:
    """Judge the labels since the change point.

    Args:
        counts: ``(C, C)``, how often the champion predicted the row's class and the label said the
            column's.
        reference_accuracy: Champion's accuracy before the change, in [0, 1].
        inputs_moved: Whether a label-free monitor has seen the inputs move.

    Raises:
        ValueError: ``counts`` is not square with at least 2 classes and no negative entries, or the
            accuracy is out of range.
    """
    table = np.asarray(counts, dtype=np.int64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or table.shape[0] < 2:
        raise ValueError(f"counts must be (C, C) with C >= 2, got shape {table.shape}")
    if bool((table < 0).any()):
        raise ValueError(f"counts must not be negative, got a least entry of {table.min()}")
    if not 0.0 <= reference_accuracy <= 1.0:
        raise ValueError(f"reference_accuracy must lie in [0, 1], got {reference_accuracy}")
    n, classes = int(table.sum()), table.shape[0]
    permutation = _best_renaming(table)
    hits = int(table[np.arange(classes), permutation].sum())
    as_is = int(np.trace(table))
    seen = _Seen(n, classes, as_is, hits, min(reference_accuracy, BEST_REFERENCE))
    missing = _premise_missing(seen, inputs_moved) or _better_explanation(seen)
    return Suspicion(
        missing is None,
        tuple(int(c) for c in permutation),
        as_is / n if n else 0.0,
        hits / n if n else 0.0,
        n,
        f"{missing or 'renamed classes explain the errors and inputs have not moved'}: "
        f"{seen.numbers}",
    )


def _best_renaming(table: NDArray[np.int64]) -> NDArray[np.intp]:
    # Among equally good renamings the one that leaves most classes alone: a whole label outweighs
    # all of the diagonal's bonus.
    classes = table.shape[0]
    weights = table * (classes + 1) + np.eye(classes, dtype=np.int64)
    return linear_sum_assignment(weights, maximize=True)[1]


@dataclass(frozen=True, slots=True)
class _Seen:
    n: int
    classes: int
    as_is: int
    hits: int
    reference: float

    @property
    def numbers(self) -> str:
        if not self.n:
            return "no labels"
        return (
            f"accuracy {self.as_is / self.n:.2f} as it is, {self.hits / self.n:.2f} renamed, "
            f"on {self.n} labels, reference {self.reference:.2f}"
        )

    @property
    def partial(self) -> float:
        """Accuracy of the renamed champion under a real change of ``PARTIAL`` of the stream."""
        slips = (1.0 - self.reference) / (self.classes - 1)
        return PARTIAL * self.reference + (1.0 - PARTIAL) * slips


def _premise_missing(seen: _Seen, inputs_moved: bool) -> str | None:
    if seen.n < LEAST_LABELS:
        return f"fewer than {LEAST_LABELS} labels"
    if inputs_moved:
        return "the inputs moved too"
    if seen.partial >= seen.reference:
        return "the reference is too near chance to tell"
    if float(binom.cdf(seen.as_is, seen.n, seen.reference)) > NEW_ERRORS_RISK:
        return "no more errors than the reference allows"
    return None


def _better_explanation(seen: _Seen) -> str | None:
    n, hits, reference = seen.n, seen.hits, seen.reference
    against_change = hits * math.log(reference / seen.partial) + (n - hits) * math.log(
        (1.0 - reference) / (1.0 - seen.partial)
    )
    if against_change < -math.log(RISK):
        return "no renaming explains the errors"
    # Labels replaced at random leave the champion at chance at worst.
    noisy = min(max(seen.as_is / n, 1.0 / seen.classes), reference)
    renamed = _log_likelihood(n, hits, reference, seen.classes)
    against_noise = renamed - _log_likelihood(n, seen.as_is, noisy, seen.classes)
    if against_noise < math.lgamma(seen.classes + 1) - math.log(RISK):
        return "random labels explain the errors as well"
    return None


def _log_likelihood(n: int, hits: int, accuracy: float, classes: int) -> float:
    """Of ``n`` labels, ``hits`` as expected and the others spread over the other classes."""
    return hits * math.log(accuracy) + (n - hits) * math.log((1.0 - accuracy) / (classes - 1))
