"""From the settings of a whole training to one algorithm and the plan of its loop."""

import math
from dataclasses import dataclass
from typing import assert_never

from adapters.anil import ANIL
from adapters.fomaml import FOMAML
from adapters.joint_pretraining import JointPretraining
from adapters.maml import MAML
from adapters.meta_init import Algorithm
from adapters.meta_learner import MetaLearner, Outer
from adapters.meta_settings import MetaTrainSettings
from adapters.meta_sgd import MetaSGD
from adapters.reptile import Reptile


@dataclass(frozen=True, slots=True)
class Plan:
    """One algorithm's loop.

    Attributes:
        steps: Meta-steps.
        tasks: Tasks per meta-step.
        support: Support examples per task.
        query: Query examples per task.
        rate: Outer step size at first: Adam's, or Reptile's fraction of the way.
        seed: Seed of the episodes.
        max_seconds: Wall-clock budget; a slow machine takes fewer steps, annealed all the same.
        max_gradient_norm: Longer meta-gradients are shortened to this.
        validate_every: Meta-steps between meta-validations; 0: none.
        patience: Meta-validations without a gain before training stops.
        device: Where meta-steps run.
    """

    steps: int = 1500
    tasks: int = 16
    support: int = 20
    query: int = 40
    rate: float = 2e-3
    seed: int = 0
    max_seconds: float = math.inf
    max_gradient_norm: float = 10.0
    validate_every: int = 0
    patience: int = 5
    device: str = "cpu"

    def rate_at(self, fraction: float, outer: Outer) -> float:
        """Return the outer step size when ``fraction`` of the steps is done.

        >>> Plan(rate=1.0).rate_at(0.5, "pull"), round(Plan(rate=1.0).rate_at(0.5, "adam"), 3)
        (0.5, 0.5)
        """
        if outer == "pull":
            return self.rate * (1 - fraction)
        return self.rate * (0.5 + 0.5 * math.cos(math.pi * fraction))


def learner_of(algorithm: Algorithm, settings: MetaTrainSettings) -> MetaLearner:
    """Return the algorithm as the settings want it."""
    match algorithm:
        case "maml":
            return MAML(settings.inner_steps, settings.step_size, settings.learn_step_sizes)
        case "fomaml":
            return FOMAML(settings.inner_steps, settings.step_size)
        case "anil":
            return ANIL(settings.inner_steps, settings.step_size)
        case "meta-sgd":
            return MetaSGD(settings.step_size)
        case "reptile":
            return Reptile(settings.reptile_inner_steps, settings.step_size, settings.support)
        case "joint":
            return JointPretraining(settings.step_size)
        case _:
            assert_never(algorithm)


def plan_of(algorithm: Algorithm, settings: MetaTrainSettings) -> Plan:
    """Return the algorithm's plan: Reptile has its own numbers, the others share MAML's."""
    reptile = algorithm == "reptile"
    return Plan(
        steps=settings.reptile_steps if reptile else settings.maml_steps,
        tasks=settings.reptile_tasks if reptile else settings.maml_tasks,
        support=settings.support,
        query=settings.support if reptile else settings.query,
        rate=settings.reptile_pull if reptile else settings.maml_lr,
        seed=settings.seed,
        max_seconds=settings.max_seconds,
        max_gradient_norm=settings.max_gradient_norm,
        validate_every=settings.validate_every,
        patience=settings.patience,
        device=settings.device,
    )
