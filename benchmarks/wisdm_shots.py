"""T7: an unseen user's activities from 1 or 5 labels each: ``python -m benchmarks.wisdm_shots``.

Each seed puts 8 of the 24 users aside, trains on the others as ``metadrift meta-evaluate`` does,
chooses on the users that meta-training kept for validation, and judges on the 8: support from the
earlier half of each activity's windows of a user, query from the later half.

Writes docs/results/wisdm_shots.md and wisdm_shots.json. Needs METADRIFT_DATA.
"""

import time
from typing import Any, cast

import numpy as np

from adapters.baselines import Rivals
from adapters.evaluation_episodes import EpisodeDrawer
from adapters.evaluation_trials import Bench
from adapters.evaluation_tuning import choose
from adapters.meta_settings import MetaTrainData, MetaTrainSettings
from adapters.meta_training import meta_train
from adapters.task_splits import TaskSplit, draw_test_tasks
from benchmarks.few_shot import answer, command, data_of, frame_of, heading, pooled, table, tried
from pipeline.meta_evaluation_run import fitted

SHOTS = (1, 5)
EPISODES, CHOOSING = 60, 8
SETTINGS = MetaTrainSettings(
    algorithms=("maml", "reptile"),
    maml_steps=500,
    reptile_steps=1000,
    validation_fraction=0.25,
    max_seconds=600.0,
    processes=1,
)


def run(seed: int) -> dict[str, Any]:
    """Return the errors on the unseen users of one seed."""
    frame = frame_of("wisdm_users/wisdm_users.csv.xz").sort_values(["user", "window_id"])
    frame["user"] = "user " + frame["user"].astype(str)
    features = [n for n in frame.columns if n not in ("window_id", "user", "activity")]
    data = data_of(frame, "user", "activity", features)
    names = tuple(sorted(set(data.examples.labels)))
    data = MetaTrainData(data.schema, data.examples, data.tasks, names)
    test = draw_test_tasks(data.tasks, 1 / 3, seed)
    settings = fitted(
        MetaTrainSettings(**{n: getattr(SETTINGS, n) for n in SETTINGS.__slots__} | {"seed": seed}),
        data,
        test,
        SHOTS,
    )
    kept = [i for i, name in enumerate(data.tasks) if name not in set(test)]
    known = MetaTrainData(
        data.schema, data.examples.take(kept), tuple(data.tasks[i] for i in kept), names
    )
    init = meta_train(known, settings)
    validation = cast("dict[str, list[str]]", init.info["validation"])["tasks"]
    split = TaskSplit.with_test(data, test, validation)
    split.refuse_trained(init.trained_on, "the meta-init")
    rivals = Rivals.of(init, split, seed)
    bench = Bench(split, init, rivals, time.perf_counter)
    times = np.arange(len(data.examples))  # the frame is in order of user and window
    parts: list[dict[str, Any]] = []
    for shots in SHOTS:
        drawer = EpisodeDrawer(split, test, shots, order="time", times=times)
        picked = choose(rivals, drawer, CHOOSING, seed, lambda *_: None)
        owners, errors = tried(bench, drawer, EPISODES, seed, picked.tuning)
        chosen: dict[str, object] = {t.recipe: [t.lr, t.steps] for t in picked.fine_tuning}
        chosen["support_weight"] = picked.support_weight.weight
        parts.append({"shots": shots, "owners": owners, "chosen": chosen, "errors": errors})
    return {"parts": parts, "support": settings.support, "validation": init.validation}


def page(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        *heading(found, "T7: activities of an unseen user from 1 or 5 labels each"),
        f"{EPISODES} episodes per seed and number of labels, the same for every contestant; each "
        "seed puts 8 of 24 users aside. Support from the earlier half of each activity's windows, "
        "up to 60 query windows from the later halves. Budget: 500 meta-steps of MAML (step sizes "
        "learned), 1,000 of Reptile, joint and last model at least 2,000 steps, all on an MLP "
        "with 64-64; a quarter of the other users chose.",
        "",
        "Accuracy in percent. Differences are points of `maml` above the row, paired by episode; "
        "the 95 % intervals resample users, and in each their episodes. Targets: 3 points above "
        "the best baseline, remarkable 6. Stars are meta-learned.",
        "",
    ]
    for shots in SHOTS:
        errors, owners = pooled(found, shots)
        lines += [
            f"## {shots} label{'s' if shots > 1 else ''} per activity",
            "",
            f"{len(owners)} episodes of {len(set(owners))} users.",
            "",
            "| contestant | accuracy | maml above it |",
            "|---|---|---|",
            *table(errors, owners),
            "",
            answer(errors, owners),
            "",
        ]
    return "\n".join(lines[:-1]) + "\n"


if __name__ == "__main__":
    command("wisdm_shots", run, page, {"episodes": EPISODES, "shots": list(SHOTS)})
