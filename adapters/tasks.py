"""Tasks and episodes: what meta-learning draws its examples from.

A task is examples with one meaning of the label. An episode is one task's support (to adapt on)
and query (to be judged on), disjoint by key: rows that share a key (one group, one source image)
never stand on both sides.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class TaskData:
    """One task's examples.

    Attributes:
        name: Unique in its set.
        inputs: ``(n, d)`` float32, encoded.
        targets: ``(n,)`` int64 classes, or float32 values in output units.
        keys: ``(n,)`` lineage keys.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    keys: Keys

    def __post_init__(self) -> None:
        sizes = (len(self.inputs), len(self.targets), len(self.keys))
        if self.inputs.ndim != 2 or self.targets.ndim != 1 or len(set(sizes)) != 1:
            raise ValueError(
                f"task {self.name!r}: inputs {tuple(self.inputs.shape)}, targets "
                f"{tuple(self.targets.shape)}, {len(self.keys)} keys; expected (n, d), (n,), n"
            )

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def groups(self) -> int:
        """Number of different keys: the most examples that one episode can draw."""
        return len(np.unique(self.keys))


@dataclass(frozen=True, slots=True, eq=False)
class TaskSet:
    """Tasks of one kind: equal width, unique names."""

    tasks: tuple[TaskData, ...]

    def __post_init__(self) -> None:
        twice = [n for n, c in Counter(task.name for task in self.tasks).items() if c > 1]
        if twice:
            raise ValueError(f"task names occur twice: {twice}; names must be unique")
        widths = {task.inputs.shape[1] for task in self.tasks}
        if len(widths) > 1:
            raise ValueError(f"tasks differ in width: {sorted(widths)}; encode them alike")

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(task.name for task in self.tasks)

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of names, examples and keys."""
        seen = hashlib.sha256()
        for task in self.tasks:
            seen.update(repr((task.name, tuple(task.inputs.shape))).encode())
            seen.update(task.inputs.contiguous().numpy().tobytes())
            seen.update(task.targets.contiguous().numpy().tobytes())
            seen.update(task.keys.tobytes())
        return f"sha256:{seen.hexdigest()}"

    def without_small(self, least: int) -> tuple["TaskSet", tuple[str, ...]]:
        """Return the tasks with at least ``least`` different keys, and the others' names."""
        large = tuple(task for task in self.tasks if task.groups >= least)
        kept = {task.name for task in large}
        return TaskSet(large), tuple(name for name in self.names if name not in kept)


def tasks_from_column(
    inputs: Tensor, targets: Tensor, task_names: Sequence[str], keys: Keys
) -> TaskSet:
    """Return one task per name, in order of first occurrence; rows keep their order."""
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(task_names):
        positions.setdefault(name, []).append(position)
    return TaskSet(
        tuple(TaskData(name, inputs[at], targets[at], keys[at]) for name, at in positions.items())
    )


def split_tasks(tasks: TaskSet, fractions: Sequence[float], seed: int) -> tuple[TaskSet, ...]:
    """Return disjoint sets with about ``fractions`` of the tasks each, at least one task each.

    Raises:
        ValueError: The fractions are not positive or sum above 1, or there are too few tasks.
    """
    if not fractions or min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
        raise ValueError(
            f"fractions are {list(fractions)}; give positive ones that sum to at most 1"
        )
    sizes = [max(1, round(fraction * len(tasks))) for fraction in fractions]
    while sum(sizes) > len(tasks) and max(sizes) > 1:
        sizes[sizes.index(max(sizes))] -= 1
    if sum(sizes) > len(tasks):
        raise ValueError(f"{len(tasks)} tasks cannot be split into {len(sizes)} sets; bring more")
    order = np.random.default_rng(seed).permutation(len(tasks)).tolist()
    parts, at = [], 0
    for size in sizes:
        chosen = sorted(order[at : at + size])
        parts.append(TaskSet(tuple(tasks.tasks[i] for i in chosen)))
        at += size
    return tuple(parts)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Examples: inputs ``(..., n, d)`` and targets ``(..., n)``."""

    inputs: Tensor
    targets: Tensor

    def of_tasks(self, tasks: slice, device: str) -> "Batch":
        """Return these tasks' examples on ``device``."""
        return Batch(self.inputs[tasks].to(device), self.targets[tasks].to(device))


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeBatch:
    """Support and query of several tasks, stacked: ``(tasks, n, ...)``; keys ``(tasks, n)``."""

    support: Batch
    query: Batch
    support_keys: Keys
    query_keys: Keys

    def of_tasks(self, tasks: slice, device: str) -> "EpisodeBatch":
        """Return these tasks' episodes on ``device``."""
        return EpisodeBatch(
            self.support.of_tasks(tasks, device),
            self.query.of_tasks(tasks, device),
            self.support_keys[tasks],
            self.query_keys[tasks],
        )


class EpisodeSource(Protocol):
    """Where episodes come from; the same generator state gives the same episodes."""

    @property
    def most(self) -> int:
        """Support + query examples that every episode can have."""
        ...

    def sample(
        self, tasks: int, support: int, query: int, generator: torch.Generator
    ) -> EpisodeBatch:
        """Return ``tasks`` episodes of ``support`` and ``query`` examples."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """Examples in cells (a task, or a class), from which distinct keys are drawn."""

    inputs: Tensor
    targets: Tensor
    keys: Keys
    starts: tuple[Tensor, ...]  # per cell: where each key's run of rows starts
    counts: tuple[Tensor, ...]  # per cell: how long that run is

    @staticmethod
    def of(cells: Sequence[TaskData]) -> "_Pool":
        orders, starts, counts, at = [], [], [], 0
        for cell in cells:
            order = np.argsort(cell.keys, kind="stable")
            _, first, count = np.unique(cell.keys[order], return_index=True, return_counts=True)
            orders.append(torch.from_numpy(order + at))
            starts.append(torch.from_numpy(first.astype(np.int64) + at))
            counts.append(torch.from_numpy(count.astype(np.int64)))
            at += len(cell)
        sort = torch.cat(orders)
        return _Pool(
            torch.cat([cell.inputs for cell in cells])[sort],
            torch.cat([cell.targets for cell in cells])[sort],
            np.concatenate([cell.keys for cell in cells])[sort.numpy()],
            tuple(starts),
            tuple(counts),
        )

    def small(self, least: int) -> list[int]:
        """Return the cells with fewer than ``least`` different keys."""
        return [cell for cell, starts in enumerate(self.starts) if len(starts) < least]

    @property
    def smallest(self) -> int:
        """Different keys in the smallest cell."""
        return min(len(starts) for starts in self.starts)

    def draw(self, cell: int, count: int, generator: torch.Generator) -> Tensor:
        """Return ``count`` row positions of ``cell`` with distinct keys."""
        starts, counts = self.starts[cell], self.counts[cell]
        groups = torch.randperm(len(starts), generator=generator)[:count]
        within = torch.rand(count, generator=generator, dtype=torch.float64) * counts[groups]
        return starts[groups] + within.long()

    def draw_by_class(
        self, cell: int, support: int, query: int, generator: torch.Generator
    ) -> Tensor:
        """Return ``support`` + ``query`` row positions of ``cell`` with distinct keys.

        The support goes round the classes: every class once before one has a second row.
        """
        rows = self.draw(cell, len(self.starts[cell]), generator)
        order = torch.argsort(self.targets[rows], stable=True)
        _, counts = torch.unique_consecutive(self.targets[rows[order]], return_counts=True)
        firsts = torch.cumsum(counts, 0) - counts
        turn = torch.empty_like(order)
        turn[order] = torch.arange(len(order)) - firsts.repeat_interleave(counts)
        chosen = torch.argsort(turn, stable=True)[:support]
        rest = torch.ones(len(rows), dtype=torch.bool)
        rest[chosen] = False
        return torch.cat([rows[chosen], rows[rest][:query]])

    def batch(self, at: Tensor, support: int, targets: Tensor | None = None) -> EpisodeBatch:
        """Return rows ``at`` ``(tasks, support + query)`` as episodes."""
        inputs = self.inputs[at]
        labels = self.targets[at] if targets is None else targets
        keys = self.keys[at.numpy()]
        return EpisodeBatch(
            Batch(inputs[:, :support], labels[:, :support]),
            Batch(inputs[:, support:], labels[:, support:]),
            keys[:, :support],
            keys[:, support:],
        )


@dataclass(frozen=True, slots=True, eq=False)
class TaskSampler:
    """Episodes of whole tasks, each drawn uniformly with replacement.

    Attributes:
        tasks: Where the episodes come from.
        by_class: Spread the support over the task's classes as evenly as it goes, as K labels per
            class are; a class with too few rows gives what it has, and of rows that share a key
            one is drawn, whatever its class. The query is drawn from the rest without regard to
            class. False: neither regards class.
    """

    tasks: TaskSet
    by_class: bool = False
    _pool: _Pool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.tasks.tasks:
            raise ValueError("cannot sample episodes from no tasks")
        if self.by_class and any(t.targets.is_floating_point() for t in self.tasks.tasks):
            raise ValueError("by_class is True, but the targets are numbers; leave it out")
        object.__setattr__(self, "_pool", _Pool.of(self.tasks.tasks))

    @property
    def most(self) -> int:
        """Support + query examples that every episode can have."""
        return self._pool.smallest

    def sample(
        self, tasks: int, support: int, query: int, generator: torch.Generator
    ) -> EpisodeBatch:
        """Return ``tasks`` episodes; ValueError names tasks with too few different keys."""
        small = self._pool.small(support + query)
        if small:
            raise ValueError(
                f"tasks {[self.tasks.names[i] for i in small]} have fewer than {support} support +"
                f" {query} query examples; leave them out (TaskSet.without_small) or ask for fewer"
            )
        chosen = torch.randint(len(self.tasks), (tasks,), generator=generator).tolist()
        if self.by_class:
            rows = [self._pool.draw_by_class(t, support, query, generator) for t in chosen]
        else:
            rows = [self._pool.draw(t, support + query, generator) for t in chosen]
        return self._pool.batch(torch.stack(rows), support)


@dataclass(frozen=True, slots=True, eq=False)
class NWayTasks:
    """N-way K-shot episodes: ``ways`` random classes in random order take the output slots.

    Attributes:
        classes: One ``TaskData`` per class; its targets are ignored.
        ways: Classes per episode, >= 2.
    """

    classes: TaskSet
    ways: int
    _pool: _Pool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 2 <= self.ways <= len(self.classes):
            raise ValueError(
                f"ways is {self.ways} with {len(self.classes)} classes; use 2 to that number"
            )
        object.__setattr__(self, "_pool", _Pool.of(self.classes.tasks))

    @property
    def most(self) -> int:
        """Support + query examples that every episode can have."""
        return self.ways * self._pool.smallest

    def sample(
        self, tasks: int, support: int, query: int, generator: torch.Generator
    ) -> EpisodeBatch:
        """Return ``tasks`` balanced episodes; both sizes are totals, multiples of ``ways``."""
        if support % self.ways or query % self.ways:
            raise ValueError(
                f"support {support} and query {query} must be multiples of {self.ways}"
            )
        shots, asked = support // self.ways, query // self.ways
        small = self._pool.small(shots + asked)
        if small:
            raise ValueError(
                f"classes {[self.classes.names[i] for i in small]} have fewer than {shots} +"
                f" {asked} examples; leave them out (TaskSet.without_small) or ask for fewer"
            )
        rows = []
        for _ in range(tasks):
            order = torch.randperm(len(self.classes), generator=generator)[: self.ways].tolist()
            drawn = [self._pool.draw(c, shots + asked, generator) for c in order]
            rows.append(torch.cat([d[:shots] for d in drawn] + [d[shots:] for d in drawn]))
        slots = torch.arange(self.ways)
        targets = torch.cat([slots.repeat_interleave(shots), slots.repeat_interleave(asked)])
        return self._pool.batch(torch.stack(rows), support, targets.expand(tasks, -1))


def n_way_tasks(inputs: Tensor, classes: Sequence[str], keys: Keys, *, ways: int) -> NWayTasks:
    """Return N-way episodes over the classes that label the rows."""
    nothing = torch.zeros(len(inputs), dtype=torch.int64)
    return NWayTasks(tasks_from_column(inputs, nothing, classes, keys), ways)
