"""The meta-training loops: from a fresh network to a start, within steps and a time budget.

The learning rate falls to 0 over the planned steps. The plan is ``settings.*_steps``; only where
the measured speed says that they do not fit into ``max_seconds`` is it cut, and the decay with it,
so that training always ends annealed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from adapters.inner_loop import TaskLoss, Tensors, are_finite, weights_of
from adapters.maml import MAML
from adapters.meta_init import Algorithm
from adapters.meta_settings import MetaTrainingError, MetaTrainSettings, Progress, Report
from adapters.model_file import TaskType
from adapters.reptile import Reptile
from adapters.tasks import EpisodeSource

Clock: TypeAlias = Callable[[], float]

_REPORT_EVERY_S = 0.5
_PATIENCE = 20  # meta-steps in a row without a finite loss
_TRUSTED_SHARE = 0.1  # of the budget, before the measured speed may cut the plan
_MARGIN = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class MetaTrained:
    """Start weights, the step sizes they were trained with, and the steps taken and planned."""

    weights: Tensors
    step_sizes: Tensors
    steps: int
    planned: int


def affordable_steps(done: int, steps: int, elapsed_s: float, max_seconds: float) -> int:
    """Return how many of ``steps`` fit into ``max_seconds`` at the speed so far.

    >>> affordable_steps(100, 1500, 1.0, 60.0)
    1500
    >>> affordable_steps(100, 1500, 10.0, 60.0)
    570
    """
    if elapsed_s < _TRUSTED_SHARE * max_seconds or not done:
        return steps
    return min(steps, max(done, int(_MARGIN * max_seconds * done / elapsed_s)))


def train_maml(
    module: nn.Module,
    task_type: TaskType,
    source: EpisodeSource,
    settings: MetaTrainSettings,
    *,
    clock: Clock,
    report: Report,
) -> MetaTrained:
    """Return MAML's start; raises MetaTrainingError if it diverges."""
    maml = MAML(settings.inner_steps, settings.step_size, settings.learn_step_sizes)
    weights, step_sizes = maml.start(weights_of(module))
    leaves = [t for t in (*weights.values(), *step_sizes.values()) if t.requires_grad]
    optimiser = torch.optim.Adam(leaves, lr=settings.maml_lr)
    loss = TaskLoss.of(module, task_type)
    generator = torch.Generator().manual_seed(settings.seed)

    def meta_step(fraction: float) -> float:
        for group in optimiser.param_groups:
            group["lr"] = settings.maml_lr * (0.5 + 0.5 * math.cos(math.pi * fraction))
        batch = source.sample(settings.maml_tasks, settings.support, settings.query, generator)
        return maml.meta_step(loss, weights, step_sizes, batch, optimiser=optimiser)

    done = _loop("maml", meta_step, settings, clock=clock, report=report)
    trained = MetaTrained(_detached(weights), _detached(step_sizes), done, settings.maml_steps)
    return _checked("maml", trained)


def train_reptile(
    module: nn.Module,
    task_type: TaskType,
    source: EpisodeSource,
    settings: MetaTrainSettings,
    *,
    clock: Clock,
    report: Report,
) -> MetaTrained:
    """Return Reptile's start; raises MetaTrainingError if it diverges."""
    reptile = Reptile(settings.reptile_inner_steps, settings.step_size, settings.support)
    weights = weights_of(module)
    loss = TaskLoss.of(module, task_type)
    generator = torch.Generator().manual_seed(settings.seed)

    def meta_step(fraction: float) -> float:
        nonlocal weights
        batch = source.sample(settings.reptile_tasks, 2 * settings.support, 0, generator)
        pull = settings.reptile_pull * (1 - fraction)
        moved, value = reptile.meta_step(loss, weights, batch.support, generator, pull=pull)
        weights = moved
        return value

    done = _loop("reptile", meta_step, settings, clock=clock, report=report)
    sizes = {n: torch.tensor(settings.step_size, dtype=w.dtype) for n, w in weights.items()}
    return _checked("reptile", MetaTrained(weights, sizes, done, settings.reptile_steps))


def _loop(
    job: Algorithm,
    meta_step: Callable[[float], float],
    settings: MetaTrainSettings,
    *,
    clock: Clock,
    report: Report,
) -> int:
    """Call ``meta_step`` with the fraction done until the plan or the time is over."""
    steps = settings.maml_steps if job == "maml" else settings.reptile_steps
    began = reported = clock()
    done, plan, bad, total, count = 0, steps, 0, 0.0, 0
    while done < plan:
        value = meta_step(done / plan)
        done += 1
        if math.isfinite(value):
            bad, total, count = 0, total + value, count + 1
        else:
            bad += 1
            if bad >= _PATIENCE:
                raise MetaTrainingError(
                    f"{job} has had no finite loss for {bad} meta-steps;"
                    f" lower step_size ({settings.step_size}) or maml_lr ({settings.maml_lr})"
                )
        now = clock()
        plan = affordable_steps(done, steps, now - began, settings.max_seconds)
        if now - reported >= _REPORT_EVERY_S or done >= plan:
            mean = total / count if count else math.nan
            report(Progress(job, done, plan, mean, now - began))
            reported, total, count = now, 0.0, 0
    return done


def _detached(weights: Tensors) -> Tensors:
    return {name: value.detach().clone() for name, value in weights.items()}


def _checked(job: str, trained: MetaTrained) -> MetaTrained:
    if not are_finite(trained.weights) or not are_finite(trained.step_sizes):
        raise MetaTrainingError(f"{job} ended with weights that are not finite; lower step_size")
    return trained
