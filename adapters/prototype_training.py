"""Prototypical networks: an embedding in which a class's mean is its best description.

Each step draws an N-way K-shot episode, takes the mean embedding of each class's support as its
prototype, and moves the embedding so that queries lie nearer to their own (J. Snell, K. Swersky and
R. Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017). Nothing adapts by gradient:
a new task costs one forward pass of its support, for any number of classes, and
``prototypes.with_prototype_head`` turns the result into a model, from which steps of the head can
go on (Proto-MAML).

Batch norm takes the statistics of the whole episode while training, and running ones afterwards, so
that a trained embedding answers row by row: no query sees another.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adapters.meta_settings import MetaTrainingError
from adapters.prototypes import class_prototypes, linear_head
from adapters.tasks import EpisodeBatch, EpisodeSource


@dataclass(frozen=True, slots=True)
class PrototypePlan:
    """One training.

    Attributes:
        steps: Episodes, one a step.
        ways: Classes per episode; more than will be asked later make the better embedding.
        shots: Support rows per class.
        queries: Query rows per class.
        rate: Adam's step size at first; it falls to 0 by a cosine.
        max_seconds: CPU seconds of this process; a slow machine takes fewer steps, annealed all
            the same.
        validate_every: Steps between validations; 0: none.
        seed: Of the episodes.
    """

    steps: int = 2000
    ways: int = 20
    shots: int = 1
    queries: int = 5
    rate: float = 2e-3
    max_seconds: float = math.inf
    validate_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.shots, self.queries) < 1 or self.ways < 2 or self.rate <= 0:
            raise ValueError(
                f"steps ({self.steps}), shots ({self.shots}) and queries ({self.queries}) must be"
                f" at least 1, ways ({self.ways}) at least 2 and rate ({self.rate}) above 0"
            )


@dataclass(frozen=True, slots=True, eq=False)
class PrototypeTrained:
    """What came of it.

    Attributes:
        module: In eval mode; with validations, as it was at the best of them.
        steps: Steps taken.
        validated: Step and score of each validation.
    """

    module: nn.Module
    steps: int
    validated: list[tuple[int, float]] = field(default_factory=list)


def distance_logits(support: Tensor, targets: Tensor, query: Tensor, classes: int) -> Tensor:
    """Return minus the squared distance of each query to each prototype, ``(q, classes)``.

    Args:
        support: Embeddings ``(s, e)``.
        targets: ``(s,)`` class numbers; each class has a row.
        query: Embeddings ``(q, e)``.
        classes: How many there are.
    """
    return -torch.cdist(query, class_prototypes(support, targets, classes)).square()


def train_prototypes(
    module: nn.Module,
    source: EpisodeSource,
    plan: PrototypePlan,
    validate: Callable[[nn.Module], float] | None = None,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> PrototypeTrained:
    """Train a module's embedding; the module itself is left as it was.

    Args:
        module: With ``embed(x)``, ``(n, d) -> (n, e)``, and a linear ``head``, which plays no part.
        source: Of N-way episodes, drawn from the meta-training classes alone.
        plan: The training.
        validate: Returns a score of the module, higher is better, on meta-validation classes.
        progress: Told the step and its loss.

    Raises:
        MetaTrainingError: The loss is not finite.
        GrowthError: The module has no embedding.
    """
    linear_head(module)
    learned = copy.deepcopy(module).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(learned.parameters(), lr=plan.rate)
    generator = torch.Generator().manual_seed(plan.seed)
    began_s, best, steps = time.process_time(), learned, 0
    validated: list[tuple[int, float]] = []
    for done in range(plan.steps):
        spent = (time.process_time() - began_s) / plan.max_seconds
        fraction = max(done / plan.steps, spent)
        if fraction >= 1:
            break
        rate = plan.rate * (0.5 + 0.5 * math.cos(math.pi * fraction))
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = source.sample(1, plan.ways * plan.shots, plan.ways * plan.queries, generator)
        loss = _loss(learned.train(), batch, plan.ways)
        if not torch.isfinite(loss):
            raise MetaTrainingError(
                f"the loss of step {done + 1} is {loss.item()}: lower rate ({plan.rate})"
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        progress(done + 1, float(loss.detach()))
        steps = done + 1
        if validate is not None and plan.validate_every and steps % plan.validate_every == 0:
            score = validate(learned.eval())
            if score >= max((s for _, s in validated), default=-math.inf):
                best = copy.deepcopy(learned)
            validated.append((steps, score))
    for parameter in best.parameters():
        parameter.grad = None
    best.to(memory_format=torch.contiguous_format)
    return PrototypeTrained(best.eval(), steps, validated)


def _loss(module: nn.Module, batch: EpisodeBatch, ways: int) -> Tensor:
    support, query = batch.support, batch.query
    rows = torch.cat([support.inputs[0], query.inputs[0]])
    embedding: Tensor = module.embed(rows)  # type: ignore[operator]
    n = support.inputs.shape[1]
    logits = distance_logits(embedding[:n], support.targets[0], embedding[n:], ways)
    return nn.functional.cross_entropy(logits, query.targets[0])
