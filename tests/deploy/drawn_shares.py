"""What a router's draws may look like."""

from scipy.stats import binom

RISK = 1e-9
"""Chance that a router which draws as it should is found wrong."""


def fits(count: int, requests: int, weight_pct: int) -> bool:
    """Return whether ``count`` of ``requests`` is what draws with ``weight_pct`` give.

    >>> [fits(count, 200, 25) for count in (10, 50, 95)]
    [False, True, False]
    """
    low, high = binom.interval(1.0 - RISK, requests, weight_pct / 100)
    return bool(low <= count <= high)
