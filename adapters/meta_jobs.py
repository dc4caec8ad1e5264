"""One process's share of meta-training, as values: arrays in, packed tensors and tables out."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.inner_loop import TaskLoss, one_thread
from adapters.joint import JointSettings, train_jointly
from adapters.meta_init import Algorithm, Start
from adapters.meta_loops import Checkpoint, Clock, Surroundings, train
from adapters.meta_plan import learner_of, plan_of
from adapters.meta_settings import MetaTrainSettings, Progress, Report
from adapters.meta_validation import (
    ValidationEpisodes,
    fine_tuned_joint,
    loss_in_training,
    loss_once_adapted,
    validate,
)
from adapters.model_file import Architecture, TaskType, pack_artifact, unpack_artifact
from adapters.modules import initialise
from adapters.task_groups import TaskGroup
from adapters.tasks import Batch, EpisodeSource, NWayTasks, TaskData, TaskSampler, TaskSet

JobName: TypeAlias = Algorithm | Literal["rival"]
"""An algorithm, or ``rival``: joint training by epochs, whose start is not asked for."""

_COST: dict[JobName, int] = {
    **{"maml": 6, "meta-sgd": 3, "anil": 5, "fomaml": 4},
    **{"reptile": 4, "joint": 3, "rival": 2},
}
_JOINT = JointSettings(batch=256, most_epochs=12, patience=3)
_LOOKS = 20  # at the meta-validation loss, over the whole of joint training
_CHECKPOINT_EVERY = 100  # meta-steps


@dataclass(frozen=True, slots=True, eq=False)
class ArrayTask:
    """A ``TaskData`` as arrays, which cross to another process by value."""

    name: str
    inputs: NDArray[np.float32]
    targets: NDArray[np.float32] | NDArray[np.int64]
    keys: NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What one process does.

    Attributes:
        jobs: In this order.
        architecture: Of every start.
        task_type: ``classification`` or ``regression``.
        train: Tasks (N-way: classes) to train on.
        validation: Tasks (N-way: classes) that train nothing.
        settings: Of the whole training.
        checkpoints: Folder where each algorithm keeps its state and goes on from; None: nowhere.
    """

    jobs: tuple[JobName, ...]
    architecture: Architecture
    task_type: TaskType
    train: tuple[ArrayTask, ...]
    validation: tuple[ArrayTask, ...]
    settings: MetaTrainSettings
    checkpoints: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class JobResult:
    """A start, or plain weights (``rival``), and what was measured."""

    start: Start | None
    weights: dict[str, Tensor]
    loss: float
    table: dict[str, object]


def shares_of(jobs: tuple[JobName, ...], processes: int) -> list[tuple[JobName, ...]]:
    """Return the jobs of each process: longest first, each to the least busy.

    >>> shares_of(("maml", "reptile", "rival"), 2)
    [('maml',), ('reptile', 'rival')]
    """
    shares: list[list[JobName]] = [[] for _ in range(min(processes, len(jobs)))]
    for job in sorted(jobs, key=lambda name: -_COST[name]):
        min(shares, key=lambda share: sum(_COST[name] for name in share)).append(job)
    return [tuple(share) for share in shares]


def as_arrays(tasks: TaskSet) -> tuple[ArrayTask, ...]:
    """Return the tasks as arrays."""
    return tuple(
        ArrayTask(task.name, task.inputs.numpy(), task.targets.numpy(), task.keys)
        for task in tasks.tasks
    )


def episode_source(tasks: TaskSet, settings: MetaTrainSettings) -> EpisodeSource:
    """Return episodes of whole tasks, or N-way episodes where ``ways`` is not 0."""
    if settings.ways:
        return NWayTasks(tasks, settings.ways)
    return TaskSampler(tasks, settings.by_class)


def run_share(share: Share, clock: Clock, report: Report, group: TaskGroup) -> dict[JobName, bytes]:
    """Return each job's packed ``JobResult``; the same bytes in whatever process it runs.

    Args:
        share: What to do.
        clock: Monotonic seconds.
        report: Told how far it is.
        group: The processes that share each meta-step; the first of them trains the rival alone.
    """
    settings = share.settings
    train_tasks, validation = _tasks(share.train), _tasks(share.validation)
    module = initialise(share.architecture, settings.seed)
    with one_thread():
        episodes = ValidationEpisodes.draw(
            episode_source(validation, settings),
            settings.support,
            settings.query,
            settings.validation_episodes,
            settings.seed,
        )
        results: dict[JobName, bytes] = {}
        for job in share.jobs:
            if job != "rival":
                around = Surroundings(clock, report, group)
                results[job] = _start(job, module, share, train_tasks, episodes, around)
            elif group.rank == 0:
                began = clock()
                results[job] = _joint(module, share, train_tasks, episodes, clock)
                report(Progress("joint", 1, 1, float("nan"), clock() - began))
        return results


def _start(
    job: Algorithm,
    module: nn.Module,
    share: Share,
    tasks: TaskSet,
    episodes: ValidationEpisodes,
    around: Surroundings,
) -> bytes:
    settings, learner = share.settings, learner_of(job, share.settings)
    loss = TaskLoss.of(module, share.task_type)
    trained = train(
        learner,
        module,
        share.task_type,
        episode_source(tasks, settings),
        plan_of(job, settings),
        replace(
            around,
            validate=loss_in_training(loss, learner.inner_steps, episodes),
            checkpoint=_checkpoint(job, share, tasks),
        ),
    )
    validated = validate(job, module, share.task_type, trained, episodes)
    table = {
        **validated.table,
        "meta_steps": trained.steps,
        "meta_steps_planned": trained.planned,
        "meta_steps_skipped": trained.skipped,
        "rolled_back": trained.rolled_back,
        "stopped_early": trained.stopped_early,
    }
    if job == "joint":
        table |= fine_tuned_joint(module, share.task_type, trained.weights, episodes)
    start = validated.start
    tensors = {f"weights/{name}": value for name, value in start.weights.items()}
    tensors |= {f"step_sizes/{name}": value for name, value in start.step_sizes.items()}
    return pack_artifact(
        {"algorithm": job, "steps": start.steps, "loss": validated.loss, "table": table}, tensors
    )


def _checkpoint(job: Algorithm, share: Share, tasks: TaskSet) -> Checkpoint | None:
    if share.checkpoints is None:
        return None
    bits = replace(share.settings, processes=1, members=1, max_seconds=1.0, device="cpu")
    sets = tasks.digest(), _tasks(share.validation).digest()
    described = repr((job, share.architecture, share.task_type, bits, sets))
    training = hashlib.sha256(described.encode()).hexdigest()
    return Checkpoint(share.checkpoints / f"{job}.checkpoint", training, _CHECKPOINT_EVERY)


def _joint(
    module: nn.Module, share: Share, train: TaskSet, episodes: ValidationEpisodes, clock: Clock
) -> bytes:
    """Train the rival: as many steps as MAML has, as much time, stopped by the same episodes.

    At least 12 epochs, whatever MAML has: many rows need them.
    """
    settings = share.settings
    everything = Batch(
        torch.cat([task.inputs for task in train.tasks]),
        torch.cat([task.targets for task in train.tasks]),
    )
    per_epoch = -(-len(everything.targets) // _JOINT.batch)
    epochs = max(_JOINT.most_epochs, -(-settings.maml_steps // per_epoch))
    joint = replace(
        _JOINT,
        most_epochs=epochs,
        look_every=-(-epochs // _LOOKS),
        most_seconds=settings.max_seconds,
    )
    judge = loss_once_adapted(
        module, share.task_type, settings.step_size, settings.inner_steps, episodes
    )
    fit = train_jointly(
        module, everything, judge, share.task_type, joint, seed=settings.seed, clock=clock
    )
    table = {
        **fine_tuned_joint(module, share.task_type, fit.weights, episodes),
        "meta_steps": fit.epochs * per_epoch,
        "meta_steps_planned": epochs * per_epoch,
        "stopped_early": fit.epochs < epochs and not fit.out_of_time,
    }
    tensors = {f"weights/{name}": value for name, value in fit.weights.items()}
    return pack_artifact(
        {"algorithm": None, "steps": 0, "loss": fit.held_out_loss, "table": table}, tensors
    )


def unpack_result(packed: bytes) -> JobResult:
    """Return the result that ``run_share`` packed."""
    manifest, tensors = unpack_artifact(packed)
    weights = _under("weights/", tensors)
    algorithm, steps = manifest["algorithm"], manifest["steps"]
    loss, table = manifest["loss"], manifest["table"]
    if not isinstance(loss, float) or not isinstance(table, dict) or not isinstance(steps, int):
        raise TypeError(f"a job's result has loss {loss!r}, steps {steps!r}")
    start = None
    if algorithm is not None:
        sizes = _under("step_sizes/", tensors)
        start = Start(cast(Algorithm, algorithm), weights, sizes, steps)
    return JobResult(start, weights, loss, table)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _tasks(arrays: tuple[ArrayTask, ...]) -> TaskSet:
    return TaskSet(
        tuple(
            TaskData(t.name, torch.from_numpy(t.inputs), torch.from_numpy(t.targets), t.keys)
            for t in arrays
        )
    )
