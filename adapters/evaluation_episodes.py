"""Meta-test episodes: a few labels of one task to adapt on, other rows of it to be judged on.

For classification an episode has ``shots`` support rows of every class that the task has enough
rows of; for regression ``shots`` rows in all. Support rows have keys of their own, and no query
row shares one: drawn so, and checked again when the episode is made. A task whose classes share
so many groups that this cannot hold for every draw is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adapters.task_frames import LeftOut
from adapters.task_splits import LeakError, Positions, TaskSplit, refuse_shared
from adapters.tasks import Keys

Order: TypeAlias = Literal["random", "time"]
Times: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One task's support and query, as row positions of the split's data.

    Attributes:
        task: Whose rows.
        support: What recipes learn from.
        query: What they are judged on.
        keys: Lineage keys of all the data's rows.

    Raises:
        LeakError: A query row, or a row with a query row's key, is in the support.
    """

    task: str
    support: Positions
    query: Positions
    keys: Keys = field(repr=False)

    def __post_init__(self) -> None:
        refuse_shared(self.keys[self.support], self.keys[self.query], f"task {self.task!r}")


@dataclass(frozen=True, slots=True, eq=False)
class _Cell:
    """Rows of one class of a task (regression: all of them) by side."""

    support: Positions
    query: Positions


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeDrawer:
    """Draws episodes of some tasks of a split, task after task, so that each counts alike.

    Attributes:
        split: Whose data.
        tasks: Of one set of the split.
        shots: Labels per class; for regression labels in all.
        query: Query rows, at most.
        order: ``random``, or ``time``: support from the earlier half of each class's rows in a
            task, query from the later half.
        times: ``(n,)``, one per row of the data; needed for ``time``.

    Raises:
        ValueError: No task has enough rows, or times are missing.
    """

    split: TaskSplit
    tasks: tuple[str, ...]
    shots: int
    query: int = 60
    order: Order = "random"
    times: Times | None = None
    left_out: tuple[LeftOut, ...] = field(init=False)
    _cells: Mapping[str, tuple[_Cell, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.split.data.examples)
        if self.shots < 1 or self.query < 1:
            raise ValueError(f"shots is {self.shots}, query {self.query}; use numbers >= 1")
        if self.order == "time" and (self.times is None or len(self.times) != n):
            raise ValueError("episodes in order of time need one time per row; name a time column")
        cells: dict[str, tuple[_Cell, ...]] = {}
        left_out: list[LeftOut] = []
        for task in self.tasks:
            whole, small = self._usable(task)
            left_out += small
            if whole:
                cells[task] = whole
        if not cells:
            raise ValueError(
                f"none of the tasks {list(self.tasks)[:8]} can give an episode of {self.shots} "
                f"shots ({'; '.join(f'{t.name} {t.reason}' for t in left_out[:6])}); ask for fewer "
                "shots or bring more rows"
            )
        object.__setattr__(self, "left_out", tuple(left_out))
        object.__setattr__(self, "_cells", cells)

    @property
    def able(self) -> tuple[str, ...]:
        """Tasks that can give an episode."""
        return tuple(self._cells)

    def draw(self, episodes: int, seed: int) -> Iterator[Episode]:
        """Yield episodes; the same seed gives the same ones."""
        random = np.random.default_rng([seed, self.shots])
        names = self.able
        for i in range(episodes):
            yield self._one(names[i % len(names)], random)

    def _one(self, task: str, random: np.random.Generator) -> Episode:
        keys, cells = self.split.data.examples.keys, self._cells[task]
        chosen = _one_row_per_key(
            [random.permutation(cell.support) for cell in cells], keys, self.shots
        )
        if chosen is None:
            raise LeakError(f"task {task!r}: its classes share too many groups; leave the task out")
        support = np.sort(chosen)
        rest = np.concatenate([cell.query for cell in cells])
        rest = rest[~np.isin(keys[rest], keys[support])]
        query = np.sort(random.permutation(rest)[: self.query])
        return Episode(task, support, query, keys)

    def _usable(self, task: str) -> tuple[tuple[_Cell, ...], list[LeftOut]]:
        """Return the cells that can give support and query, and the others with the reason."""
        data, rows = self.split.data, self.split.rows_of(task)
        keys, small, whole = data.examples.keys, list[LeftOut](), list[_Cell]()
        for label, mine in self._by_class(rows).items():
            cell = self._sides(mine)
            name = f"{task}, class {label!r}" if label is not None else task
            rest = len(np.unique(keys[cell.support]))
            least = self.shots if self.order == "time" else self.shots + 1
            if rest < least or not len(cell.query):
                half = " in its earlier half" if self.order == "time" else ""
                reason = f"has {rest} different rows{half}, fewer than {least}"
                small.append(LeftOut(name, len(mine), reason))
            else:
                whole.append(cell)
        if data.examples.labels and len(whole) == 1:
            reason = f"has one class with enough rows for {self.shots} shots, fewer than 2"
            return (), [*small, LeftOut(task, len(rows), reason)]
        if whole and not self._enough_together(whole):
            reason = (
                f"has classes that share groups: too few for {self.shots} shots of each of its "
                f"{len(whole)} classes, no two of one group, and another group to judge"
            )
            return (), [*small, LeftOut(task, len(rows), reason)]
        return tuple(whole), small

    def _enough_together(self, cells: list[_Cell]) -> bool:
        """Whether every draw gives full support and leaves at least one query row."""
        keys = self.split.data.examples.keys
        if _one_row_per_key([cell.support for cell in cells], keys, self.shots) is None:
            return False
        support = np.unique(keys[np.concatenate([cell.support for cell in cells])])
        query = np.unique(keys[np.concatenate([cell.query for cell in cells])])
        never_support = not np.isin(query, support).all()
        return never_support or len(query) > self.shots * len(cells)

    def _by_class(self, rows: Positions) -> dict[str | None, Positions]:
        labels = self.split.data.examples.labels
        if not labels:
            return {None: rows}
        found: dict[str | None, list[int]] = {}
        for row in rows.tolist():
            found.setdefault(labels[row], []).append(row)
        return {label: np.array(found[label], np.intp) for label in sorted(found, key=str)}

    def _sides(self, rows: Positions) -> _Cell:
        if self.order == "random" or self.times is None:
            return _Cell(rows, rows)
        ordered = rows[np.argsort(self.times[rows], kind="stable")]
        half = len(ordered) // 2
        return _Cell(ordered[:half], ordered[half:])


def _one_row_per_key(classes: list[Positions], keys: Keys, shots: int) -> Positions | None:
    """Return ``shots`` rows per class, no two of one key, or None where there are none.

    Earlier rows are preferred. A class that finds all its keys taken gets one from a class that
    can take another (augmenting paths of bipartite matching), so None means that none exist.
    """
    options: list[dict[int, int]] = []
    for rows in classes:
        first: dict[int, int] = {}
        for key, row in zip(keys[rows].tolist(), rows.tolist(), strict=True):
            first.setdefault(key, row)
        options.append(first)
    owner: dict[int, int] = {}

    def takes(mine: int, asked: set[int]) -> bool:
        asked.add(mine)
        for key in options[mine]:
            if key not in owner:
                owner[key] = mine
                return True
        for key in options[mine]:
            if owner[key] not in asked and takes(owner[key], asked):
                owner[key] = mine
                return True
        return False

    for mine in range(len(classes)):
        for _ in range(shots):
            if not takes(mine, set()):
                return None
    return np.array([options[mine][key] for key, mine in owner.items()], np.intp)
