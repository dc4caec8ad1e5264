"""What the benchmarks of few labels on real tables share: data, trials, and the page.

Contestants are the product's own: ``adapters.evaluation_trials.Bench`` runs the starts and the
baselines as ``metadrift meta-evaluate`` does, on the same episodes.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from adapters.baselines import BASELINES
from adapters.evaluation_episodes import EpisodeDrawer
from adapters.evaluation_trials import Bench, Trials, Tuning
from adapters.evaluation_verdict import bootstrap_interval
from adapters.meta_settings import MetaTrainData
from adapters.task_frames import data_of_frame, schema_of_frame, tasks_by_columns
from benchmarks.machine import machine
from benchmarks.results import keep, measured, options

ROOT = Path(__file__).parent.parent
OWN = ("maml", "reptile")
FIRST = "maml"
"""The start that the differences are of: named before anything was run."""


def frame_of(name: str) -> pd.DataFrame:
    """Return a data set of the folder METADRIFT_DATA; says what to do where there is none."""
    folder = Path(os.environ.get("METADRIFT_DATA", ROOT.parent / "shared" / "data"))
    path = folder / name
    if not path.is_file():
        raise SystemExit(f"{path} is not there: set METADRIFT_DATA to the folder of the data sets")
    return pd.read_csv(path)


def data_of(frame: pd.DataFrame, task: str, label: str, features: list[str]) -> MetaTrainData:
    """Return the frame's rows, task after task, in the frame's order within each."""
    tasks = tasks_by_columns(frame, [task])
    return data_of_frame(frame, tasks, schema_of_frame(frame, features), label=label)


def tried(
    bench: Bench, drawer: EpisodeDrawer, episodes: int, seed: int, tuning: Tuning
) -> tuple[list[str], dict[str, list[float]]]:
    """Return each episode's task, and the mean query errors by contestant; a failure is wrong."""
    names = [*OWN, *BASELINES]
    trials, owners = {name: Trials() for name in names}, []
    for episode in drawer.draw(episodes, seed):
        owners.append(episode.task)
        for name in names:
            bench.tried(name, episode, tuning, trials[name])
    return owners, {
        name: np.nan_to_num(np.array(trial.errors), nan=1.0).round(5).tolist()
        for name, trial in trials.items()
    }


def table(errors: Mapping[str, Sequence[float]], owners: Sequence[str]) -> list[str]:
    """Return Markdown rows, best first, with paired differences of ``FIRST`` over each.

    Args:
        errors: Contestant -> error of each episode.
        owners: What is resampled, one per episode; in each, its episodes.
    """
    which = np.unique(np.array(owners), return_inverse=True)[1].astype(np.intp)
    each = {name: np.array(values) for name, values in errors.items()}
    rows = []
    for name in sorted(each, key=lambda name: (float(each[name].mean()), name)):
        gap = "-"
        if name != FIRST:
            better = each[name] - each[FIRST]
            low, high = bootstrap_interval(better, which, 0)
            gap = f"{100 * better.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        star = " *" if name in OWN else ""
        rows.append(f"| {name}{star} | {100 * (1 - each[name].mean()):.1f} | {gap} |")
    return rows


def answer(errors: Mapping[str, Sequence[float]], owners: Sequence[str]) -> str:
    """Return who wins, ``FIRST`` or the best baseline on these episodes, and whether it is sure."""
    which = np.unique(np.array(owners), return_inverse=True)[1].astype(np.intp)
    each = {name: np.array(values) for name, values in errors.items()}
    best = min(BASELINES, key=lambda name: (float(each[name].mean()), name))
    better = each[best] - each[FIRST]
    low, high = bootstrap_interval(better, which, 0)
    size = f"{100 * better.mean():+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    if low > 0:
        return f"`{FIRST}` wins: {size} over the best baseline, `{best}`."
    if high < 0:
        return f"**A baseline wins**: `{FIRST}` is {size} against `{best}`."
    return f"**Neither wins**: `{FIRST}` is {size} against the best baseline, `{best}`."


def command(
    name: str,
    run: Callable[[int], dict[str, Any]],
    page: Callable[[dict[str, Any]], str],
    facts: Mapping[str, object],
) -> None:
    """Run the seeds, and after each write ``docs/results/<name>.md`` and ``.json``.

    Args:
        name: Of the module in benchmarks/.
        run: Seed -> its results.
        page: All results as Markdown.
        facts: Settings that belong into the results.
    """
    arguments = options(f"benchmarks.{name}")
    arguments.add_argument("--seeds", type=int, default=10, help="0 .. SEEDS - 1")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    before, results = os.getloadavg()[0], []
    for seed in range(chosen.seeds):
        began = time.process_time()
        results.append({"seed": seed, **run(seed)})
        results[-1]["cpu_s"] = round(time.process_time() - began, 1)
        found = {
            "command": f"python -m benchmarks.{name} --seeds {seed + 1}",
            "machine": machine("torch", "scikit-learn", "numpy"),
            "load": [before, os.getloadavg()[0]],
            **facts,
            "results": results,
        }
        written = page(found)
        print(written, flush=True)
        if not chosen.print_only:  # after every seed: a run that is stopped leaves what it has
            keep(name, written, found, indent=1)


def heading(found: Mapping[str, Any], title: str) -> list[str]:
    """Return the first lines of a page: title, command, machine, load, CPU time."""
    spent = [result["cpu_s"] for result in found["results"] if "cpu_s" in result]
    return [
        f"# {title}",
        "",
        f"{measured(found)}; "
        f"{sum(spent) / 60:.0f} minutes of CPU time on one thread, seeds 0 to {len(spent) - 1}.",
        "",
    ]


def pooled(found: Mapping[str, Any], shots: int) -> tuple[dict[str, list[float]], list[str]]:
    """Return the errors of all seeds by contestant, and the ``owner`` of each episode."""
    errors: dict[str, list[float]] = {}
    owners: list[str] = []
    for result in found["results"]:
        for part in result["parts"]:
            if part["shots"] != shots:
                continue
            owners += part["owners"]
            for name, values in part["errors"].items():
                errors.setdefault(name, []).extend(values)
    return errors, owners
