"""ANIL's meta-step with the body run once, against the whole network in every inner step.

``python -m benchmarks.anil_step``. Both come to the same gradient (checked first); MAML's second
order step on the same episodes stands beside them. They take turns in one process.

Writes docs/results/anil_step.md and anil_step.json.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from adapters.anil import ANIL
from adapters.inner_loop import TaskLoss, weights_of
from adapters.maml import MAML
from adapters.meta_learner import MetaLearner
from benchmarks.machine import machine
from benchmarks.meta_step import episodes, module_of, timed
from benchmarks.results import keep, measured, options

GRID = (
    *(("8-64-64-2", tasks) for tasks in (4, 16, 64)),
    *(("64-64-64-2", tasks) for tasks in (4, 16)),
    *(("128-256-256-10", tasks) for tasks in (4, 16)),
)
INNER_STEPS, SUPPORT, QUERY = 5, 20, 40
LARGEST_DIFFERENCE = 1e-4  # of the largest entry, in single precision


def measure(size: str, tasks: int, rounds: int) -> dict[str, Any]:
    """Return the row of one size."""
    module, task_type, width = module_of(size)
    batch = episodes(tasks, SUPPORT, QUERY, width, int(size.rsplit("-", maxsplit=1)[-1]))
    apart = TaskLoss.of(module, task_type)
    whole = replace(apart, body=None, head=None)
    generator = torch.Generator()

    def step_of(learner: MetaLearner, loss: TaskLoss) -> Callable[[], None]:
        parameters = learner.start(weights_of(module), generator)

        def step() -> None:
            learner.gradients(loss, parameters, batch, generator)

        return step

    anil = ANIL(INNER_STEPS, 0.1)
    parameters = anil.start(weights_of(module), generator)
    mine, theirs = (
        anil.gradients(loss, parameters, batch, generator)[1] for loss in (apart, whole)
    )
    most = max(float(g.abs().max()) for g in theirs)
    difference = max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True)) / most
    if difference > LARGEST_DIFFERENCE:
        raise RuntimeError(f"{size}: the gradients differ by {difference:.1e}")
    contestants = {
        "body once": step_of(anil, apart),
        "whole network": step_of(anil, whole),
        "MAML": step_of(MAML(INNER_STEPS, 0.1), apart),
    }
    row = {
        "size": size,
        "tasks": tasks,
        "gradient_difference": difference,
        "ms": timed(contestants, rounds, 15.0),
    }
    print(json.dumps(row), flush=True)
    return row


def page(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# ANIL's meta-step",
        "",
        f"{measured(found)}; seeds fixed.",
        "",
        f"Milliseconds of process CPU time of the meta-gradient on one thread (median; all take "
        f"turns): {INNER_STEPS} inner steps, {SUPPORT} support + {QUERY} query. *Body once*: what "
        "ANIL does on our MLP. *Whole network*: the same gradient with the body in every inner "
        "step, as on modules that cannot be taken apart. Below 1 the body once loses.",
        "",
        "| model | tasks | body once | whole network | ratio | MAML, second order |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        ms = row["ms"]
        lines.append(
            f"| {row['size']} | {row['tasks']} | {ms['body once']:.1f} | "
            f"{ms['whole network']:.1f} | {ms['whole network'] / ms['body once']:.1f} | "
            f"{ms['MAML']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the grid, print, and keep the numbers."""
    arguments = options("benchmarks.anil_step", __doc__)
    arguments.add_argument("--rounds", type=int, default=15, help="per size")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    rows = [measure(size, tasks, chosen.rounds) for size, tasks in GRID]
    found = {
        "command": f"python -m benchmarks.anil_step --rounds {chosen.rounds}",
        "machine": machine("torch", "scikit-learn", "numpy"),
        "load": [before, os.getloadavg()[0]],
        "rows": rows,
    }
    written = page(found)
    print(written)
    if not chosen.print_only:
        keep("anil_step", written, found, indent=1)


if __name__ == "__main__":
    main()
