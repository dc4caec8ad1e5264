"""The Omniglot benchmark: its split on the real characters, and what its page says."""

import numpy as np

from adapters.image_tasks import with_rotations
from adapters.task_splits import refuse_common
from benchmarks.omniglot import EPISODES, FIRST, SEEDS, SIDE, characters, page, rows_of, split
from tests.pipeline.data_sets import data_set


def test_the_last_eight_alphabets_judge_and_share_nothing_with_the_rest() -> None:
    data_set("omniglot/omniglot28_background.npz.xz")
    classes, alphabets = characters()
    assert len(classes) == 964 and len(set(alphabets)) == 30
    assert {task.inputs.shape for task in classes.tasks} == {(20, SIDE * SIDE)}
    training, validation, judging = split(classes, alphabets)
    of = dict(zip(classes.names, alphabets, strict=True))
    parts = [{of[name] for name in part.names} for part in (training, validation, judging)]
    assert [len(part) for part in parts] == [19, 3, 8]
    assert max(parts[0]) < min(parts[1]) and max(parts[1]) < min(parts[2])
    refuse_common(
        {
            "meta-train": with_rotations(training, SIDE),
            "meta-validation": validation,
            "meta-test": judging,
        }
    )


def test_the_page_says_what_was_missed_and_who_is_better() -> None:
    random, n = np.random.default_rng(0), SEEDS * EPISODES
    good = np.clip(random.normal(0.95, 0.03, n), 0, 1)
    accuracies = {FIRST: good.tolist(), "another": (good - 0.2).tolist()}
    assert (
        rows_of(accuracies)[1].startswith("| another | 7") and "+20.0 [" in rows_of(accuracies)[1]
    )
    facts = {"prototypes": {"steps": 9, "cpu_s": 60.0, "validated": [(3, 0.5), (6, 0.7), (9, 0.7)]}}
    found = {
        "command": "python -m benchmarks.omniglot",
        "machine": {"cores": "2"},
        "load": [0.0, 1.0],
        "result": {"training": facts, "classes": [1, 4, 2, 3], "accuracies": {"5": accuracies}},
    }
    written = page(found)
    assert "5-way 1-shot (target 97, **missed by" in written
    assert "step 6, the best of 3 looks" in written
