"""Part of ``make bench-canaries``: how few labels any test by betting can do with, and which ways
to bet on pairs come nearest. Writes docs/results/canary_bound.json and canary_bound.md.

Every e-variable for the null "the mean of x in [lowest, ...) is at most m" is ``1 + stake * (x -
m)`` (or less), so the bettor who is told the true error rates and stakes what makes its wealth grow
fastest is the best there is: nobody can know them, and the bet that loses least to it wins.
"""

import math

import numpy as np

from benchmarks.canaries import ALPHA, DECISIONS, HARM, fixed_horizon
from benchmarks.canary_simulation import PASS, Floats
from benchmarks.machine import SERVICE, machine
from benchmarks.results import keep, options, words
from deploy.sequential import BETS

SEED = 27
TIMES = 6
"""Labels that are simulated, in multiples of the fixed-horizon test's."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_UNIFORM = (_NODES + 1.0) / 2.0
WAYS = {
    "told": "the best bettor: told the true error rates",
    "six stakes": "`deploy.sequential`: the mixture in use",
    "three stakes": "a mixture of .25, .5 and .8",
    "Beta(2, 2)": "a mixture over all stakes with that density",
    "plug-in": "the stake that was best so far, from a wins-and-losses prior of 2 to 1",
    "aGRAPA": "the mean so far over the second moment so far (Waudby-Smith and Ramdas, 2024)",
}


def bound(canaries: int) -> list[dict[str, object]]:
    """Return per decision the median labels of every way over the fixed-horizon test's."""
    rng, rows = np.random.default_rng(SEED), []
    for stable, candidate, verdict in DECISIONS:
        margin, sign = (0.0, 1.0) if verdict == PASS else (HARM, -1.0)
        fixed = fixed_horizon(abs(stable - candidate) - margin, stable, candidate, None)
        most = TIMES * fixed + 40
        gains = np.array([-1.0, 0.0, 1.0])
        both = (stable * (1 - candidate), candidate * (1 - stable))
        chances = np.array([both[1], 1 - sum(both), both[0]])
        draws = sign * rng.choice(gains, (canaries, most), p=chances)
        nothing = _null(rng, (canaries, most), sum(both), margin)
        told = _best_stake(sign * gains, chances, margin)
        row: dict[str, object] = {"stable": stable, "candidate": candidate, "fixed": fixed}
        row["verdict"] = "PASS" if verdict == PASS else "FAIL"
        row["median"] = {name: _median(wealth(name, draws, margin, told)) for name in WAYS}
        row["wrong"] = {name: _crossed(wealth(name, nothing, margin, told)) for name in WAYS}
        print(row, flush=True)
        rows.append(row)
    return rows


def _null(
    rng: np.random.Generator, shape: tuple[int, int], differing: float, margin: float
) -> Floats:
    """Draw gains whose mean is the null's bound, with as many pairs that differ."""
    up = (differing + margin) / 2
    return rng.choice([-1.0, 0.0, 1.0], shape, p=[differing - up, 1 - differing, up])


def _best_stake(gains: Floats, chances: Floats, margin: float) -> float:
    shares = np.linspace(0.005, 0.995, 199)
    growth = np.log1p(shares[:, None] * (gains - margin) / (1 + margin)) @ chances
    return float(shares[growth.argmax()])


def wealth(way: str, x: Floats, margin: float, told: float) -> Floats:
    """Return the logarithm of a bettor's wealth after each label, ``(canaries, labels)``."""
    scaled = (x - margin) / (1 + margin)
    match way:
        case "told":
            return np.cumsum(np.log1p(told * scaled), axis=1)
        case "six stakes":
            return _mixture(scaled, np.array(BETS), np.ones(len(BETS)))
        case "three stakes":
            return _mixture(scaled, np.array([0.25, 0.5, 0.8]), np.ones(3))
        case "Beta(2, 2)":
            return _mixture(scaled, _UNIFORM, _WEIGHTS * _UNIFORM * (1 - _UNIFORM))
        case "plug-in":
            won, lost = _before(x > 0), _before(x < 0)
            stake = np.clip(2 * (won + 2) / (won + lost + 3) - 1, 0, 0.95)
        case _:
            n = np.arange(x.shape[1]) + 1.0
            second = (_before(scaled**2) + 0.25) / n
            stake = np.clip(_before(scaled) / n / second, 0, 0.95)
    return np.cumsum(np.log1p(stake * scaled), axis=1)


def _before(values: Floats) -> Floats:
    summed = np.cumsum(values, axis=1, dtype=np.float64)
    return np.asarray(summed - values)


def _mixture(scaled: Floats, stakes: Floats, weights: Floats) -> Floats:
    total = np.zeros_like(scaled)
    for stake, weight in zip(stakes, weights / weights.sum(), strict=True):
        total += weight * np.exp(np.minimum(np.cumsum(np.log1p(stake * scaled), axis=1), 600.0))
    return np.asarray(np.log(total))


def _median(logs: Floats) -> float:
    crossed = logs >= -math.log(ALPHA)
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, math.inf)
    return float(np.quantile(first, 0.5, method="lower"))


def _crossed(logs: Floats) -> float:
    return float((logs >= -math.log(ALPHA)).any(axis=1).mean())


HEAD = f"""
Median labels to the right verdict on pairs, over those of the fixed-horizon test of
[canaries.md](canaries.md); in brackets the share of wrong verdicts at the null's bound over {TIMES}
times as many labels, which may be {ALPHA:g}. The best bettor is told the true error rates, and
still needs most of the fixed-horizon test's labels: half of them is out of reach for tests of this
kind. What could be won over the six stakes in use is the distance to the best bettor.

"""


def page(found: dict) -> str:  # type: ignore[type-arg]
    """Return the results as Markdown."""
    facts = words(found["machine"])
    text = "# How few labels a test by betting can do with\n\n"
    text += f"Command: `python -m benchmarks.canary_bound`, {found['canaries']} canaries a row, "
    text += f"seed {SEED}.\n{facts}.\n" + HEAD
    text += (
        f"| errors | verdict | fixed | {' | '.join(WAYS)} |\n|---|---|---|{'---|' * len(WAYS)}\n"
    )
    for row in found["bound"]:
        cells = [f"{row['median'][w] / row['fixed']:.2f} ({row['wrong'][w]:.3f})" for w in WAYS]
        errors = f"{row['stable']:g} to {row['candidate']:g}"
        text += f"| {errors} | {row['verdict']} | {row['fixed']} | {' | '.join(cells)} |\n"
    return text + "\n" + "".join(f"- *{name}*: {what}\n" for name, what in WAYS.items())


def main() -> None:
    """Run, print, and keep the numbers."""
    arguments = options("benchmarks.canary_bound", __doc__)
    arguments.add_argument("--canaries", type=int, default=4000, help="per row")
    chosen = arguments.parse_args()
    rows = bound(chosen.canaries)
    found = {"machine": machine(*SERVICE), "canaries": chosen.canaries, "seed": SEED, "bound": rows}
    written = page(found)
    print(written)
    if not chosen.print_only:
        keep("canary_bound", written, found)


if __name__ == "__main__":
    main()
