"""Meta-training: from labelled rows of many tasks to a ``MetaInit``."""

import inspect
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.examples import Examples
from adapters.feature_schema import Preprocessor
from adapters.meta_init import MetaInit, Start
from adapters.meta_jobs import JobName, Share, as_arrays, run_share, shares_of, unpack_result
from adapters.meta_settings import (
    MetaTrainData,
    MetaTrainingError,
    MetaTrainSettings,
    Progress,
    Report,
)
from adapters.meta_workers import run_shares
from adapters.model_file import Architecture, TaskType
from adapters.recipes import MLP_PATH, target_scale
from adapters.task_groups import Alone
from adapters.tasks import Keys, TaskSet, tasks_from_column

_SLACK_S = 120.0
"""Beyond the budgets: starting processes, importing torch, joint training, validation."""


def meta_train(
    data: MetaTrainData,
    settings: MetaTrainSettings,
    progress: Report | None = None,
    *,
    checkpoints: Path | None = None,
) -> MetaInit:
    """Return starts trained on the tasks of ``data``; the same seed gives the same bits.

    (Unless ``settings.max_seconds`` cuts the training short: ``info["cut_short"]`` names what.)
    With ``settings.processes`` > 1 the algorithms train side by side in spawned processes, and a
    script that calls this needs the usual ``if __name__ == "__main__":``.

    Args:
        data: Labelled rows and their tasks.
        settings: How to train.
        progress: Called in this process as training goes on.
        checkpoints: Folder for the state of each algorithm. The same call with the same folder
            goes on where a killed one was, to the same bits; another training is refused.

    Raises:
        MetaTrainingError: Too few tasks of sufficient size, divergence, a lost worker, or a module
            that does not fit the data.
    """
    report = progress or _nobody
    train_rows, validation_rows, left_out = _split(data, settings)
    examples = data.examples
    task_type: TaskType = "regression" if len(examples.values) else "classification"
    if settings.by_class and task_type == "regression":
        raise MetaTrainingError("by_class is True, but the labels are numbers; leave it out")
    names = data.class_names or tuple(sorted(set(examples.labels)))
    if settings.ways or task_type == "regression":
        names = ()
    preprocessor = Preprocessor.fit(data.schema, examples.take(train_rows).rows)
    mean, std = target_scale(examples.values[train_rows] if len(examples.values) else np.empty(0))
    outputs = settings.ways or len(names) or 1
    architecture = _architecture(settings, preprocessor.d, outputs)

    def encoded(rows: NDArray[np.intp]) -> TaskSet:
        chosen = examples.take(rows)
        inputs = torch.from_numpy(preprocessor.encode(chosen.rows))
        owners = tuple(_owners(data, settings)[i] for i in rows.tolist())
        targets = _targets(chosen, names, mean, std)
        return tasks_from_column(inputs, targets, owners, chosen.keys)

    train, validation = encoded(train_rows), encoded(validation_rows)
    jobs: tuple[JobName, ...] = settings.algorithms
    if not settings.ways and "joint" not in jobs:
        jobs = (*jobs, "rival")
    shares = [
        Share(
            share,
            architecture,
            task_type,
            as_arrays(train),
            as_arrays(validation),
            settings,
            checkpoints,
        )
        for share in shares_of(jobs, settings.processes)
    ]
    if len(shares) == settings.members == 1:
        packed = run_share(shares[0], time.monotonic, report, Alone())
    else:
        most = max(len(share.jobs) for share in shares)
        packed = run_shares(shares, report, timeout_s=most * settings.max_seconds + _SLACK_S)
    results = {
        "joint" if job == "rival" else job: unpack_result(raw) for job, raw in packed.items()
    }
    starts: dict[str, Start] = {job: r.start for job, r in results.items() if r.start is not None}
    recommended = min(settings.algorithms, key=lambda name: (results[name].loss, name))
    return MetaInit(
        architecture=architecture,
        schema=data.schema,
        preprocessor=preprocessor,
        task_type=task_type,
        class_names=names,
        target_mean=mean,
        target_std=std,
        starts=starts,
        joint=results["joint"].weights if "joint" in results else {},
        recommended=recommended,
        validation={job: result.table for job, result in results.items()},
        trained_on=np.union1d(examples.keys[train_rows], examples.keys[validation_rows]),
        slots=settings.ways,
        info={
            "seed": settings.seed,
            "train": {"tasks": list(train.names), "digest": train.digest()},
            "validation": {"tasks": list(validation.names), "digest": validation.digest()},
            "left_out": list(left_out),
            "cut_short": [
                job
                for job, result in results.items()
                if result.table.get("meta_steps") != result.table.get("meta_steps_planned")
                and not result.table.get("stopped_early")
            ],
        },
    )


def _architecture(settings: MetaTrainSettings, inputs: int, outputs: int) -> Architecture:
    """Return the MLP, or the settings' own module with its widths filled in and tried."""
    if settings.architecture is None:
        return Architecture(
            MLP_PATH, {"inputs": inputs, "hidden": list(settings.hidden), "outputs": outputs}
        )
    path, kwargs = settings.architecture.path, dict(settings.architecture.kwargs)
    takes = inspect.signature(settings.architecture.module_class().__init__).parameters
    for name, width in (("inputs", inputs), ("outputs", outputs)):
        if name in takes:
            kwargs.setdefault(name, width)
    architecture = Architecture(path, kwargs)
    module = architecture.build().eval()
    try:
        with torch.no_grad():
            shape = tuple(module(torch.zeros(2, inputs)).shape)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise MetaTrainingError(
            f"{path} with {kwargs} fails on 2 rows of {inputs} encoded inputs ({error}); its"
            " forward takes (n, d)"
        ) from error
    if shape != (2, outputs):
        raise MetaTrainingError(
            f"{path} with {kwargs} answers {shape} to 2 rows; it must answer {(2, outputs)}"
        )
    return architecture


def _owners(data: MetaTrainData, settings: MetaTrainSettings) -> Sequence[str]:
    """Return what each row is sampled by: its task, or its class for N-way episodes."""
    if not settings.ways:
        return data.tasks
    return data.examples.labels


def _split(
    data: MetaTrainData, settings: MetaTrainSettings
) -> tuple[NDArray[np.intp], NDArray[np.intp], list[str]]:
    """Return training rows, validation rows, and the tasks (classes) with too few rows."""
    owners, ways = _owners(data, settings), settings.ways
    kind = "classes" if ways else "tasks"
    if not owners:
        raise MetaTrainingError(
            "the data has no task names; name a task column, or set ways for N-way episodes"
        )
    per_episode = max(settings.support + settings.query, 2 * settings.support)
    least = per_episode // (ways or 1)
    # Not as an array of texts: each would be as long as the longest name.
    names = sorted(set(owners))
    number = {name: i for i, name in enumerate(names)}
    owner_of = np.array([number[name] for name in owners], np.intp)
    sizes = _different(owner_of, data.examples.keys)
    large = [i for i, size in enumerate(sizes) if size >= least]
    left_out = [names[i] for i, size in enumerate(sizes) if size < least]
    each = ways or 1
    held = max(each, round(settings.validation_fraction * len(large)))
    if len(large) - held < max(each, 2):
        raise MetaTrainingError(
            f"only {len(large)} of {len(names)} {kind} have {least} or more different rows, and"
            f" {held} of them are kept for validation; an episode takes {settings.support} labels"
            f" to adapt from (support) and {settings.query} to judge by (query): bring more {kind},"
            f" or lower {'support, query or ways' if ways else 'support or query'}"
        )
    order = np.random.default_rng(settings.seed).permutation(large)
    validation = np.isin(owner_of, order[:held])
    train = np.isin(owner_of, order[held:])
    return np.flatnonzero(train), np.flatnonzero(validation), left_out


def _different(owner_of: NDArray[np.intp], keys: Keys) -> list[int]:
    """Return how many different keys each owner's rows have."""
    order = np.lexsort((keys, owner_of))
    owner, key = owner_of[order], keys[order]
    new = np.append(True, (owner[1:] != owner[:-1]) | (key[1:] != key[:-1]))
    return [int(size) for size in np.bincount(owner[new])]


def _targets(chosen: Examples, names: tuple[str, ...], mean: float, std: float) -> Tensor:
    """Return class indices, values in output units, or zeros for N-way (slots come later)."""
    if len(chosen.values):
        return torch.from_numpy(((chosen.values - mean) / std).astype(np.float32))
    index = {name: i for i, name in enumerate(names)}
    return torch.tensor([index.get(label, 0) for label in chosen.labels])


def _nobody(progress: Progress) -> None:
    """Report to nobody."""
