"""From a file of labelled tasks to a meta-init on the shelf and, where there is none, a champion.

The folder work of ``metadrift meta-train``; it prints nothing and calls no server.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from adapters.meta_contest import Contest, contest, large_enough
from adapters.meta_init import MetaInit
from adapters.meta_settings import MetaTrainData, MetaTrainSettings, Progress
from adapters.meta_training import meta_train
from adapters.training import fit_joint
from deploy.registry_records import ModelVersionRecord, Scalar, TrainingRecord
from pipeline import arrivals
from pipeline.data_file import DataFile
from pipeline.file_examples import FileExamples
from pipeline.fold import shelf_of
from pipeline.meta_from_memory import FromMemory, Task, plan
from pipeline.records import ModelsFound
from pipeline.task_examples import TasksBy, task_examples

Tell = Callable[[str, int, int], None]
"""What is being done, how much of it is done, out of how much."""


class MetaRunError(Exception):
    """The file cannot be learned from as it was asked for; says what to do."""


@dataclass(frozen=True, slots=True)
class MetaRunResult:
    """What meta-training left behind.

    Attributes:
        meta_init: The trained starts.
        digest: Of the meta-init on the shelf.
        folder: Where it lies.
        champion: Digest of the jointly trained first champion; empty when none was made.
        champion_loss: Its mean loss on rows that it did not train on; None without a champion.
        examples: Rows learned from.
        left_out: Reason -> rows.
        curves: Loss over steps by algorithm.
        seconds: Wall time of the training.
        settings: As it was trained.
        tasks_by: What told the tasks apart, in words.
        memory: Confirmed tasks that it was trained on.
        contest: How it did against the meta-init in force; None where there was no contest.
    """

    meta_init: MetaInit
    digest: str
    folder: Path
    champion: str
    champion_loss: float | None
    examples: int
    left_out: dict[str, int]
    curves: dict[str, tuple[tuple[int, float], ...]]
    seconds: float
    settings: MetaTrainSettings
    tasks_by: str
    memory: tuple[str, ...] = ()
    contest: Contest | None = None

    @property
    def taken(self) -> bool:
        """Whether it is left for the daemon: nothing was in force, or it won."""
        return self.contest is None or self.contest.wins


@dataclass(slots=True)
class _Curves:
    tell: Tell
    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def report(self, progress: Progress) -> None:
        self.tell(progress.job, progress.step, progress.steps)
        self.points.setdefault(progress.job, []).append((progress.step, progress.loss))


def meta_run(
    file: DataFile,
    settings: MetaTrainSettings,
    state_dir: Path,
    *,
    class_names: tuple[str, ...],
    champion: bool,
    tell: Tell,
    tasks_by: TasksBy = "column",
    shots: int | None = None,
    checkpoints: Path | None = None,
    memory: FromMemory | None = None,
) -> MetaRunResult:
    """Train, store what came of it, and leave it for the daemon's next start.

    With a memory, one that does not beat the meta-init in force is stored and not left.

    Args:
        file: Labelled rows.
        settings: How to meta-train.
        state_dir: Of the model.
        class_names: Order of the outputs; empty means the sorted labels.
        champion: Whether to fit a first champion on all rows.
        tell: Told how far it is.
        tasks_by: What tells tasks apart, unless ``settings.ways`` is set.
        shots: Labels of each class to adapt from, instead of ``settings.support`` without regard
            to class; a task with fewer classes than another has more of each.
        checkpoints: Folder where the training keeps its state, and goes on from; None: nowhere.
        memory: Confirmed tasks to train on as well; None: the file's alone.

    Raises:
        DataFileError: A cell cannot be read, no row can be learned from, or segments are wanted
            of rows that are not in order of time.
        MetaRunError: Labels per class are wanted of numbers.
        MetaTrainingError: Too few tasks (to train on, or to judge), divergence, or a lost worker.
        LeakError: A task or a row is in the file and in the memory.
    """
    began_s = time.monotonic()
    read = task_examples(file, "nothing" if settings.ways else tasks_by)
    found, left_out = read.found, read.left_out
    if shots is not None:
        settings = replace(settings, support=shots * _most_classes(found), by_class=True)
    judges: tuple[Task, ...] = ()
    remembered: tuple[str, ...] = ()
    rows = settings.support + settings.query
    if memory is not None:
        divided = plan(found, memory, settings.seed)
        found, remembered, judges = divided.found, divided.trained, divided.judges
        if memory.old is not None:
            large_enough(judges, rows)
    names = tuple(n for n in class_names if n) if file.task_type == "classification" else ()
    unnamed = sorted(set(found.examples.labels) - set(names))
    names = (*names, *unnamed) if names else ()
    curves = _Curves(tell)
    data = MetaTrainData(file.schema, found.examples, found.tasks, names)
    meta_init = meta_train(data, settings, curves.report, checkpoints=checkpoints)
    outcome: Contest | None = None
    if memory is not None and memory.old is not None:
        tell("contest", 0, 1)
        outcome = contest(
            memory.old,
            meta_init,
            judges,
            support=settings.support,
            query=settings.query,
            seed=settings.seed,
        )
        tell("contest", 1, 1)
    shelf = shelf_of(state_dir)
    digest = shelf.put_meta_init(meta_init)
    model_digest, losses, loss = "", tuple[float, ...](), None
    if champion:
        tell("first champion", 0, 1)
        model = fit_joint(file.schema, found.examples, class_names=names, seed=settings.seed)
        model_digest = shelf.put_model(model)
        losses = tuple(cast("list[float]", model.info["holdout_losses"]))
        loss = cast(float, model.info["holdout_loss"])
        tell("first champion", 1, 1)
    arrivals.announce(
        state_dir,
        ModelsFound(
            champion=model_digest,
            recipe="joint",
            losses=losses,
            meta_init=digest if outcome is None or outcome.wins else "",
            recommended=meta_init.recommended,
        ),
    )
    return MetaRunResult(
        meta_init=meta_init,
        digest=digest,
        folder=shelf.meta_init_folder(digest),
        champion=model_digest,
        champion_loss=loss,
        examples=len(found.examples),
        left_out=left_out,
        curves={job: tuple(points) for job, points in curves.points.items()},
        seconds=time.monotonic() - began_s,
        settings=settings,
        tasks_by=read.by,
        memory=remembered,
        contest=outcome,
    )


def _most_classes(found: FileExamples) -> int:
    """Return how many classes the task with the most of them has."""
    if not found.examples.labels:
        raise MetaRunError("--shots: the labels are numbers and have no classes; give --support")
    classes: dict[str, set[str]] = {}
    for task, label in zip(found.tasks, found.examples.labels, strict=True):
        classes.setdefault(task, set()).add(label)
    return max(len(names) for names in classes.values())


def training_record(model: str, data: Path, result: MetaRunResult, at_ms: int) -> TrainingRecord:
    """Return the run that MLflow is told of."""
    settings = result.settings
    params: dict[str, Scalar] = {
        "data": data.name,
        "tasks": result.tasks_by,
        "digest": result.digest,
        "recommended": result.meta_init.recommended,
        "algorithms": ",".join(settings.algorithms),
        "support": settings.support,
        "by_class": settings.by_class,
        "query": settings.query,
        "ways": settings.ways,
        "seed": settings.seed,
        "max_seconds": settings.max_seconds,
        "module": result.meta_init.architecture.path,
        "validate_every": settings.validate_every,
        "processes": settings.processes,
        "device": settings.device,
        "examples": result.examples,
    }
    metrics = {"seconds": result.seconds}
    if result.memory:
        params["memory"] = ",".join(result.memory)
    if result.contest is not None:
        params |= {"contest.replaces": result.contest.wins, "contest": result.contest.reason}
        metrics |= {
            "contest.old_loss": float(result.contest.old.mean()),
            "contest.new_loss": float(result.contest.new.mean()),
            "contest.p_value": result.contest.p_value,
            "contest.tasks": float(len(result.contest.tasks)),
        }
    for job, table in result.meta_init.validation.items():
        metrics |= _numbers(f"validation.{job}", table)
    if result.champion_loss is not None:
        metrics["champion.holdout_loss"] = result.champion_loss
    curves = {f"{job}.loss": points for job, points in result.curves.items()}
    return TrainingRecord(
        key=f"{model}/meta-train/{result.digest[7:23]}",
        name="meta-training",
        at_ms=at_ms,
        params=params,
        metrics=metrics,
        curves=curves,
    )


def _numbers(prefix: str, value: object) -> dict[str, float]:
    if isinstance(value, bool):
        return {}
    if isinstance(value, int | float):
        return {prefix: float(value)}
    found: dict[str, float] = {}
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= _numbers(f"{prefix}.{key}", inner)
    return found


def version_record(model: str, result: MetaRunResult, at_ms: int) -> ModelVersionRecord:
    """Return the version of the registered meta-init."""
    steps = {name: start.steps for name, start in result.meta_init.starts.items()}
    return ModelVersionRecord(
        key=f"{model}/meta-init/{result.digest[7:23]}",
        run_key=f"{model}/meta-train/{result.digest[7:23]}",
        at_ms=at_ms,
        digest=result.digest,
        recipe="meta-train",
        reason=f"meta-trained on {result.examples} examples; "
        f"{result.meta_init.recommended} did best on unseen tasks; inner steps {steps}",
        facts={"recommended": result.meta_init.recommended},
    )
