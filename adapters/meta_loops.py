"""The meta-training loop, one for every algorithm: from a fresh network to a start.

The outer step size falls to 0 over the planned steps; only where the measured speed says that they
do not fit into ``max_seconds`` is the plan cut, and the decay with it, so that training always ends
annealed. A step whose loss or gradient is not finite is skipped; after a run of them the state goes
back to the one kept before, with half the rate.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from adapters.inner_loop import TaskLoss, Tensors, are_finite, weights_of
from adapters.meta_learner import MetaLearner
from adapters.meta_plan import Plan
from adapters.meta_settings import MetaTrainingError, Progress, Report
from adapters.meta_state import MetaState
from adapters.model_file import TaskType
from adapters.task_groups import Alone, TaskGroup
from adapters.tasks import EpisodeSource

Clock: TypeAlias = Callable[[], float]
Validate: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], float]
"""(weights, step sizes) -> meta-validation loss."""

_REPORT_EVERY_S = 0.5
_PATIENCE = 20  # meta-steps in a row without a finite loss
_KEEP_EVERY = 50  # meta-steps between states to roll back to
_TRUSTED_SHARE = 0.1  # of the budget, before the measured speed may cut the plan
_MARGIN = 0.95


def _nobody(progress: Progress) -> None:
    """Report to nobody."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Where a training keeps its state.

    Attributes:
        path: A file; a training that finds its own state there goes on from it.
        training: Says which training that is.
        every: Meta-steps between two writes.
    """

    path: Path
    training: str
    every: int = 100


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What a training is connected to; the default is nothing.

    Attributes:
        clock: Monotonic seconds.
        report: Told how far it is.
        group: The processes that share each meta-step.
        validate: Judges a start; needed where the plan says ``validate_every``.
        checkpoint: Where to keep the state; None: nowhere.
    """

    clock: Clock = time.monotonic
    report: Report = _nobody
    group: TaskGroup = field(default_factory=Alone)
    validate: Validate | None = None
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True, eq=False)
class MetaTrained:
    """What a training came to.

    Attributes:
        weights: Of the start, on the CPU.
        step_sizes: That it was trained with.
        steps: Meta-steps done.
        planned: Meta-steps planned.
        skipped: Of those done, without a finite loss or gradient.
        rolled_back: How often a run of those made it go back.
        stopped_early: Whether meta-validation ended it.
        validations: (meta-steps done, loss) of each meta-validation.
    """

    weights: Tensors
    step_sizes: Tensors
    steps: int
    planned: int
    skipped: int = 0
    rolled_back: int = 0
    stopped_early: bool = False
    validations: tuple[tuple[int, float], ...] = ()


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


def train(
    learner: MetaLearner,
    module: nn.Module,
    task_type: TaskType,
    source: EpisodeSource,
    plan: Plan,
    around: Surroundings | None = None,
) -> MetaTrained:
    """Return the start that ``learner`` makes of ``module``, which is left as it was.

    Args:
        learner: The algorithm.
        module: ``(n, ...) -> (n, C)``; its weights are where meta-training begins.
        task_type: ``classification`` or ``regression``.
        source: Of the episodes.
        plan: How long, on how many tasks, at which rate.
        around: Clock, report, group, validation and checkpoint.

    Raises:
        MetaTrainingError: It diverged and rolling back did not help, or a checkpoint is unusable.
    """
    around = around or Surroundings()
    if plan.validate_every and around.validate is None:
        raise ValueError(f"validate_every is {plan.validate_every} without a validate function")
    if plan.tasks % around.group.size:
        raise ValueError(f"{plan.tasks} tasks cannot be shared by {around.group.size} processes")
    return _Training(learner, module, task_type, source, plan, around).run()


class _Training:
    """One run of the loop."""

    def __init__(
        self,
        learner: MetaLearner,
        module: nn.Module,
        task_type: TaskType,
        source: EpisodeSource,
        plan: Plan,
        around: Surroundings,
    ) -> None:
        self.learner, self.source, self.plan, self.around = learner, source, plan, around
        generator = torch.Generator().manual_seed(plan.seed)
        weights = {name: value.to(plan.device) for name, value in weights_of(module).items()}
        self.loss = TaskLoss.of(module, task_type, plan.device)
        self.state = MetaState(learner.start(weights, generator), learner.outer, generator)
        share = plan.tasks // around.group.size
        self.own = slice(around.group.rank * share, (around.group.rank + 1) * share)

    def run(self) -> MetaTrained:
        state, plan, around = self.state, self.plan, self.around
        saved = around.checkpoint
        if saved is not None:
            state.resume(saved.path, saved.training)
        counters = state.counters
        before_s, began = counters.elapsed_s, around.clock()
        reported, total, count = before_s, 0.0, 0
        planned = affordable_steps(counters.done, plan.steps, before_s, plan.max_seconds)
        while counters.done < planned and not self._out_of_patience():
            value, spent = self._step(counters.done / planned, before_s, began)
            if math.isfinite(value):
                total, count = total + value, count + 1
            counters.elapsed_s = spent
            planned = affordable_steps(counters.done, plan.steps, spent, plan.max_seconds)
            if plan.validate_every and (
                counters.done % plan.validate_every == 0 or counters.done >= planned
            ):
                self._validate()
            ended = counters.done >= planned or self._out_of_patience()
            due = ended or (saved is not None and counters.done % saved.every == 0)
            if saved is not None and due and around.group.rank == 0:
                state.save(saved.path, saved.training)
            if ended or spent - reported >= _REPORT_EVERY_S:
                mean, last = (
                    total / count if count else math.nan,
                    counters.done if ended else planned,
                )
                around.report(Progress(self.learner.algorithm, counters.done, last, mean, spent))
                reported, total, count = spent, 0.0, 0
        return self._result()

    def _step(self, fraction: float, before_s: float, began: float) -> tuple[float, float]:
        """Take one meta-step; return its loss and the seconds spent, as the group sees them."""
        plan, state = self.plan, self.state
        batch = self.source.sample(plan.tasks, plan.support, plan.query, state.generator)
        value, gradients = self.learner.gradients(
            self.loss, state.parameters, batch.of_tasks(self.own, plan.device), state.generator
        )
        elapsed = torch.tensor(before_s + self.around.clock() - began, dtype=torch.float64)
        value, elapsed, *gradients = self.around.group.mean([value, elapsed, *gradients])
        norm = torch.nn.utils.get_total_norm(gradients)
        state.counters.done += 1
        if bool(torch.isfinite(norm)) and bool(torch.isfinite(value)):
            longest = plan.max_gradient_norm
            if norm > longest:
                gradients = [gradient * (longest / norm) for gradient in gradients]
            rate = plan.rate_at(fraction, self.learner.outer)
            state.move(gradients, rate * 0.5**state.counters.rolled_back)
            self._note_taken()
            return value.item(), elapsed.item()
        self._note_skipped()
        return math.nan, elapsed.item()

    def _note_taken(self) -> None:
        counters = self.state.counters
        counters.skipped_in_a_row = 0
        counters.taken_since_rollback += 1
        if counters.taken_since_rollback % _KEEP_EVERY == 0:
            self.state.keep()

    def _note_skipped(self) -> None:
        counters = self.state.counters
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        if counters.skipped_in_a_row < _PATIENCE:
            return
        if not counters.taken_since_rollback:
            raise MetaTrainingError(
                f"{self.learner.algorithm} has had no finite loss for {_PATIENCE} meta-steps;"
                f" lower step_size, or the outer step size ({self.plan.rate})"
            )
        self.state.roll_back()
        counters.rolled_back += 1
        counters.skipped_in_a_row = counters.taken_since_rollback = 0

    def _validate(self) -> None:
        if self.around.validate is not None:
            parameters = self.state.parameters
            self.state.note_validation(
                self.around.validate(_result(parameters.weights), _result(parameters.step_sizes))
            )

    def _out_of_patience(self) -> bool:
        plan, counters = self.plan, self.state.counters
        return bool(plan.validate_every) and counters.validations_without_gain >= plan.patience

    def _result(self) -> MetaTrained:
        state, counters = self.state, self.state.counters
        parts = {"weights": state.parameters.weights, "step_sizes": state.parameters.step_sizes}
        if state.best:
            parts = {
                part: {name: state.best[f"{part}/{name}"] for name in values}
                for part, values in parts.items()
            }
        weights, step_sizes = _result(parts["weights"]), _result(parts["step_sizes"])
        if not are_finite(weights) or not are_finite(step_sizes):
            raise MetaTrainingError(
                f"{self.learner.algorithm} ended with weights that are not finite; lower step_size"
            )
        return MetaTrained(
            weights,
            step_sizes,
            counters.done,
            self.plan.steps,
            counters.skipped,
            counters.rolled_back,
            self._out_of_patience(),
            tuple(state.losses),
        )


def _result(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}
