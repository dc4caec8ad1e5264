"""Memory that one meta-step of an algorithm takes: all of them are alike, so one says it."""

import time
from dataclasses import replace
from typing import cast

import torch

from adapters.inner_loop import TaskLoss, one_thread, weights_of
from adapters.meta_init import Algorithm, MetaInit
from adapters.meta_plan import learner_of, plan_of
from adapters.meta_settings import MetaTrainSettings
from adapters.modules import initialise
from adapters.peak_memory import measured
from adapters.recipes import Target, encoded
from adapters.task_splits import TaskSplit
from adapters.tasks import TaskSampler, tasks_from_column


def meta_step_peaks(
    split: TaskSplit, init: MetaInit, settings: MetaTrainSettings
) -> dict[str, int | None]:
    """Return the peak bytes of one meta-step by the start that it trains, rows not included.

    Args:
        split: Its meta-train tasks give the episodes.
        init: Trained over a task column; its starts are what is measured.
        settings: Those that trained it.
    """
    rows = split.train_rows
    examples = split.data.examples.take(rows)
    target = Target(init.schema, init.task_type, init.class_names, 1.0)
    batch = encoded(target, examples, init.preprocessor, init.target_mean, init.target_std)
    owners = tuple(split.data.tasks[i] for i in rows.tolist())
    source = TaskSampler(tasks_from_column(batch.inputs, batch.targets, owners, examples.keys))
    found: dict[str, int | None] = {}
    with one_thread():
        for name in init.starts:
            found[name] = _peak(cast(Algorithm, name), source, init, settings)
    return found


def _peak(
    algorithm: Algorithm, source: TaskSampler, init: MetaInit, settings: MetaTrainSettings
) -> int | None:
    settings = replace(settings, support=min(settings.support, source.most - 1))
    plan, learner = plan_of(algorithm, settings), learner_of(algorithm, settings)
    module, generator = initialise(init.architecture, 0), torch.Generator().manual_seed(0)
    loss = TaskLoss.of(module, init.task_type)
    parameters = learner.start(weights_of(module), generator)
    query = min(plan.query, source.most - plan.support)
    batch = source.sample(plan.tasks, plan.support, query, generator)

    def meta_step() -> None:
        learner.gradients(loss, parameters, batch, generator)

    meta_step()
    return measured(meta_step, time.perf_counter).peak_bytes
