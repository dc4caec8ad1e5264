"""Whether a model still explains the labels: two bets against its own reference loss.

One bet is against "the mean loss is above the reference by ``within`` or more": when it wins, the
model explains the labels. The other is against "the mean loss is above the reference by at most
``slack``": when it wins, the model does not. Losses are in [0, 1]; each bet multiplies
``1 + (x - b) (q - b) / (b (1 - b))``, the likelihood ratio of two coins and fair for every loss in
[0, 1] whose conditional mean is ``b``, averaged over a few ``q``. By Ville's inequality (1939) a
model is called wrongly, ever, with probability at most ``level``, however often one looks: Waudby-
Smith & Ramdas, Estimating means of bounded random variables by betting, JRSS B 2024. A rise between
``slack`` and ``within`` may be called either way, or stay open.
"""

from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Standing: TypeAlias = Literal["explains", "fails", "open"]

LOWER = (1.0, 0.5)
"""Multiples of the reference that the bet for the model is placed on."""
HIGHER = (0.1, 0.25, 0.5)
"""Shares of the way from the bound to 1 that the bet against it is placed on."""
MOST = 0.98


class Reference(msgspec.Struct, frozen=True):
    """The mean loss of a model on labels of its own task, in [0, 1], and of how many."""

    labels: int
    loss: float

    def held_to(self) -> float:
        """Return the loss that the model is held to: above 0, also when it never erred."""
        return (self.labels * self.loss + 0.5) / (self.labels + 1)


class LossEvidence(msgspec.Struct, frozen=True):
    """What a run of labels says of a model.

    Attributes:
        labels: How many losses were looked at.
        loss: Their mean; None without labels.
        e_explains: Evidence that the model explains them.
        e_fails: Evidence that it does not.
        standing: Which of the two is ``1 / level`` or more; ``open``: none.
    """

    labels: int
    loss: float | None
    e_explains: float
    e_fails: float
    standing: Standing


def weigh(
    losses: NDArray[np.float64],
    reference: Reference,
    *,
    within: float,
    slack: float,
    level: float,
) -> LossEvidence:
    """Return what losses say of a model.

    Args:
        losses: ``(n,)`` in [0, 1].
        reference: Of the model; without labels the standing is always open.
        within: Rise of the mean loss that "explains" excludes.
        slack: Rise that "fails" exceeds; not above ``within``.
        level: Bound on the chance of a wrong standing.

    Raises:
        ValueError: The bounds are out of order or a loss is outside [0, 1].
    """
    if not 0 < slack <= within < 1 or not 0 < level < 1:
        raise ValueError(f"slack {slack}, within {within}, level {level}: 0 < slack <= within < 1")
    if len(losses) and not (losses.min() >= 0 and losses.max() <= 1):
        raise ValueError("losses must be in [0, 1]")
    mean = float(losses.mean()) if len(losses) else None
    if not len(losses) or not reference.labels:
        return LossEvidence(len(losses), mean, 1.0, 1.0, "open")
    loss = reference.held_to()
    low, high = min(MOST, loss + slack), min(MOST, loss + within)
    explains = _log_evidence(losses, high, [m * min(loss, high / 2) for m in LOWER])
    fails = _log_evidence(losses, low, [low + share * (1 - low) for share in HIGHER])
    standing: Standing = "open"
    if max(explains, fails) >= -np.log(level):
        standing = "explains" if explains > fails else "fails"
    e_explains, e_fails = (float(np.exp(min(value, 700.0))) for value in (explains, fails))
    return LossEvidence(len(losses), mean, e_explains, e_fails, standing)


def _log_evidence(losses: NDArray[np.float64], bound: float, bets: list[float]) -> float:
    """Return the logarithm of the mean wealth of the bets after all losses."""
    q = np.array(bets)[:, None]
    growth = np.log1p((losses[None, :] - bound) * (q - bound) / (bound * (1 - bound)))
    wealth = growth.sum(axis=1)
    return float(wealth.max() + np.log(np.exp(wealth - wealth.max()).mean()))
