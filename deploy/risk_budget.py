"""How many wrong promotions a month may cost, spent over rollouts.

Each rollout's test promotes a candidate that gains nothing with a chance of at most its alpha. By
the union bound the expected number of wrong promotions is at most the sum of the alphas, and it
stays so when each alpha depends on what happened before the rollout began, as here. The rule is
online alpha-spending: a rollout gets a fixed share of what is left, so that the sum over any window
stays below the budget however many rollouts come, and the first ones are the quickest to decide.
Nothing is given back for a rollout that did not promote; everything returns when it ages out.

Papers: J. Tian and A. Ramdas, "Online control of the familywise error rate", Statistical Methods in
Medical Research 30(4), 2021 (alpha-spending; the bound here is on the expected number, which also
bounds the chance of any); D. Foster and R. Stine, "alpha-investing", Journal of the Royal
Statistical Society B 70(2), 2008 (a share of the wealth each time).

>>> budget = RiskBudget(risk=0.5)
>>> alpha, budget = spend(budget, now_s=0.0)
>>> alpha, round(left(budget, now_s=0.0), 3)
(0.05, 0.45)
"""

import math
from dataclasses import dataclass, replace

THIRTY_DAYS_S = 30 * 86_400.0
MOST_ENTRIES = 512


@dataclass(frozen=True, slots=True)
class Spent:
    """Risk given to rollouts.

    Attributes:
        at_s: Engine time at which the rollout began, seconds.
        alpha: Its risk.
    """

    at_s: float
    alpha: float


@dataclass(frozen=True, slots=True)
class RiskBudget:
    """The budget and what has been spent of it.

    Attributes:
        risk: Bound on the expected number of wrong promotions in any window.
        window_s: Length of the window, seconds.
        lag_s: How long after its beginning a rollout may still promote, seconds (the plan's
            ``longest_wait_s``); spent risk ages out only after window and lag, so that the bound
            holds for promotions and not just for beginnings.
        share: Part of what is left that the next rollout gets.
        most: Largest risk of one rollout.
        spent: What has not aged out, oldest first; at most ``MOST_ENTRIES``.
    """

    risk: float
    window_s: float = THIRTY_DAYS_S
    lag_s: float = 0.0
    share: float = 0.1
    most: float = 0.05
    spent: tuple[Spent, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 < self.risk < math.inf:
            raise ValueError(f"risk must be a finite number > 0, got {self.risk}")
        if not (0.0 < self.window_s < math.inf and 0.0 <= self.lag_s < math.inf):
            raise ValueError(
                f"window_s ({self.window_s}) must be > 0 and lag_s ({self.lag_s}) >= 0, finite"
            )
        if not (0.0 < self.share < 1.0 and 0.0 < self.most < 1.0):
            raise ValueError(f"share ({self.share}) and most ({self.most}) must lie within 0..1")


def left(budget: RiskBudget, now_s: float) -> float:
    """Return the risk that is not spent at ``now_s``."""
    return max(0.0, budget.risk - math.fsum(s.alpha for s in _alive(budget, now_s)))


def next_alpha(budget: RiskBudget, now_s: float) -> float:
    """Return the risk that a rollout beginning at ``now_s`` would get."""
    return min(budget.most, budget.share * left(budget, now_s))


def spend(budget: RiskBudget, now_s: float) -> tuple[float, RiskBudget]:
    """Return the risk of the rollout that begins at ``now_s``, and the budget afterwards."""
    alpha = next_alpha(budget, now_s)
    entries = (*_alive(budget, now_s), Spent(now_s, alpha))
    if len(entries) > MOST_ENTRIES:
        # The two oldest become one that ages with the younger: never returned too early.
        first, second, *rest = entries
        entries = (Spent(second.at_s, first.alpha + second.alpha), *rest)
    return alpha, replace(budget, spent=entries)


def returns_at(budget: RiskBudget, now_s: float) -> float | None:
    """Return the engine time at which the oldest spent risk comes back, or None if none is out."""
    alive = _alive(budget, now_s)
    return alive[0].at_s + budget.window_s + budget.lag_s if alive else None


def _alive(budget: RiskBudget, now_s: float) -> tuple[Spent, ...]:
    kept_s = budget.window_s + budget.lag_s
    return tuple(s for s in budget.spent if now_s - s.at_s <= kept_s)
