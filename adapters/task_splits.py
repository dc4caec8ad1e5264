"""Which tasks train, which choose, which judge: one frozen value, and no row on two sides.

``TaskSplit`` is the claim that meta-train, meta-validation and meta-test tasks have nothing in
common; it cannot be made where that is false. ``split_rows`` does the same for the support and
query side of one task.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adapters.meta_settings import MetaTrainData
from adapters.tasks import Keys, TaskSet

SplitBy: TypeAlias = Literal["random", "time", "group"]
Positions: TypeAlias = NDArray[np.intp]


class LeakError(ValueError):
    """A task or a row stands on two sides; names which, and what to do."""


def refuse_common(sets: Mapping[str, TaskSet]) -> None:
    """Check that sets of tasks, or of classes, have no name and no row key in common.

    Args:
        sets: By what they are for, as ``meta-train``.

    Raises:
        LeakError: Two of them share a name, or a row (a turned copy of it counts as that row).
    """
    for one, other in combinations(sets, 2):
        both = sorted(set(sets[one].names) & set(sets[other].names))
        if both:
            raise LeakError(f"{both[:8]} are in {one} and {other}; keep them in one set")
        keys = np.concatenate([task.keys for task in sets[one].tasks])
        owners = [t.name for t in sets[other].tasks if np.isin(t.keys, keys).any()]
        if owners:
            raise LeakError(f"rows of {owners[:8]} in {other} are in {one} too; leave them out")


@dataclass(frozen=True, slots=True, eq=False)
class TaskSplit:
    """Meta-train, meta-validation and meta-test tasks of one data set.

    Attributes:
        data: All labelled rows, with their tasks.
        train: Tasks that starts are trained on.
        validation: Tasks that train nothing and choose steps and step sizes.
        test: Tasks that train nothing, choose nothing, and judge.
        digests: ``sha256:<hex>`` of each set's names, rows, labels and keys.

    Raises:
        LeakError: A task is in two sets, or a row's key (its group) is.
        ValueError: A task is unknown, or a set that must not be empty is.
    """

    data: MetaTrainData
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    digests: dict[str, str] = field(init=False)
    _rows_by_task: dict[str, Positions] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        at: dict[str, list[int]] = {}
        for row, name in enumerate(self.data.tasks):
            at.setdefault(name, []).append(row)
        rows = {name: np.array(found, np.intp) for name, found in at.items()}
        object.__setattr__(self, "_rows_by_task", rows)
        sets = {
            "meta-train": self.train,
            "meta-validation": self.validation,
            "meta-test": self.test,
        }
        for part, names in sets.items():
            unknown = [name for name in names if name not in rows]
            if unknown:
                raise ValueError(
                    f"{part} names tasks {unknown[:8]} that have no row; the tasks are "
                    f"{sorted(rows)[:20]}"
                )
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise LeakError(f"{part} names tasks {twice[:8]} twice; name each once")
        if not self.train or not self.test:
            raise ValueError("meta-train and meta-test need at least one task each; bring more")
        keys = {part: self.data.examples.keys[self._rows(names)] for part, names in sets.items()}
        for one, other in combinations(sets, 2):
            there = set(sets[other])
            both = [name for name in sets[one] if name in there]
            if both:
                raise LeakError(f"tasks {both[:8]} are in {one} and {other}; keep them in one set")
            shared = np.intersect1d(keys[one], keys[other])
            if len(shared):
                owners = self._owners(shared, (*sets[one], *sets[other]))
                raise LeakError(
                    f"{len(shared)} row keys (groups) are in {one} and {other}, of tasks "
                    f"{owners[:8]}; put tasks that share rows or groups into one set"
                )
        digests = {part: self._digest(names) for part, names in sets.items()}
        object.__setattr__(self, "digests", digests)

    @staticmethod
    def with_test(
        data: MetaTrainData, test: Sequence[str], validation: Sequence[str]
    ) -> "TaskSplit":
        """Return the split in which every task not named trains."""
        held = {*test, *validation}
        names = dict.fromkeys(data.tasks)
        train = tuple(name for name in names if name not in held)
        return TaskSplit(data, train, tuple(validation), tuple(test))

    def rows_of(self, task: str) -> Positions:
        """Return the rows of a task, rising."""
        return self._rows((task,))

    @property
    def train_rows(self) -> Positions:
        """Rows of the meta-train tasks, rising."""
        return self._rows(self.train)

    @property
    def last_train(self) -> str:
        """The meta-train task whose first row comes after every other one's."""
        return max(self.train, key=lambda name: int(self.rows_of(name)[0]))

    def refuse_trained(self, trained_on: Keys, what: str) -> None:
        """Check that ``what`` has seen no meta-test row.

        Raises:
            LeakError: It has; names the tasks.
        """
        seen = np.intersect1d(self.data.examples.keys[self._rows(self.test)], trained_on)
        if len(seen):
            raise LeakError(
                f"{what} was trained on {len(seen)} meta-test row keys, of tasks "
                f"{self._owners(seen, self.test)[:8]}; train it again without these tasks"
            )

    def _rows(self, names: Sequence[str]) -> Positions:
        none = np.empty(0, np.intp)
        return np.sort(np.concatenate([none, *(self._rows_by_task[name] for name in names)]))

    def _owners(self, keys: Keys, among: Sequence[str]) -> list[str]:
        rows = np.flatnonzero(np.isin(self.data.examples.keys, keys)).tolist()
        return sorted({self.data.tasks[i] for i in rows} & set(among))

    def _digest(self, names: Sequence[str]) -> str:
        seen = hashlib.sha256(repr(sorted(names)).encode())
        for name in sorted(names):
            part = self.data.examples.take(self.rows_of(name))
            seen.update(part.rows.numbers.tobytes())
            seen.update(repr((name, part.rows.categories, part.labels)).encode())
            seen.update(part.values.tobytes())
            seen.update(part.keys.tobytes())
        return f"sha256:{seen.hexdigest()}"


def draw_test_tasks(tasks: Sequence[str], fraction: float, seed: int) -> tuple[str, ...]:
    """Return about ``fraction`` of the tasks, at least one and never all, drawn under ``seed``.

    Raises:
        ValueError: The fraction is not in (0, 1), or there are fewer than two tasks.
    """
    names = sorted(set(tasks))
    if not 0 < fraction < 1:
        raise ValueError(f"the test fraction is {fraction}; use a number between 0 and 1")
    if len(names) < 2:
        raise ValueError(f"there is only the task {names}; a test needs at least two tasks")
    count = min(len(names) - 1, max(1, round(fraction * len(names))))
    order = np.random.default_rng(seed).permutation(len(names))[:count]
    return tuple(names[i] for i in sorted(order.tolist()))


def split_rows(
    keys: Keys,
    by: SplitBy,
    share: float,
    *,
    seed: int = 0,
    times: NDArray[np.int64] | None = None,
) -> tuple[Positions, Positions]:
    """Return support and query positions of one task's rows; no key stands on both sides.

    Args:
        keys: ``(n,)`` lineage keys.
        by: ``random``: keys drawn under ``seed``, to about ``share`` of the rows. ``group``: whole
            groups, to about ``share`` of the groups. ``time``: the earliest ``share`` of the rows
            is support; later rows of a key that is there belong to neither side.
        share: Of the support, in (0, 1).
        seed: Of the draw.
        times: ``(n,)``, for ``time``; equal times keep the rows' order.

    Raises:
        ValueError: The share is outside (0, 1), times are missing, or one side is empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; use a number between 0 and 1")
    if by == "time":
        if times is None or len(times) != len(keys):
            raise ValueError("split by time needs one time per row; name a time column")
        order = np.argsort(times, kind="stable")
        support = np.sort(order[: max(1, round(share * len(keys)))])
    else:
        groups, owner = np.unique(keys, return_inverse=True)
        drawn = np.random.default_rng(seed).permutation(len(groups))
        if by == "group":
            count = max(1, round(share * len(groups)))
        else:
            rows = np.cumsum(np.bincount(owner, minlength=len(groups))[drawn])
            count = 1 + int(np.abs(rows - share * len(keys)).argmin())
        support = np.flatnonzero(np.isin(owner, drawn[:count]))
    query = np.flatnonzero(~np.isin(keys, keys[support]))
    if not len(query):
        raise ValueError(
            f"{len(np.unique(keys))} keys in {len(keys)} rows leave no query beside a support of "
            f"{len(support)} rows; bring more rows, or lower share ({share})"
        )
    return support, query


def refuse_shared(support: Keys, query: Keys, where: str) -> None:
    """Check that no key is in support and query.

    Raises:
        LeakError: One is.
    """
    shared = np.intersect1d(support, query)
    if len(shared):
        raise LeakError(
            f"{where}: {len(shared)} query row keys (groups) are planted in the support; "
            "draw the support from other rows"
        )
