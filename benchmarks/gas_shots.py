"""T6: the next batch of ageing gas sensors from one label per gas.

``python -m benchmarks.gas_shots``. For batch b in 2 .. 6 everything is trained on batches before b
alone, and everything that is chosen (inner steps and step size of the starts, fine-tuning, the
weight of the support) is chosen by how the models trained before batch b - 1 did on batch b - 1;
for b = 2, where there is nothing to choose by, the usual settings hold. A meta-training task is
one earlier batch. Each episode takes one row of
every gas of batch b as support and judges on 60 others.

Writes docs/results/gas_shots.md and gas_shots.json. Needs METADRIFT_DATA.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from adapters.baselines import Rivals
from adapters.evaluation_episodes import EpisodeDrawer
from adapters.evaluation_trials import Bench, Tuning
from adapters.evaluation_tuning import choose
from adapters.feature_schema import Preprocessor
from adapters.joint import FINE_TUNE
from adapters.meta_init import Algorithm, MetaInit, Start
from adapters.meta_loops import MetaTrained, train
from adapters.meta_plan import learner_of, plan_of
from adapters.meta_settings import MetaTrainData, MetaTrainSettings
from adapters.meta_validation import ValidationEpisodes, validate
from adapters.model_file import Architecture
from adapters.modules import initialise
from adapters.pooled_regression import USUAL_WEIGHT
from adapters.recipes import MLP_PATH
from adapters.task_splits import TaskSplit
from adapters.tasks import TaskSampler, tasks_from_column
from benchmarks.few_shot import answer, command, data_of, frame_of, heading, pooled, table, tried

BATCHES = ("1", "2", "3", "4", "5", "6")
EPISODES, CHOOSING = 12, 6
SETTINGS = MetaTrainSettings(
    algorithms=("maml", "reptile"), support=6, query=40, maml_steps=300, reptile_steps=600
)
NAMES: tuple[Algorithm, ...] = ("maml", "reptile")
USUAL_STEPS: Mapping[Algorithm, int] = {
    "maml": SETTINGS.inner_steps,
    "reptile": SETTINGS.reptile_inner_steps,
}


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What came of the batches before one: starts without a choice of steps, and the baselines."""

    module: nn.Module
    preprocessor: Preprocessor
    starts: dict[Algorithm, MetaTrained]
    init: MetaInit
    rivals: Rivals


def sampler(data: MetaTrainData, preprocessor: Preprocessor, tasks: tuple[str, ...]) -> TaskSampler:
    """Return episodes of whole batches."""
    rows = np.flatnonzero(np.isin(np.array(data.tasks), tasks))
    chosen = data.examples.take(rows)
    index = {name: i for i, name in enumerate(data.class_names)}
    return TaskSampler(
        tasks_from_column(
            torch.from_numpy(preprocessor.encode(chosen.rows)),
            torch.tensor([index[label] for label in chosen.labels]),
            tuple(data.tasks[i] for i in rows.tolist()),
            chosen.keys,
        )
    )


def trained_before(data: MetaTrainData, batch: int, seed: int) -> Trained:
    """Return everything trained on the batches before ``batch``."""
    before, after = BATCHES[:batch], BATCHES[batch:]
    split = TaskSplit(data, before, (), after)
    rows = split.train_rows
    preprocessor = Preprocessor.fit(data.schema, data.examples.take(rows).rows)
    architecture = Architecture(
        MLP_PATH, {"inputs": preprocessor.d, "hidden": [64, 64], "outputs": len(data.class_names)}
    )
    module, settings = initialise(architecture, seed), replace(SETTINGS, seed=seed)
    source = sampler(data, preprocessor, before)
    starts = {
        name: train(
            learner_of(name, settings), module, "classification", source, plan_of(name, settings)
        )
        for name in NAMES
    }
    init = MetaInit(
        architecture=architecture,
        schema=data.schema,
        preprocessor=preprocessor,
        task_type="classification",
        class_names=data.class_names,
        target_mean=0.0,
        target_std=1.0,
        starts={n: Start(n, s.weights, s.step_sizes, USUAL_STEPS[n]) for n, s in starts.items()},
        joint={},
        recommended=NAMES[0],
        validation={},
        trained_on=np.unique(data.examples.keys[rows]),
    )
    return Trained(module, preprocessor, starts, init, Rivals.of(init, split, seed))


def chosen_by(
    data: MetaTrainData, earlier: Trained, batch: int, seed: int
) -> tuple[dict[Algorithm, tuple[int, float]], Tuning, dict[str, object]]:
    """Return steps and factor per start, the baselines' tuning, and both as a table.

    ``earlier`` was trained before batch ``batch - 1``, which chooses for ``batch``.
    """
    judge = BATCHES[batch - 1]
    episodes = ValidationEpisodes.draw(
        sampler(data, earlier.preprocessor, (judge,)), SETTINGS.support, SETTINGS.query, 48, seed
    )
    steps: dict[Algorithm, tuple[int, float]] = {}
    for name, start in earlier.starts.items():
        found = validate(name, earlier.module, "classification", start, episodes).table
        steps[name] = cast(int, found["steps"]), cast(float, found["step_size_factor"])
    split = TaskSplit(data, BATCHES[: batch - 1], (judge,), BATCHES[batch:])
    drawer = EpisodeDrawer(split, BATCHES[batch : batch + 1], 1)
    picked = choose(earlier.rivals, drawer, CHOOSING, seed, lambda *_: None)
    shown: dict[str, object] = {t.recipe: [t.lr, t.steps] for t in picked.fine_tuning}
    shown["support_weight"] = picked.support_weight.weight
    shown |= {str(name): list(choice) for name, choice in steps.items()}
    return steps, picked.tuning, shown


def run(seed: int) -> dict[str, Any]:
    """Return the errors of batches 2 to 6 under one seed."""
    frame = frame_of("gas_drift/gas_drift_b1-6.csv.xz")
    frame["batch"] = frame["batch"].astype(str)
    features = [name for name in frame.columns if name[0] == "f" and name[1:].isdigit()]
    data = data_of(frame, "batch", "gas", features)
    names = tuple(sorted(set(data.examples.labels)))
    data = MetaTrainData(data.schema, data.examples, data.tasks, names)
    parts: list[dict[str, Any]] = []
    earlier: Trained | None = None
    for batch in range(1, len(BATCHES)):
        now = trained_before(data, batch, seed)
        tuning = Tuning(dict.fromkeys(("joint_fine_tuned", "last_fine_tuned"), FINE_TUNE), 1.0)
        tuning, shown = replace(tuning, support_weight=USUAL_WEIGHT), dict[str, object]()
        init = now.init
        if earlier is not None:
            steps, tuning, shown = chosen_by(data, earlier, batch, seed)
            starts: dict[str, Start] = {
                name: Start(
                    name,
                    start.weights,
                    {n: size * steps[name][1] for n, size in start.step_sizes.items()},
                    steps[name][0],
                )
                for name, start in now.starts.items()
            }
            init = replace(init, starts=starts)
        split = TaskSplit(data, BATCHES[:batch], (), BATCHES[batch : batch + 1])
        bench = Bench(split, init, replace(now.rivals, init=init), time.perf_counter)
        _, errors = tried(bench, EpisodeDrawer(split, split.test, 1), EPISODES, seed, tuning)
        parts.append(
            {
                "shots": 1,
                "batch": BATCHES[batch],
                "owners": [f"seed {seed}"] * EPISODES,
                "chosen": shown,
                "errors": errors,
            }
        )
        earlier = now
    return {"parts": parts}


def page(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    errors, owners = pooled(found, 1)
    lines = [
        *heading(found, "T6: gas sensors, the next batch from one label per gas"),
        f"{EPISODES} episodes per batch and seed, {len(owners)} in all, the same for every "
        "contestant: one labelled row of every gas of the batch, judged on 60 others. Trained on "
        "earlier batches alone; what is to be chosen is chosen on the batch before (batch 2: the "
        "usual settings). Budget: 300 meta-steps of MAML (step sizes learned, 16 tasks, 5 inner "
        "steps), 600 of Reptile, joint and last model at least 2,000 steps, all on an MLP "
        "128-64-64-6.",
        "",
        "Accuracy in percent, mean over batches 2 to 6. Differences are points of `maml` above the "
        "row, paired by episode; the 95 % intervals resample seeds, and in each its episodes: they "
        "say nothing of other sensors. Targets: 93.0, remarkable 95.0. Stars are meta-learned.",
        "",
        "| contestant | accuracy | maml above it |",
        "|---|---|---|",
        *table(errors, owners),
        "",
        answer(errors, owners),
        "",
        "## By batch",
        "",
        "| contestant | " + " | ".join(f"batch {b}" for b in BATCHES[1:]) + " |",
        "|---|" + "---|" * (len(BATCHES) - 1),
    ]
    for name in sorted(errors, key=lambda name: (float(np.mean(errors[name])), name)):
        cells = []
        for batch in BATCHES[1:]:
            mine = [
                value
                for result in found["results"]
                for part in result["parts"]
                if part["batch"] == batch
                for value in part["errors"][name]
            ]
            cells.append(f"{100 * (1 - float(np.mean(mine))):.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command("gas_shots", run, page, {"episodes": EPISODES})
