"""Ways to bet on single answers, by labels to PASS: the comparison behind ADR 11."""

import math

import numpy as np

from benchmarks.canary_simulation import Bools, Floats
from deploy.sequential import BETS

CASES = ((0.05, 0.3, 0.1), (0.25, 0.3, 0.1), (0.25, 0.2, 0.1), (0.5, 0.2, 0.1), (0.5, 0.1, 0.05))
METHODS = {
    "no centre": "bets on the weighted difference of the losses themselves",
    "centre 1/2": "the losses less 1/2",
    "router's loss": "less what the router's mixture has had so far (the product)",
    "least variance": "less what makes the difference's variance least (doubly robust means)",
    "plug-in": "Turner, Ly and Grünwald's e-variable at the losses so far: one stake, no mixture",
}


def compare(canaries: int, seed: int, alpha: float = 0.05) -> list[dict[str, object]]:
    """Return per case the median labels to PASS of every method, and its wrong PASS at no gain."""
    rng, rows = np.random.default_rng(seed), []
    for p, stable, candidate in CASES:
        most = int(20 * (stable + candidate) / (stable - candidate) ** 2 / (p * (1 - p)) ** 0.9)
        real, null = (
            _paths(rng, canaries, most, p, stable, error) for error in (candidate, stable)
        )
        rows.append(
            {
                "p": p,
                "stable": stable,
                "candidate": candidate,
                "median": {m: _median(logs, alpha) for m, logs in real.items()},
                "wrong": {m: _crossed(logs, alpha) for m, logs in null.items()},
            }
        )
    return rows


def _paths(
    rng: np.random.Generator, canaries: int, n: int, p: float, stable: float, candidate: float
) -> dict[str, Floats]:
    arm = rng.random((canaries, n)) < p
    loss = (rng.random((canaries, n)) < np.where(arm, candidate, stable)).astype(float)
    before_c, before_s = _before(loss * arm), _before(loss * ~arm)
    mean_s = (before_s + 0.5) / (_before(~arm * 1.0) + 1)
    mean_c = (before_c + 0.5) / (_before(arm * 1.0) + 1)
    router = (1 - p) * mean_s + p * mean_c
    centres = {
        "no centre": np.zeros_like(loss),
        "centre 1/2": np.full_like(loss, 0.5),
        "router's loss": router,
        "least variance": p * mean_s + (1 - p) * mean_c,
    }
    paths = {name: _mixture(arm, loss, p, centre) for name, centre in centres.items()}
    wins = np.minimum(mean_c, mean_s)  # one-sided: it never bets on harm
    mixed = (1 - p) * mean_s + p * wins
    guess = np.where(arm, wins, mean_s)
    ratio = loss * guess / mixed + (1 - loss) * (1 - guess) / (1 - mixed)
    paths["plug-in"] = np.cumsum(np.log(ratio), axis=1)
    return paths


def _before(values: Floats) -> Floats:
    """Return the sum of what came before each place."""
    return np.cumsum(values, axis=1) - values


def _mixture(arm: Bools, loss: Floats, p: float, centre: Floats) -> Floats:
    d = (loss - centre) * np.where(arm, -1 / p, 1 / (1 - p))
    room = np.maximum((1 - centre) / p, centre / (1 - p))
    wealth = np.zeros_like(d)
    for bet in BETS:
        wealth += np.exp(np.minimum(np.cumsum(np.log1p(bet * d / room), axis=1), 600.0))
    return np.asarray(np.log(wealth / len(BETS)))


def _median(logs: Floats, alpha: float) -> float | None:
    crossed = logs >= -math.log(alpha)
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, math.inf)
    median = float(np.median(first))
    return median if math.isfinite(median) else None


def _crossed(logs: Floats, alpha: float) -> float:
    return float((logs >= -math.log(alpha)).any(axis=1).mean())
