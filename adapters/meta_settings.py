"""What meta-training is given: examples of many tasks, and settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from adapters.examples import Examples
from adapters.feature_schema import FeatureSchema
from adapters.meta_init import ALGORITHMS, Algorithm
from adapters.model_file import Architecture

USUAL_ALGORITHMS: tuple[Algorithm, ...] = ("maml", "reptile")
"""What is trained unless told otherwise."""


class MetaTrainingError(Exception):
    """Meta-training cannot start, diverged, or lost a worker; the message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class MetaTrainData:
    """Labelled rows and the task that each belongs to.

    Attributes:
        schema: Raw features.
        examples: Every labelled row; rows with one key never stand on both sides of an episode.
        tasks: Task name of each row. Empty for N-way K-shot over classes (``settings.ways``).
        class_names: Order of the outputs; empty means the sorted labels. Ignored for N-way.
    """

    schema: FeatureSchema
    examples: Examples
    tasks: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tasks and len(self.tasks) != len(self.examples):
            raise ValueError(f"{len(self.tasks)} task names for {len(self.examples)} examples")
        unknown = sorted(set(self.examples.labels) - set(self.class_names))
        if self.class_names and unknown:
            raise ValueError(f"labels {unknown[:8]} are not in class_names {self.class_names}")


@dataclass(frozen=True, slots=True)
class MetaTrainSettings:
    """How to meta-train.

    Attributes:
        algorithms: Which starts to train, out of ``adapters.meta_init.ALGORITHMS``.
        hidden: Hidden widths of the MLP.
        architecture: A module of one's own instead of the MLP, ``(n, d) -> (n, C)``. ``inputs``
            (d) and ``outputs`` (C) are filled in where its constructor takes them.
        support: Labels that a start shall adapt from; for N-way a multiple of ``ways``.
        query: Examples that judge an adapted start; for N-way a multiple of ``ways``.
        ways: Classes per episode for N-way K-shot; 0 takes the tasks column.
        by_class: Without ``ways``: spread the support evenly over the classes of each task, as
            K labels per class in use; False draws it without regard to class, as a stream does.
        maml_steps: Meta-steps of MAML and of all others but Reptile; the rate decays to 0 over
            them by a cosine.
        maml_tasks: Tasks per meta-step, likewise.
        maml_lr: Adam's step size for the start and for learned step sizes, likewise.
        inner_steps: Inner steps of MAML, FOMAML and ANIL; Meta-SGD takes one.
        step_size: Inner step size, or where learned ones start.
        learn_step_sizes: Let MAML learn one step size per parameter, as Meta-SGD does.
        reptile_steps: Meta-steps of Reptile.
        reptile_tasks: Tasks per meta-step of Reptile.
        reptile_inner_steps: Inner steps of Reptile, each on ``support`` of 2 x ``support`` rows.
        reptile_pull: Fraction of the way that Reptile moves at first; decays to 0 linearly.
        max_gradient_norm: Longer meta-gradients are shortened to this; one bad batch must not
            throw the start away.
        validate_every: Meta-steps between looks at the meta-validation episodes; the start that
            did best there is the one that is kept. 0: look at the end only.
        patience: With ``validate_every``: looks without a gain before training stops.
        max_seconds: Wall-clock budget of each algorithm. A machine too slow for the steps above
            takes fewer, with the decay fitted to them; then the result depends on its speed.
        validation_fraction: Share of the tasks that train nothing and choose steps, Reptile's
            step size and ``recommended``; at least one task (N-way: ``ways`` classes).
        validation_episodes: Episodes per support size in meta-validation.
        seed: Seed of everything drawn.
        processes: Algorithms that train side by side, in processes of their own; 1 trains one
            after another.
        members: Processes that share each meta-step of one algorithm (torch.distributed); a
            divisor of both numbers of tasks. Worth it where a meta-step takes tens of
            milliseconds.
        device: Where meta-steps run, as torch names it: ``cpu``, ``cuda``. The same bits are
            promised on a CPU only.
    """

    algorithms: tuple[Algorithm, ...] = USUAL_ALGORITHMS
    hidden: tuple[int, ...] = (64, 64)
    architecture: Architecture | None = None
    support: int = 20
    query: int = 40
    ways: int = 0
    by_class: bool = False
    maml_steps: int = 1500
    maml_tasks: int = 16
    maml_lr: float = 2e-3
    inner_steps: int = 5
    step_size: float = 0.1
    learn_step_sizes: bool = True
    reptile_steps: int = 3000
    reptile_tasks: int = 4
    reptile_inner_steps: int = 8
    reptile_pull: float = 0.5
    max_gradient_norm: float = 10.0
    validate_every: int = 0
    patience: int = 5
    max_seconds: float = 50.0
    validation_fraction: float = 0.15
    validation_episodes: int = 48
    seed: int = 0
    processes: int = 2
    members: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        known = set(self.algorithms) <= set(ALGORITHMS)
        if not self.algorithms or not known or len(set(self.algorithms)) < len(self.algorithms):
            raise ValueError(
                f"algorithms is {self.algorithms}; name each once, out of {ALGORITHMS}"
            )
        positive = (
            *("support", "query", "maml_steps", "maml_tasks", "maml_lr", "inner_steps"),
            *("step_size", "reptile_steps", "reptile_tasks", "reptile_inner_steps"),
            *("max_seconds", "validation_episodes", "processes", "members"),
            *("max_gradient_norm", "patience"),
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; use a number > 0")
        for name in ("reptile_pull", "validation_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; use a number in (0, 1]")
        if self.ways and (self.ways < 2 or self.support % self.ways or self.query % self.ways):
            raise ValueError(
                f"ways is {self.ways}; use 0, or >= 2 with support {self.support} and query"
                f" {self.query} multiples of it"
            )
        if self.ways and "joint" in self.algorithms:
            raise ValueError(
                "algorithms has joint with ways: classes without fixed outputs cannot be learned"
                " jointly; leave one of them out"
            )
        if self.ways and self.by_class:
            raise ValueError(
                "by_class with ways: N-way episodes have equal classes already; leave one out"
            )
        if self.validate_every < 0:
            raise ValueError(f"validate_every is {self.validate_every}; use a number >= 0")
        for name in ("maml_tasks", "reptile_tasks"):
            if getattr(self, name) % self.members:
                raise ValueError(
                    f"members is {self.members}; use a divisor of {name} ({getattr(self, name)})"
                )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one job is.

    Attributes:
        job: The algorithm.
        step: Meta-steps done.
        steps: Meta-steps planned.
        loss: Mean training loss since the last report; NaN where the job has none.
        seconds: Since the job began.
    """

    job: str
    step: int
    steps: int
    loss: float
    seconds: float


Report: TypeAlias = Callable[[Progress], None]
