"""The holdout gate: may a candidate serve anything at all?

Both models answer the same holdout rows, on which neither was trained; what counts is the paired
difference of their losses. The test is looked at once, at a fixed number of rows.

- Classification (losses 0 or 1): exact one-sided McNemar, that is a sign test over the rows on
  which exactly one of the two is right. Paper: Q. McNemar, Psychometrika 12, 1947; exact form:
  M. Fagerland, S. Lydersen and P. Laake, BMC Medical Research Methodology 13:91, 2013.
- Regression (losses within [0, 1]): the sign-flip randomization test of the mean difference, exact
  under the null that swapping the two models' losses on a row changes nothing; with 0/1 losses it
  is McNemar's test. Flips are drawn from a fixed seed and the observed one is counted in, so the
  p-value is valid and repeatable. Papers: R. A. Fisher, The Design of Experiments, 1935; B. Phipson
  and G. Smyth, Statistical Applications in Genetics and Molecular Biology 9(1), 2010.

Below ``n_min`` rows the verdict is INCONCLUSIVE whatever they say. The candidate may then enter the
first canary step if its mean loss is not above the champion's; only the canary can promote it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from deploy.rollout_plan import Verdict

FLIPS = 9_999
FLIP_BLOCK = 512
LARGEST_HOLDOUT = 5_000


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the holdout says.

    Attributes:
        verdict: PASS: better at the given risk; FAIL: enough rows, and not shown to be better;
            INCONCLUSIVE: too few rows; ERROR: the losses cannot be compared.
        n: Holdout rows.
        n_min: Rows needed for a verdict.
        champion_mean: Champion's mean loss; 0 without rows.
        candidate_mean: Candidate's mean loss; 0 without rows.
        wins: Rows on which the candidate lost less.
        losses: Rows on which the candidate lost more.
        p_value: Of the one-sided test; 1 without rows.
        reason: One sentence with the numbers.
        may_enter_canary: Whether the first canary step is open to the candidate.
    """

    verdict: Verdict
    n: int
    n_min: int
    champion_mean: float
    candidate_mean: float
    wins: int
    losses: int
    p_value: float
    reason: str
    may_enter_canary: bool


def judge_holdout(
    champion_losses: NDArray[np.float64],
    candidate_losses: NDArray[np.float64],
    *,
    n_min: int,
    risk: float = 0.05,
    overlap: int = 0,
) -> GateResult:
    """Compare candidate and champion on the holdout.

    Args:
        champion_losses: ``(n,)``, in [0, 1].
        candidate_losses: ``(n,)``, in [0, 1], of the same rows.
        n_min: Rows below which the verdict is INCONCLUSIVE (``least_holdout``).
        risk: Chance that a candidate no better than the champion passes.
        overlap: Holdout rows that occur in the training lineage of either model; any is an ERROR.

    Raises:
        ValueError: ``risk`` is outside (0, 1) or ``n_min`` below 1.
    """
    if not 0.0 < risk < 1.0 or n_min < 1:
        raise ValueError(f"risk ({risk}) must lie within 0..1 and n_min ({n_min}) be at least 1")
    champion = np.asarray(champion_losses, dtype=np.float64)
    candidate = np.asarray(candidate_losses, dtype=np.float64)
    wrong = _incomparable(champion, candidate, overlap)
    if wrong is not None:
        return GateResult(Verdict.ERROR, len(champion), n_min, 0.0, 0.0, 0, 0, 1.0, wrong, False)
    n = len(champion)
    if n == 0:
        none = f"no holdout rows; {n_min} are needed for a verdict"
        return GateResult(Verdict.INCONCLUSIVE, 0, n_min, 0.0, 0.0, 0, 0, 1.0, none, False)
    gains = champion - candidate
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    p_value = paired_p(gains)
    before, after = float(champion.mean()), float(candidate.mean())
    not_above = float(gains.sum()) >= 0.0
    numbers = (
        f"holdout loss {before:.3g} to {after:.3g} on {n} rows, {wins} better and {losses} worse, "
        f"p={p_value:.3g}"
    )
    if n < n_min:
        enter = "may enter the first step" if not_above else "mean loss above the champion's"
        return GateResult(
            *(Verdict.INCONCLUSIVE, n, n_min, before, after, wins, losses, p_value),
            f"inconclusive below {n_min} rows: {numbers}; {enter}",
            not_above,
        )
    passed = p_value <= risk
    sign = "<=" if passed else ">"
    return GateResult(
        *(Verdict.PASS if passed else Verdict.FAIL, n, n_min, before, after, wins, losses, p_value),
        f"{'passed' if passed else 'refused'}: {numbers} {sign} {risk:g}",
        passed,
    )


def _incomparable(
    champion: NDArray[np.float64], candidate: NDArray[np.float64], overlap: int
) -> str | None:
    if champion.ndim != 1 or champion.shape != candidate.shape:
        return (
            f"losses of shapes {champion.shape} and {candidate.shape}: both must be one loss a row"
        )
    for name, losses in (("champion", champion), ("candidate", candidate)):
        if not bool(((losses >= 0.0) & (losses <= 1.0)).all()):  # also False for NaN
            return f"a {name} loss is outside [0, 1] or no number"
    if overlap > 0:
        return f"{overlap} holdout rows are in the training lineage of a compared model"
    return None


def paired_p(gains: NDArray[np.float64]) -> float:
    """Return the one-sided p-value of "on average there is no gain" from ``gains`` ``(n,)``.

    McNemar's exact test where all are differences of 0/1 losses, else the sign-flip test. Of the
    gains turned round it is the p-value of "there is no harm".

    >>> paired_p(np.array([1.0, 1.0, 0.0, 1.0])), paired_p(-np.array([1.0, 1.0, 0.0, 1.0]))
    (0.125, 1.0)
    """
    if np.isin(gains, (-1.0, 0.0, 1.0)).all():
        return mcnemar_p(int((gains > 0).sum()), int((gains < 0).sum()))
    return sign_flip_p(gains)


def mcnemar_p(wins: int, losses: int) -> float:
    """Return the exact one-sided p-value: chance of at least ``wins`` heads in as many fair flips.

    >>> mcnemar_p(5, 0)
    0.03125
    """
    return min(1.0, float(binom.sf(wins - 1, wins + losses, 0.5)))


def sign_flip_p(gains: NDArray[np.float64]) -> float:
    """Return the one-sided p-value of the mean of ``gains`` ``(n,)`` under random signs."""
    observed = float(gains.sum())
    generator = np.random.default_rng(20_260_101)
    as_large, left = 1, FLIPS
    while left > 0:
        flips = generator.integers(0, 2, size=(min(left, FLIP_BLOCK), len(gains)), dtype=np.int8)
        sums = (2.0 * flips - 1.0) @ gains
        # Sums of the same numbers in another order may differ in the last bits.
        as_large += int((sums >= observed - 1e-9).sum())
        left -= len(flips)
    return as_large / (FLIPS + 1)


def gate_power(n: int, target_from: float, target_to: float, risk: float) -> float:
    """Return the chance that McNemar's test passes with ``n`` rows.

    The champion errs on a share ``target_from`` of them and the candidate, independently, on
    ``target_to``. For losses within [0, 1] of these means it is a lower estimate: 0/1 losses vary
    the most.
    """
    better = target_from * (1.0 - target_to)
    worse = target_to * (1.0 - target_from)
    discordant = np.arange(n + 1)
    # Least number of wins among m discordant rows with P(Binomial(m, 1/2) >= wins) <= risk.
    needed = binom.isf(risk, discordant, 0.5) + 1
    passes = binom.sf(needed - 1, discordant, better / (better + worse))
    return float((binom.pmf(discordant, n, better + worse) * passes).sum())


@lru_cache(maxsize=64)
def least_holdout(
    target_from: float, target_to: float, risk: float = 0.05, power: float = 0.8
) -> int:
    """Return the least number of holdout rows for a verdict.

    From that number on, the gate passes a candidate whose loss is ``target_to`` where the
    champion's is ``target_from`` with a chance of at least ``power``.

    Raises:
        ValueError: An argument is out of range, or ``LARGEST_HOLDOUT`` rows would not do.

    >>> least_holdout(0.30, 0.10), least_holdout(0.50, 0.05)
    (56, 16)
    """
    if not 0.0 <= target_to < target_from <= 1.0:
        raise ValueError(
            f"target_to ({target_to}) must be below target_from ({target_from}), both in [0, 1]"
        )
    if not (0.0 < risk < 1.0 and 0.0 < power < 1.0):
        raise ValueError(f"risk ({risk}) and power ({power}) must lie within 0..1")
    low, high = 0, 1
    while gate_power(high, target_from, target_to, risk) < power:
        low, high = high, 2 * high
        if high > LARGEST_HOLDOUT:
            raise ValueError(
                f"{LARGEST_HOLDOUT} rows do not show a fall from {target_from} to {target_to} with "
                f"power {power} at risk {risk}; set a larger effect, risk or a lower power"
            )
    while high - low > 1:
        middle = math.floor((low + high) / 2)
        enough = gate_power(middle, target_from, target_to, risk) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high
