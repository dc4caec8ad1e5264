"""One process's share of meta-training, as values: arrays in, packed tensors and tables out."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.inner_loop import one_thread
from adapters.joint import JointSettings, train_jointly
from adapters.meta_init import Algorithm, Start
from adapters.meta_loops import Clock, train_maml, train_reptile
from adapters.meta_settings import MetaTrainSettings, Progress, Report
from adapters.meta_validation import ValidationEpisodes, fine_tuned_joint, validate
from adapters.model_file import Architecture, TaskType, pack_artifact, unpack_artifact
from adapters.modules import initialise
from adapters.tasks import Batch, EpisodeSource, NWayTasks, TaskData, TaskSampler, TaskSet

JobName: TypeAlias = Literal["maml", "reptile", "joint"]

_COST: dict[JobName, int] = {"maml": 3, "reptile": 2, "joint": 1}
_JOINT = JointSettings(batch=256, most_epochs=12, patience=3)
_HELD_OUT = 0.1  # of the keys, for joint training's early stopping


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
    """

    jobs: tuple[JobName, ...]
    architecture: Architecture
    task_type: TaskType
    train: tuple[ArrayTask, ...]
    validation: tuple[ArrayTask, ...]
    settings: MetaTrainSettings


@dataclass(frozen=True, slots=True, eq=False)
class JobResult:
    """A start (``maml``, ``reptile``) or plain weights (``joint``) and what was measured."""

    start: Start | None
    weights: dict[str, Tensor]
    loss: float
    table: dict[str, object]


def shares_of(jobs: tuple[JobName, ...], processes: int) -> list[tuple[JobName, ...]]:
    """Return the jobs of each process: longest first, each to the least busy.

    >>> shares_of(("maml", "reptile", "joint"), 2)
    [('maml',), ('reptile', 'joint')]
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


def episode_source(tasks: TaskSet, ways: int) -> EpisodeSource:
    """Return episodes of whole tasks, or N-way episodes where ``ways`` is not 0."""
    return NWayTasks(tasks, ways) if ways else TaskSampler(tasks)


def run_share(share: Share, clock: Clock, report: Report) -> dict[JobName, bytes]:
    """Return each job's packed ``JobResult``; the same bytes in whatever process it runs."""
    settings = share.settings
    train, validation = _tasks(share.train), _tasks(share.validation)
    module = initialise(share.architecture, settings.seed)
    with one_thread():
        episodes = ValidationEpisodes.draw(
            episode_source(validation, settings.ways),
            settings.support,
            settings.query,
            settings.validation_episodes,
            settings.seed,
        )
        results: dict[JobName, bytes] = {}
        for job in share.jobs:
            if job == "joint":
                began = clock()
                results[job] = _joint(module, share, train, episodes)
                report(Progress("joint", 1, 1, float("nan"), clock() - began))
            else:
                results[job] = _start(job, module, share, train, episodes, clock, report)
        return results


def _start(
    job: Algorithm,
    module: nn.Module,
    share: Share,
    train: TaskSet,
    episodes: ValidationEpisodes,
    clock: Clock,
    report: Report,
) -> bytes:
    settings = share.settings
    loop = train_maml if job == "maml" else train_reptile
    source = episode_source(train, settings.ways)
    trained = loop(module, share.task_type, source, settings, clock=clock, report=report)
    validated = validate(job, module, share.task_type, trained, episodes)
    table = {
        **validated.table,
        "meta_steps": trained.steps,
        "meta_steps_planned": trained.planned,
    }
    start = validated.start
    tensors = {f"weights/{name}": value for name, value in start.weights.items()}
    tensors |= {f"step_sizes/{name}": value for name, value in start.step_sizes.items()}
    return pack_artifact(
        {"algorithm": job, "steps": start.steps, "loss": validated.loss, "table": table}, tensors
    )


def _joint(module: nn.Module, share: Share, train: TaskSet, episodes: ValidationEpisodes) -> bytes:
    keys = np.concatenate([task.keys for task in train.tasks])
    everything = Batch(
        torch.cat([task.inputs for task in train.tasks]),
        torch.cat([task.targets for task in train.tasks]),
    )
    unique = np.unique(keys)
    seed = share.settings.seed
    drawn = np.random.default_rng(seed).permutation(unique)[: max(1, int(_HELD_OUT * len(unique)))]
    held = torch.from_numpy(np.isin(keys, drawn))
    fit = train_jointly(
        module,
        Batch(everything.inputs[~held], everything.targets[~held]),
        Batch(everything.inputs[held], everything.targets[held]),
        share.task_type,
        _JOINT,
        seed=seed,
    )
    table = fine_tuned_joint(module, share.task_type, fit.weights, episodes)
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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _tasks(arrays: tuple[ArrayTask, ...]) -> TaskSet:
    return TaskSet(
        tuple(
            TaskData(t.name, torch.from_numpy(t.inputs), torch.from_numpy(t.targets), t.keys)
            for t in arrays
        )
    )
