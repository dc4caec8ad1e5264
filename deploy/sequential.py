"""Anytime-valid tests by betting, and what they say of paired losses.

Where both versions score every event, each label gives a pair of losses and a difference
``d = loss_stable - loss_candidate`` in [-1, 1]. (``deploy.unpaired`` has what takes its place where
only one of them answers.) Against the null "the mean of x, given the past, is at most m at every
step" a bettor stakes the fraction ``lambda`` of the wealth on ``x - m``:

    E_t = mean over lambda of  prod_{i<=t} (1 + lambda_i (x_i - m)),  0 < lambda_i < 1 / (m - low_i)

Every factor is positive because x_i >= low_i (-1 for differences of losses; known before x_i in any
case), and under the null each product, hence their mean, is a
nonnegative supermartingale that starts at 1. Ville's inequality bounds the chance that it ever
reaches 1 / alpha by alpha: the test may be looked at after every label and stopped at will. The
mixture over a fixed grid needs no tuning to the size of the effect.

Paper: I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting",
Journal of the Royal Statistical Society B 86(1), 2024.

>>> test = BettingTest.start(margin=0.0)
>>> for _ in range(8):
...     test = test.observe(1.0)
>>> round(test.e_value(), 1)
64.2
"""

import functools
import math
from dataclasses import dataclass
from operator import add

import msgspec

BETS = (0.10, 0.25, 0.45, 0.65, 0.80, 0.93)
"""Stakes, as shares of the largest admissible one. For 0/1 losses an error falling from .30 to .10
is decided after a median of 44 labels at alpha .05, from .50 to .05 after 13."""

FRESH = (0.0,) * len(BETS)


def _log_factors(x: float, margin: float, lowest: float = -1.0) -> tuple[float, ...]:
    return tuple(math.log1p(share * (x - margin) / (margin - lowest)) for share in BETS)


_cached_log_factors = functools.lru_cache(maxsize=256)(_log_factors)


@dataclass(frozen=True, slots=True)
class BettingTest:
    """One-sided test of the null "mean of x given the past <= margin", for x bounded from below.

    Attributes:
        margin: The null's bound, in (-1, 1).
        n: Observations so far.
        log_wealth: Natural logarithm of each bet's wealth, one per entry of ``BETS``.
    """

    margin: float
    n: int = 0
    log_wealth: tuple[float, ...] = FRESH

    @classmethod
    def start(cls, margin: float) -> "BettingTest":
        """Return the test before its first observation.

        Raises:
            ValueError: ``margin`` is outside (-1, 1).
        """
        if not -1.0 < margin < 1.0:
            raise ValueError(f"margin must lie strictly between -1 and 1, got {margin}")
        return cls(margin)

    def observe(self, x: float) -> "BettingTest":
        """Return the test after one more observation in [-1, 1].

        Raises:
            ValueError: ``x`` is outside [-1, 1] or not finite.
        """
        if not -1.0 <= x <= 1.0:
            raise ValueError(f"x must lie in [-1, 1], got {x}; scale the losses into [0, 1]")
        # 0/1 losses give three values of x: their logarithms are looked up.
        factors = (_cached_log_factors if x in (-1.0, 0.0, 1.0) else _log_factors)(x, self.margin)
        return BettingTest(self.margin, self.n + 1, tuple(map(add, self.log_wealth, factors)))

    def observe_above(self, x: float, lowest: float) -> "BettingTest":
        """Return the test after one more observation that could not have been below ``lowest``.

        Args:
            x: The observation.
            lowest: Its bound, known before it was made; below the margin.

        Raises:
            ValueError: ``x`` is below its bound or not finite, or the bound not below the margin.
        """
        if not lowest < self.margin:
            raise ValueError(f"lowest must be below the margin {self.margin}, got {lowest}")
        if not lowest <= x < math.inf:
            raise ValueError(f"x must be a finite number >= {lowest}, got {x}")
        factors = _log_factors(x, self.margin, lowest)
        return BettingTest(self.margin, self.n + 1, tuple(map(add, self.log_wealth, factors)))

    def log_e(self) -> float:
        """Return the natural logarithm of the e-value; finite."""
        top = max(self.log_wealth)
        total = math.fsum(math.exp(wealth - top) for wealth in self.log_wealth)
        return top + math.log(total / len(self.log_wealth))

    def e_value(self) -> float:
        """Return the evidence against the null; at most 1 in expectation under it."""
        return math.exp(min(self.log_e(), 700.0))

    def rejects(self, risk: float) -> bool:
        """Whether the null is rejected, wrongly with chance <= ``risk`` over all looks."""
        return self.log_e() >= -math.log(risk)


class PairedEvidence(msgspec.Struct, frozen=True, tag="paired"):
    """What the paired losses of a rollout say so far; pooled over its steps.

    The gain of the candidate is the mean of ``d = loss_stable - loss_candidate``.

    Attributes:
        better: Null "gain <= least_gain"; rejecting it is PASS.
        worse: Null "gain >= -acceptable_harm"; rejecting it is FAIL.
        safe: Null "gain <= -acceptable_harm"; rejecting it lets the candidate take a step.
        n: Pairs.
        n_candidate_served: Pairs whose event the candidate answered.
        n_stable_served: Pairs whose event the stable version answered.
        loss_stable: Sum of the stable version's losses.
        loss_candidate: Sum of the candidate's losses.
        wins: Pairs on which the candidate lost less.
        losses: Pairs on which the candidate lost more.
    """

    better: BettingTest
    worse: BettingTest
    safe: BettingTest
    n: int = 0
    n_candidate_served: int = 0
    n_stable_served: int = 0
    loss_stable: float = 0.0
    loss_candidate: float = 0.0
    wins: int = 0
    losses: int = 0

    @property
    def mean_stable(self) -> float:
        """Mean loss of the stable version; 0 before the first pair."""
        return self.loss_stable / self.n if self.n else 0.0

    @property
    def mean_candidate(self) -> float:
        """Mean loss of the candidate; 0 before the first pair."""
        return self.loss_candidate / self.n if self.n else 0.0

    @property
    def gain(self) -> float:
        """Mean difference; 0 before the first pair."""
        return (self.loss_stable - self.loss_candidate) / self.n if self.n else 0.0

    def numbers(self) -> dict[str, int | float]:
        """Return what is shown and recorded of it."""
        return {
            "labels": self.n,
            "gain": self.gain,
            "wins": self.wins,
            "losses": self.losses,
            "e_better": self.better.e_value(),
            "e_worse": self.worse.e_value(),
        }


def opening_tests(
    least_gain: float, acceptable_harm: float
) -> tuple[BettingTest, BettingTest, BettingTest]:
    """Return the tests ``better``, ``worse`` and ``safe`` before the first label.

    Raises:
        ValueError: A margin is outside [0, 1), or no harm at all is acceptable.
    """
    if not 0.0 <= least_gain < 1.0:
        raise ValueError(f"least_gain must lie in [0, 1), got {least_gain}")
    if not 0.0 < acceptable_harm < 1.0:
        raise ValueError(
            f"acceptable_harm must lie strictly between 0 and 1, got {acceptable_harm}; "
            "with 0 no number of labels shows that a step is safe"
        )
    margins = (least_gain, acceptable_harm, -acceptable_harm)
    better, worse, safe = map(BettingTest.start, margins)
    return better, worse, safe


def no_evidence(least_gain: float, acceptable_harm: float) -> PairedEvidence:
    """Return the evidence before the first label.

    Raises:
        ValueError: A margin is outside [0, 1), or no harm at all is acceptable.
    """
    return PairedEvidence(*opening_tests(least_gain, acceptable_harm))


def observe(
    evidence: PairedEvidence, loss_stable: float, loss_candidate: float, served_candidate: bool
) -> PairedEvidence:
    """Return the evidence after one more label.

    Args:
        evidence: So far.
        loss_stable: Loss of the stable version on the event, in [0, 1].
        loss_candidate: Loss of the candidate on the same event, in [0, 1].
        served_candidate: Whether the candidate's answer was the one given out.

    Raises:
        ValueError: A loss is outside [0, 1] or not finite.
    """
    if not (0.0 <= loss_stable <= 1.0 and 0.0 <= loss_candidate <= 1.0):
        raise ValueError(
            f"losses must lie in [0, 1], got stable {loss_stable} and candidate {loss_candidate}"
        )
    d = loss_stable - loss_candidate
    return PairedEvidence(
        evidence.better.observe(d),
        evidence.worse.observe(-d),
        evidence.safe.observe(d),
        evidence.n + 1,
        evidence.n_candidate_served + served_candidate,
        evidence.n_stable_served + (not served_candidate),
        evidence.loss_stable + loss_stable,
        evidence.loss_candidate + loss_candidate,
        evidence.wins + (d > 0),
        evidence.losses + (d < 0),
    )
