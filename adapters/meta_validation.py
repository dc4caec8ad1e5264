"""Meta-validation: tasks that trained nothing choose the steps, the step size, and the best start.

Every choice is by the loss that decides later: 0/1 for classification, squared error for
regression, on the query of non-transductive episodes, in the mean over the support sizes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.inner_loop import (
    TaskLoss,
    Tensors,
    descend,
    for_tasks,
    same_step,
    step,
    weights_of,
    with_weights,
)
from adapters.joint import FINE_TUNE, train_few
from adapters.meta_init import Algorithm, Start
from adapters.meta_loops import MetaTrained
from adapters.model_file import TaskType
from adapters.tasks import Batch, EpisodeBatch, EpisodeSource

STEPS = (1, 2, 3, 5, 8, 10, 15, 20, 30)
"""Numbers of steps that are tried."""
FACTORS: Mapping[Algorithm, tuple[float, ...]] = {
    "reptile": (0.5, 1.0, 2.0),
    "joint": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
}
"""Multiples of the step size that are tried. Joint training knows nothing of the step size, so it
needs a search; what was differentiated through its steps goes with its own (1 alone)."""
_WORST = 1e9  # a diverged start's loss: finite, because JSON is
_RIVAL_EPISODES = 16  # per support size; the rival chooses nothing, so fewer will do
_SALT = 7_919  # keeps these episodes apart from those of training under the same seed


@dataclass(frozen=True, slots=True, eq=False)
class ValidationEpisodes:
    """The episodes that every start is judged on, one batch per support size."""

    by_support: Mapping[int, EpisodeBatch]

    @staticmethod
    def draw(
        source: EpisodeSource, support: int, query: int, episodes: int, seed: int
    ) -> "ValidationEpisodes":
        """Return episodes with ``support`` and, where there are enough rows, twice the support."""
        generator = torch.Generator().manual_seed(seed + _SALT)
        sizes = [size for size in (support, 2 * support) if size + query <= source.most]
        return ValidationEpisodes(
            {size: source.sample(episodes, size, query, generator) for size in sizes}
        )


@dataclass(frozen=True, slots=True, eq=False)
class Validated:
    """A start with its chosen steps, its loss, and the table that the choice was made from."""

    start: Start
    loss: float
    table: dict[str, object]


def validate(
    algorithm: Algorithm,
    module: nn.Module,
    task_type: TaskType,
    trained: MetaTrained,
    episodes: ValidationEpisodes,
) -> Validated:
    """Return the start with the steps (and out of ``FACTORS`` the step size) of the least loss.

    Ties go to fewer steps, then to the trained step size.
    """
    loss = TaskLoss.of(module, task_type)
    scores: dict[tuple[int, float], dict[str, float]] = {}
    for factor in FACTORS.get(algorithm, (1.0,)):
        sizes = {name: size * factor for name, size in trained.step_sizes.items()}
        for support, batch in episodes.by_support.items():
            for steps, value in _losses_along(loss, trained.weights, sizes, batch):
                scores.setdefault((steps, factor), {})[str(support)] = value

    def rank(choice: tuple[int, float]) -> tuple[float, int, float]:
        return _mean(scores[choice]), choice[0], abs(choice[1] - 1)

    best = min(scores, key=rank)
    steps, factor = best
    sizes = {name: size * factor for name, size in trained.step_sizes.items()}
    table: dict[str, object] = {
        "steps": steps,
        "step_size_factor": factor,
        "loss": _mean(scores[best]),
        "loss_by_support": scores[best],
        "loss_by_steps": {str(s): _mean(v) for (s, f), v in scores.items() if f == factor},
    }
    return Validated(Start(algorithm, trained.weights, sizes, steps), _mean(scores[best]), table)


def loss_in_training(
    loss: TaskLoss, steps: int, episodes: ValidationEpisodes
) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], float]:
    """Return what early stopping judges by: the loss of a start after ``steps`` steps."""

    def value(weights: Mapping[str, Tensor], step_sizes: Mapping[str, Tensor]) -> float:
        found = []
        for batch in episodes.by_support.values():
            fast = for_tasks(weights, len(batch.support.targets))
            fast = descend(loss, fast, step_sizes, batch.support, steps=steps)
            found.append(_judge(loss, fast, batch))
        return sum(found) / len(found)

    return value


def loss_once_adapted(
    module: nn.Module,
    task_type: TaskType,
    step_size: float,
    steps: int,
    episodes: ValidationEpisodes,
) -> Callable[[nn.Module], float]:
    """Return what says when to stop training jointly: the loss after a few steps on unseen tasks.

    The least over no steps at all, and steps of a fifth of ``step_size`` and of all of it: joint
    training knows nothing of the step size.
    """
    judged = loss_in_training(TaskLoss.of(module, task_type), steps, episodes)

    def value(learner: nn.Module) -> float:
        weights = weights_of(learner)
        return min(judged(weights, same_step(weights, step_size * f)) for f in (0.0, 0.2, 1.0))

    return value


def fine_tuned_joint(
    module: nn.Module, task_type: TaskType, weights: Tensors, episodes: ValidationEpisodes
) -> dict[str, object]:
    """Return the losses of joint weights as they are and fine-tuned by Adam: the honest rival.

    Batch norm keeps the statistics among ``weights``.
    """
    start = with_weights(module, weights)
    loss = TaskLoss.of(start, task_type)
    frozen: dict[str, float] = {}
    tuned: dict[str, float] = {}
    for support, batch in episodes.by_support.items():
        before, after = [], []
        for e in range(min(_RIVAL_EPISODES, len(batch.support.targets))):
            examples = Batch(batch.support.inputs[e], batch.support.targets[e])
            one = batch.of_tasks(slice(e, e + 1), "cpu")
            (_, last), *_ = train_few(
                start, examples, task_type, descent=FINE_TUNE, at=(FINE_TUNE.steps,)
            )
            before.append(_judge(loss, for_tasks(weights_of(start), 1), one, stored=True))
            after.append(_judge(loss, for_tasks(last, 1), one, stored=True))
        frozen[str(support)] = sum(before) / len(before)
        tuned[str(support)] = sum(after) / len(after)
    return {
        "frozen_loss_by_support": frozen,
        "fine_tuned_loss_by_support": tuned,
        "steps": FINE_TUNE.steps,
        "lr": FINE_TUNE.lr,
    }


def _losses_along(
    loss: TaskLoss,
    weights: Mapping[str, Tensor],
    step_sizes: Mapping[str, Tensor],
    batch: EpisodeBatch,
) -> list[tuple[int, float]]:
    """Return (steps, mean query loss) at every entry of ``STEPS``."""
    fast = for_tasks(weights, len(batch.support.targets))
    found = []
    for at in range(1, max(STEPS) + 1):
        fast = step(loss, fast, step_sizes, batch.support)
        if at in STEPS:
            found.append((at, _judge(loss, fast, batch)))
    return found


def _judge(
    loss: TaskLoss, fast: Mapping[str, Tensor], batch: EpisodeBatch, *, stored: bool = False
) -> float:
    """Return the mean 0/1 loss, or squared error; ``_WORST`` where it is not finite.

    Batch norm uses the support's statistics, or ``stored`` ones.
    """
    query, support = batch.query, None if stored else batch.support.inputs
    with torch.no_grad():
        outputs = loss.forward(fast, query.inputs, support)
        if loss.task_type == "regression":
            each = (outputs[..., 0] - query.targets).square()
        else:
            each = (outputs.argmax(-1) != query.targets).float()
        value = each.mean().item()
    return value if math.isfinite(value) and bool(torch.isfinite(outputs).all()) else _WORST


def _mean(losses: Mapping[str, float]) -> float:
    return sum(losses.values()) / len(losses)
