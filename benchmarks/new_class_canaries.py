"""Part of ``make bench-canaries``: canaries of candidates that name a new class.

What is compared: the mean over all labels alone, and beside it the old classes and the new one
apart (``deploy.class_evidence``). Writes docs/results/new_class_canaries.json and
new_class_canaries.md.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.canary_bound import wealth
from benchmarks.canary_simulation import Floats
from benchmarks.machine import SERVICE, machine
from benchmarks.results import keep, options, words
from deploy.class_evidence import LEAST_RECALL
from deploy.rollout_plan import CanaryPlan

SEED = 12
PLAN = CanaryPlan()
MOST = 1000
"""Labels after which a canary has expired (``rollout.longest_wait_labels``)."""
NEW_SHARE, RECALL = 1 / 6, 0.9
"""Share of the labels that are of the new class, and how many of those the candidate names."""
HOLDOUT = (20, 5)
"""Labels of the gate's holdout that count beforehand: of old classes, of the new one."""
HARMS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
BLOCK = 500


def drawn(
    rng: np.random.Generator, canaries: int, harm: float, recall: float
) -> tuple[NDArray[np.bool_], Floats]:
    """Return which labels are of the new class, and the gains; the holdout's come first."""
    shape = (canaries, sum(HOLDOUT) + MOST)
    new = rng.random(shape) < NEW_SHARE
    new[:, : sum(HOLDOUT)] = np.arange(sum(HOLDOUT)) >= HOLDOUT[0]
    broken = rng.random(shape) < harm
    named = rng.random(shape) < recall
    return new, np.where(new, named, np.where(broken, -1.0, 0.0)).astype(np.float64)


def ends(new: NDArray[np.bool_], gains: Floats, *, apart: bool) -> NDArray[np.int64]:
    """Return at which label each canary passes, minus that at which it fails, or 0.

    Args:
        new: ``(canaries, labels)``: of the new class.
        gains: ``(canaries, labels)``: the stable version's loss minus the candidate's.
        apart: Whether old and new classes are judged apart, too.
    """
    before, harm = sum(HOLDOUT), PLAN.acceptable_harm
    seen = gains[:, before:]
    better = wealth("six stakes", seen, 0.0, 0.0) >= -np.log(PLAN.risk)
    risk = PLAN.fail_risk / (2 if apart else 1)
    worse = wealth("six stakes", -seen, harm, 0.0) >= -np.log(risk)
    if apart:
        known = np.where(new, -harm, gains)  # at the margin nothing is won or lost
        safe = wealth("six stakes", known, -harm, 0.0)[:, before:]
        hurt = wealth("six stakes", np.where(new, harm, -gains), harm, 0.0)[:, before:]
        scaled = (gains - LEAST_RECALL) / LEAST_RECALL
        named = wealth("six stakes", np.where(new, scaled, 0.0), 0.0, 0.0)[:, before:]
        bound = -np.log(PLAN.step_risk)
        better &= (safe >= bound) & (named >= bound)
        worse |= hurt >= -np.log(risk)
    better &= np.arange(MOST) + 1 >= PLAN.least_labels
    passed, failed = (
        np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, MOST + 1) for hit in (better, worse)
    )
    found = np.where(failed <= passed, -failed, passed)
    return np.where(np.abs(found) > MOST, 0, found).astype(np.int64)


def simulated(canaries: int) -> list[dict[str, Any]]:
    """Return one row per harm, and one for a candidate that does not name the new class."""
    rng, rows = np.random.default_rng(SEED), []
    for harm, recall in [(h, RECALL) for h in HARMS] + [(0.0, 0.4)]:
        row: dict[str, Any] = {"harm": harm, "recall": recall}
        found: dict[bool, list[NDArray[np.int64]]] = {False: [], True: []}
        for _ in range(0, canaries, BLOCK):
            new, gains = drawn(rng, BLOCK, harm, recall)
            for apart, parts in found.items():
                parts.append(ends(new, gains, apart=apart))
        for apart, parts in found.items():
            at = np.concatenate(parts)
            passed = at[at > 0]
            row["apart" if apart else "mean"] = {
                "promoted": float((at > 0).mean()),
                "rolled_back": float((at < 0).mean()),
                "median": float(np.median(passed)) if len(passed) else None,
                "p90": float(np.quantile(passed, 0.9)) if len(passed) else None,
            }
        print(row, flush=True)
        rows.append(row)
    return rows


HEAD = f"""
A candidate names a new class, of which {NEW_SHARE:.0%} of the labels are, and is wrong on some events of
the old classes that were answered rightly before (harm). Pairs of losses, default settings
(`acceptable_harm` {PLAN.acceptable_harm:g}, `risk` {PLAN.risk:g}, `step_risk` {PLAN.step_risk:g}, `fail_risk` {PLAN.fail_risk:g}), a look after every label, {MOST} labels
at most. *In the mean*: one test over all labels, as for every other candidate. *Apart*: beside it
the labels of the old classes must exclude a harm of {PLAN.acceptable_harm:g}, and the new class must be named more often
than not; {HOLDOUT[0]} and {HOLDOUT[1]} labels of the gate's holdout count. Labels are those to the promotion.

| harm to old classes | recall of the new | in the mean: promoted | rolled back | labels, median (p90) | apart: promoted | rolled back | labels, median (p90) |
|---|---|---|---|---|---|---|---|
"""  # noqa: E501 - a table


def page(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    facts = words(found["machine"])
    text = "# Canaries of candidates that name a new class\n\n"
    text += f"Command: `python -m benchmarks.new_class_canaries`, {found['canaries']} canaries a "
    text += f"row, seed {SEED}.\n{facts}.\n" + HEAD
    for row in found["rows"]:
        cells = [f"{row['harm']:g}", f"{row['recall']:g}"]
        for way in ("mean", "apart"):
            seen = row[way]
            cells += [f"{seen['promoted']:.3f}", f"{seen['rolled_back']:.3f}"]
            few = seen["median"] is None
            cells.append("-" if few else f"{seen['median']:.0f} ({seen['p90']:.0f})")
        text += f"| {' | '.join(cells)} |\n"
    return text


def main() -> None:
    """Run, print, and keep the numbers."""
    arguments = options("benchmarks.new_class_canaries", __doc__)
    arguments.add_argument("--canaries", type=int, default=4000, help="per row")
    chosen = arguments.parse_args()
    found = {
        "machine": machine(*SERVICE),
        "canaries": chosen.canaries,
        "seed": SEED,
        "rows": simulated(chosen.canaries),
    }
    written = page(found)
    print(written)
    if not chosen.print_only:
        keep("new_class_canaries", written, found)


if __name__ == "__main__":
    main()
