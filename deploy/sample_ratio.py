"""Does the candidate get the share of events, and of labels, that its weight says?

Anytime-valid check of served counts against known probabilities that may change from step to step.
For each odds ratio ``theta`` of a fixed grid the alternative sends a share
``q = p theta / (1 - p + p theta)`` to the candidate wherever the plan says ``p``; the e-value is
the mean of the likelihood ratios over the grid. Under the null each is a martingale of mean 1, so
by Ville's inequality the chance that it ever reaches 1 / alpha is at most alpha. It depends on the
counts per weight alone: those are the state, and no rounding accumulates.

Paper: M. Lindon and A. Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022
(there with a Dirichlet mixture; the grid of odds ratios takes its place so that probabilities may
differ between steps).

>>> counts = RatioCounts().add(weight_pct=50, events=40, by_candidate=38)
>>> counts.log_e() > 10
True
"""

import math
from dataclasses import dataclass

ODDS_RATIOS = (0.25, 0.5, 0.67, 1.5, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class RatioCell:
    """Counts under one weight.

    Attributes:
        weight_pct: The candidate's weight when the events were scored, 0 to 100.
        events: How many there were.
        by_candidate: How many of them the candidate answered.
    """

    weight_pct: int
    events: int
    by_candidate: int


@dataclass(frozen=True, slots=True)
class RatioCounts:
    """Counts by weight; at most 101 cells, sorted by weight."""

    cells: tuple[RatioCell, ...] = ()

    @property
    def events(self) -> int:
        """All events counted."""
        return sum(cell.events for cell in self.cells)

    def add(self, weight_pct: int, events: int, by_candidate: int) -> "RatioCounts":
        """Return the counts after ``events`` more, ``by_candidate`` of them the candidate's.

        Raises:
            ValueError: The weight is outside 0..100 or the counts are impossible.
        """
        if not 0 <= weight_pct <= 100:
            raise ValueError(f"weight_pct must lie in 0..100, got {weight_pct}")
        if not 0 <= by_candidate <= events:
            raise ValueError(f"by_candidate must lie in 0..{events}, got {by_candidate}")
        if events == 0:
            return self
        cells = self.cells
        for i, cell in enumerate(cells):
            if cell.weight_pct == weight_pct:
                grown = RatioCell(
                    weight_pct, cell.events + events, cell.by_candidate + by_candidate
                )
                return RatioCounts((*cells[:i], grown, *cells[i + 1 :]))
        cells = (*cells, RatioCell(weight_pct, events, by_candidate))
        return RatioCounts(tuple(sorted(cells, key=lambda cell: cell.weight_pct)))

    def log_e(self) -> float:
        """Return the log e-value against the planned shares; inf if they are impossible."""
        logs = [0.0] * len(ODDS_RATIOS)
        for cell in self.cells:
            if cell.weight_pct in (0, 100):
                if cell.by_candidate != cell.events * (cell.weight_pct // 100):
                    return math.inf
                continue
            p = cell.weight_pct / 100.0
            for i, theta in enumerate(ODDS_RATIOS):
                # q / p = theta / norm and (1 - q) / (1 - p) = 1 / norm
                norm = 1.0 - p + p * theta
                logs[i] += cell.by_candidate * math.log(theta) - cell.events * math.log(norm)
        top = max(logs)
        return top + math.log(math.fsum(math.exp(log - top) for log in logs) / len(logs))

    def skew(self, risk: float) -> str | None:
        """Return what is skewed, in numbers, or None while the shares agree with the plan."""
        log_e = self.log_e()
        if log_e < -math.log(risk):
            return None
        got = sum(cell.by_candidate for cell in self.cells)
        planned = sum(cell.events * cell.weight_pct / 100.0 for cell in self.cells)
        return (
            f"{got} of {self.events} are the candidate's where the weights say {planned:.1f}, "
            f"e={math.exp(min(log_e, 700.0)):.3g} >= 1/{risk:g}"
        )
