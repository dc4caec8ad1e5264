"""From a file of labelled tasks to the answer whether meta-learning is worth it there.

Test tasks are put aside before anything is trained; the folder work of ``metadrift
meta-evaluate``. It prints nothing and calls no server.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from adapters.evaluation_results import MetaEvaluation, TrainingCost
from adapters.meta_evaluation import EvaluationSettings, meta_evaluate
from adapters.meta_settings import MetaTrainData, MetaTrainSettings, Progress
from adapters.meta_step_costs import meta_step_peaks
from adapters.meta_training import meta_train
from adapters.task_splits import TaskSplit, draw_test_tasks
from deploy.registry_records import Scalar, TrainingRecord
from pipeline.data_file import DataFile, DataFileError
from pipeline.report.evaluation_document import (
    DataRead,
    EvaluationDocument,
    MetaTrained,
    ToldMLflow,
)
from pipeline.task_examples import TasksBy, task_examples

Tell = Callable[[str, int, int], None]
"""What is being done, how much of it is done, out of how much."""


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """How to train and judge.

    Attributes:
        evaluation: How to judge.
        training: How to train; support and query are fitted to shots and task sizes.
        test_tasks: Tasks that judge; empty: draw ``test_fraction`` of them.
        test_fraction: Share of the tasks, in (0, 1).
        tasks_by: What tells tasks apart.
    """

    evaluation: EvaluationSettings
    training: MetaTrainSettings
    test_tasks: tuple[str, ...] = ()
    test_fraction: float = 0.3
    tasks_by: TasksBy = "column"


def evaluate_file(file: DataFile, plan: EvaluationPlan, tell: Tell) -> EvaluationDocument:
    """Train on all tasks but the test tasks, judge on those.

    Args:
        file: Labelled rows with a task column, or in the order in which they happened.
        plan: How.
        tell: Told how far it is.

    Raises:
        DataFileError: A cell, a column or a named test task cannot be used.
        MetaTrainingError: Too few tasks are left to train on.
        LeakError: Test tasks share rows or groups with the others.
        ValueError: No test task has enough rows.
    """
    began_s = time.monotonic()
    read = task_examples(file, plan.tasks_by)
    found, left_out = read.found, read.left_out
    names = tuple(sorted(set(found.examples.labels)))
    data = MetaTrainData(file.schema, found.examples, found.tasks, names)
    test = plan.test_tasks or draw_test_tasks(found.tasks, plan.test_fraction, plan.training.seed)
    _require_tasks(file, test, found.tasks)
    TaskSplit.with_test(data, test, ())  # a leak is refused before anything is trained
    train_s = time.monotonic()
    training = fitted(plan.training, data, test, plan.evaluation.shots)
    judges = set(test)
    kept = [i for i, name in enumerate(found.tasks) if name not in judges]
    known = MetaTrainData(
        file.schema, found.examples.take(kept), tuple(found.tasks[i] for i in kept), names
    )

    seconds: dict[str, float] = {}

    def report(progress: Progress) -> None:
        seconds[progress.job] = progress.seconds
        tell(f"meta-training {progress.job}", progress.step, progress.steps)

    init = meta_train(known, training, report)
    trained_s = time.monotonic() - train_s
    used = {part: _tasks_of(init.info[part]) for part in ("train", "validation")}
    split = TaskSplit(data, tuple(used["train"]), tuple(used["validation"]), test)
    peaks = meta_step_peaks(split, init, training)
    evaluation = meta_evaluate(split, init, plan.evaluation, times=found.times_ms, tell=tell)
    return EvaluationDocument(
        data=DataRead(
            file=file.path.name,
            label=file.columns.label or "",
            task=read.by,
            time=file.columns.time,
            rows=len(found.examples),
            left_out=left_out,
        ),
        training=MetaTrained(
            algorithms=[str(name) for name in init.starts],
            train_tasks=used["train"],
            validation_tasks=used["validation"],
            left_out=[str(name) for name in cast("list[str]", init.info["left_out"])],
            support=training.support,
            query=training.query,
            seconds=round(trained_s, 3),
            costs=[TrainingCost(name, seconds[name], peak) for name, peak in peaks.items()],
            cut_short=[
                str(job) for job in cast("list[str]", init.info["cut_short"]) if job in init.starts
            ],
        ),
        order=plan.evaluation.order,
        query=plan.evaluation.query,
        evaluation=evaluation,
        seconds=round(time.monotonic() - began_s, 3),
        mlflow=ToldMLflow(),
    )


def fitted(
    training: MetaTrainSettings, data: MetaTrainData, test: tuple[str, ...], shots: tuple[int, ...]
) -> MetaTrainSettings:
    """Return the settings with support and query that suit the shots and the training tasks.

    Support: labels in all at the geometric middle of the shots, times the classes that a task has
    in the middle, at most half of a small task. Query: up to 40 of the other rows of a small task.
    A small task is one that nine in ten tasks are not smaller than.
    """
    classes: dict[str, set[str]] = {}
    judges = set(test)
    rows = Counter(name for name in data.tasks if name not in judges)
    for name, label in zip(data.tasks, data.examples.labels, strict=bool(data.examples.labels)):
        if name in rows:
            classes.setdefault(name, set()).add(label)
    per = int(np.median([len(found) for found in classes.values()])) if classes else 1
    small = int(np.quantile(list(rows.values()), 0.1, method="lower")) if rows else 2
    middle = max(1, round(float(np.exp(np.mean(np.log(shots))))))
    support = max(1, min(middle * per, small // 2))
    return replace(training, support=support, query=max(1, min(40, small - support)))


def evaluation_record(model: str, document: EvaluationDocument, at_ms: int) -> TrainingRecord:
    """Return the run that MLflow is told of."""
    found = document.evaluation
    params: dict[str, Scalar] = {
        "data": document.data.file,
        "label": document.data.label,
        "task": document.data.task,
        "order": document.order,
        "shots": ",".join(str(verdict.shots) for verdict in found.verdicts),
        "episodes": found.scores[0].episodes,
        "query": document.query,
        "meta_support": document.training.support,
        "meta_query": document.training.query,
        "target": found.target,
        "test_tasks": len(found.test_tasks),
        "train_tasks": len(document.training.train_tasks),
        "algorithms": ",".join(document.training.algorithms),
        "recipe": found.recipe,
        "metric": found.metric,
        "verdict": found.verdict,
        "seed": found.seed,
        **{f"digest.{part}": digest for part, digest in found.digests.items()},
    }
    metrics = {"seconds": document.seconds}
    curves = {}
    for score in found.scores:
        prefix = f"{score.shots}-shot.{score.recipe}"
        metrics[f"{prefix}.score"] = score.score
        metrics |= {f"{prefix}.low": score.low, f"{prefix}.high": score.high}
        if score.seconds is not None:
            metrics[f"{prefix}.seconds"] = score.seconds
        if score.peak_bytes is not None:
            metrics[f"{prefix}.peak_bytes"] = score.peak_bytes
        if score.curve:
            curves[prefix] = tuple((point.steps, point.score) for point in score.curve)
    for gain in found.gains:
        over = f"{gain.shots}-shot.{gain.recipe}.over.{gain.baseline}"
        metrics |= {over: gain.gain, f"{over}.low": gain.low, f"{over}.high": gain.high}
    for cost in (*document.training.costs, *found.training_costs):
        metrics[f"training.{cost.recipe}.seconds"] = cost.seconds
        if cost.peak_bytes is not None:
            metrics[f"training.{cost.recipe}.peak_bytes"] = cost.peak_bytes
    return TrainingRecord(
        key=f"{model}/meta-evaluate/{_digest(found)}",
        name="meta-evaluation",
        at_ms=at_ms,
        params=params,
        metrics=metrics,
        curves=curves,
    )


def _digest(found: MetaEvaluation) -> str:
    return hashlib.sha256(msgspec.json.encode(found)).hexdigest()[:16]


def write_evaluation(folder: Path, document: EvaluationDocument) -> tuple[Path, ...]:
    """Write ``meta-evaluation.json``, ``.png`` and, the tables, ``.txt``; return their paths.

    The folder must exist.
    """
    from pipeline.report.evaluation_picture import draw_evaluation
    from pipeline.report.evaluation_table import evaluation_text

    picture, tables = folder / "meta-evaluation.png", folder / "meta-evaluation.txt"
    draw_evaluation(picture, document.evaluation, f"{document.data.file}: tasks never seen")
    tables.write_text(evaluation_text(document), encoding="utf-8")
    return write_document(folder, document), picture, tables


def write_document(folder: Path, document: EvaluationDocument) -> Path:
    """Write ``meta-evaluation.json``; return its path."""
    written = folder / "meta-evaluation.json"
    written.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    return written


def _require_tasks(file: DataFile, test: tuple[str, ...], tasks: tuple[str, ...]) -> None:
    there = set(tasks)
    for name in test:
        if name not in there:
            known = sorted(there)
            shown = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
            raise DataFileError(
                file.path.name,
                "is no task with labelled rows (--test-tasks)",
                f"choose from: {shown}",
                column=file.columns.task,
                value=name,
            )


def _tasks_of(part: object) -> list[str]:
    return [str(name) for name in cast("dict[str, list[str]]", part)["tasks"]]
