"""T15, ``make bench-canaries``: 10,000 simulated canaries per world, judged after every label.

Wrong verdicts, labels to a decision against a fixed-horizon test of the same null in the same run,
and the ways to bet on single answers. Writes docs/results/canaries.json and canaries.md.
"""

import math
import multiprocessing
import time
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from benchmarks.canary_methods import METHODS, compare
from benchmarks.canary_simulation import FAIL, PASS, World, always, simulate
from benchmarks.machine import SERVICE, machine
from benchmarks.results import keep, options, words
from deploy.rollout import CanaryPlan

ALPHA, POWER, SEED = 0.05, 0.8, 15
PAIRED = CanaryPlan(weights=(5, 25, 50), longest_wait_labels=1000)
SINGLE = CanaryPlan(weights=(25, 50), evidence="unpaired", longest_wait_labels=2000)
COVERED = "the same, 95 % of the labels asked for"
HARM = PAIRED.acceptable_harm

_half_of_the_candidates = ((1.0, 1.0), (0.5, 0.5))
_half_of_its_errors = ((1.0, 1.0), (1.0, 0.5))
WORLDS: dict[str, tuple[World, tuple[int, ...]]] = {
    "no difference": (World(always(0.2), always(0.2)), (PASS, FAIL)),
    "worse, by just the acceptable harm": (World(always(0.2), always(0.2 + HARM)), (PASS, FAIL)),
    "better, half the errors": (World(always(0.2), always(0.1)), (FAIL,)),
    "worse, twice the errors": (World(always(0.1), always(0.2)), (PASS,)),
    "both drift from .1 to .4": (
        World(lambda t: min(0.4, 0.1 + t / 2000), lambda t: min(0.4, 0.1 + t / 2000)),
        (PASS, FAIL),
    ),
    "better at first, then worse": (
        World(always(0.2), lambda t: 0.15 if t < 150 else 0.35),
        (),
    ),
    "no difference, labels 200 events late": (
        World(always(0.2), always(0.2), delay=200),
        (PASS, FAIL),
    ),
    "no difference, router takes turns": (
        World(always(0.2), always(0.2), turns=True),
        (PASS, FAIL),
    ),
    "half of the candidate's labels never come": (
        World(always(0.2), always(0.2), arrival=_half_of_the_candidates),
        (PASS, FAIL),
    ),
    "labels of half of the candidate's errors never come": (
        World(always(0.2), always(0.2), arrival=_half_of_its_errors),
        (PASS, FAIL),
    ),
    COVERED: (
        World(always(0.2), always(0.2), arrival=_half_of_its_errors),
        (PASS, FAIL),
    ),
}
DECISIONS = (
    (0.2, 0.1, PASS),
    (0.3, 0.1, PASS),
    (0.5, 0.05, PASS),
    (0.1, 0.2, FAIL),
    (0.1, 0.3, FAIL),
)


def wrong_verdicts(canaries: int) -> list[dict[str, object]]:
    """Return how often the canaries of every world end wrongly; two worlds at a time."""
    jobs = [(name, kind, canaries) for name in WORLDS for kind in ("paired", "unpaired")]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return list(pool.imap(wrong_in, jobs))


def wrong_in(job: tuple[str, str, int]) -> dict[str, object]:
    """Return how the canaries of one world end."""
    name, kind, canaries = job
    world, wrong = WORLDS[name]
    plan = PAIRED if kind == "paired" else SINGLE
    if name == COVERED:
        plan = replace(plan, least_label_coverage=0.95)
    began_s = time.monotonic()
    most = (plan.longest_wait_labels or 0) + world.delay + 200
    ends = simulate(world, plan, canaries, SEED, 2 * most)
    row = {
        "world": name,
        "evidence": kind,
        "pass": float((ends.verdict == PASS).mean()),
        "fail": float((ends.verdict == FAIL).mean()),
        "wrong": {_word(v): float((ends.verdict == v).mean()) for v in wrong},
        "skewed": float(ends.skewed.mean()),
        "labels": float(np.median(ends.labels)),
        "seconds": time.monotonic() - began_s,
    }
    print(row, flush=True)
    return row


def _word(verdict: int) -> str:
    return "PASS" if verdict == PASS else "FAIL"


def labels_to_decision(canaries: int) -> list[dict[str, object]]:
    """Return labels to the right verdict at one weight, beside a fixed-horizon test's."""
    rows = []
    for weight, kind in ((50, "paired"), (25, "unpaired"), (50, "unpaired")):
        for stable, candidate, verdict in DECISIONS:
            plan = CanaryPlan(
                weights=(weight,),
                evidence="paired" if kind == "paired" else "unpaired",
                longest_wait_labels=None,
                fail_risk=ALPHA,
                risk=ALPHA,
            )
            margin = 0.0 if verdict == PASS else HARM
            p = None if kind == "paired" else weight / 100
            fixed = fixed_horizon(abs(stable - candidate) - margin, stable, candidate, p)
            world = World(always(stable), always(candidate))
            ends = simulate(world, plan, canaries, SEED + 1, 8 * fixed)
            labels = np.where(ends.verdict == verdict, ends.labels, math.inf)
            row = {
                "evidence": kind,
                "weight_pct": weight,
                "stable": stable,
                "candidate": candidate,
                "verdict": _word(verdict),
                "fixed": fixed,
                "median": float(np.quantile(labels, 0.5, method="lower")),
                "at_power": float(np.quantile(labels, POWER, method="lower")),
                "decided": float(np.isfinite(labels).mean()),
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def fixed_horizon(effect: float, stable: float, candidate: float, p: float | None) -> int:
    """Return the labels that a one-sided z-test of size ALPHA needs for POWER.

    Args:
        effect: Distance of the true difference from the null's.
        stable: Its error rate.
        candidate: Its error rate.
        p: Share of the labels that are the candidate's; None: pairs.
    """
    normal = NormalDist()
    z = normal.inv_cdf(1 - ALPHA) + normal.inv_cdf(POWER)
    of_stable, of_candidate = (e * (1 - e) for e in (stable, candidate))
    variance = of_stable + of_candidate
    if p is not None:
        variance = of_stable / (1 - p) + of_candidate / p
    return math.ceil(z * z * variance / (effect * effect))


WRONG_HEAD = f"""
## Wrong verdicts, with a look after every label

Risk of a wrong PASS and of a wrong FAIL {ALPHA:g} each, acceptable harm {HARM:g}; paired: steps
{PAIRED.weights}, undecided after {PAIRED.longest_wait_labels} labels; unpaired: steps
{SINGLE.weights}, after {SINGLE.longest_wait_labels}. Error .2 where nothing else is said; the two
versions err independently. *Wrong*: verdicts that the tests' nulls exclude. (A PASS while the
candidate was better is none, though it became worse later: that is what probation is for.)
*Skewed*: ended with a count that the sample-ratio test calls skewed, which makes it inconclusive.

| world | evidence | PASS | FAIL | wrong | skewed | median labels |
|---|---|---|---|---|---|---|
"""
LABELS_HEAD = f"""
## Labels to the right verdict

At one weight. *Fixed*: labels of both arms together that a one-sided z-test of the same null needs
for power {POWER:g}, told the true error rates beforehand and looked at once. FAIL is against the
null of a harm of {HARM:g}, so that .1 to .2 has an effect of .05.

| evidence | weight | errors | verdict | fixed | median | 80 % decided by | median / fixed |
|---|---|---|---|---|---|---|---|
"""
METHODS_HEAD = """
## Ways to bet on single answers

Median labels to PASS at one weight, and in brackets the share of wrong PASS without a gain over as
many labels.

"""


def page(found: dict) -> str:  # type: ignore[type-arg]
    """Return the results as Markdown."""
    versions = words(found["machine"])
    text = (
        f"# Canaries\n\nCommand: `make bench-canaries`, {found['canaries']} canaries a world (a "
        f"fifth of that for the labels to a verdict), seed {SEED}.\n{versions}.\n"
    )
    text += WRONG_HEAD
    for row in found["wrong_verdicts"]:
        wrong = ", ".join(f"{name} {share:.4f}" for name, share in row["wrong"].items())
        text += (
            f"| {row['world']} | {row['evidence']} | {row['pass']:.4f} | {row['fail']:.4f} | "
            f"{wrong or '-'} | {row['skewed']:.3f} | {row['labels']:.0f} |\n"
        )
    text += LABELS_HEAD
    for row in found["labels_to_decision"]:
        text += (
            f"| {row['evidence']} | {row['weight_pct']} % | "
            f"{row['stable']:g} to {row['candidate']:g} | {row['verdict']} | {row['fixed']} | "
            f"{row['median']:.0f} | {row['at_power']:.0f} | {row['median'] / row['fixed']:.2f} |\n"
        )
    text += METHODS_HEAD
    text += f"| weight | errors | {' | '.join(METHODS)} |\n|---|---|{'---|' * len(METHODS)}\n"
    for row in found["methods"]:
        cells = [_cell(row["median"][m], row["wrong"][m]) for m in METHODS]
        errors = f"{row['stable']:g} to {row['candidate']:g}"
        text += f"| {100 * row['p']:g} % | {errors} | {' | '.join(cells)} |\n"
    return text + "\n" + "".join(f"- *{name}*: {what}\n" for name, what in METHODS.items())


def _cell(median: float | None, wrong: float) -> str:
    return f"{'-' if median is None else round(median)} ({wrong:.3f})"


def main() -> None:
    """Run, print, and keep the numbers."""
    arguments = options("benchmarks.canaries", __doc__)
    arguments.add_argument("--canaries", type=int, default=10_000, help="per world")
    chosen = arguments.parse_args()
    found = {
        "machine": machine(*SERVICE),
        "canaries": chosen.canaries,
        "seed": SEED,
        "wrong_verdicts": wrong_verdicts(chosen.canaries),
        "labels_to_decision": labels_to_decision(chosen.canaries // 5),
        "methods": compare(min(chosen.canaries, 500), SEED + 2),
    }
    written = page(found)
    print(written)
    if not chosen.print_only:
        keep("canaries", written, found)


if __name__ == "__main__":
    main()
