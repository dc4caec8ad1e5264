"""Events that were scored, waiting for their labels: features and answers as they were then.

Rows live in blocks of 256 consecutive positions (a position counts the scored events of a model),
so a label finds its row by arithmetic, the collector has few objects to walk, and the oldest go a
block at a time. Within the window a repeated id is recognised; an event that leaves it without a
label is counted as evicted.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.feature_schema import Rows

BLOCK = 256
NO_MODEL = -1

STABLE, CANDIDATE, FORMER = 0, 1, 2
"""The arms: the champion; a rollout's candidate; the champion before, during probation."""
ANOTHER = 3
"""In ``served``: a version answered that was none of the arms then."""
UNSETTLED = 255
"""In ``weights``: a router chose the arm, and with what chance is not known."""


@dataclass(frozen=True, slots=True)
class Routed:
    """Which task n events were of, and what the task's own weights said.

    Attributes:
        tasks: Task per row, or None.
        serials: Number of the task's weights that answered, (n,) int32; 0 where none did.
        answers: Their class number or value, (n,) float64; NaN where none did.
    """

    tasks: list[str | None]
    serials: NDArray[np.int32]
    answers: NDArray[np.float64]

    def part(self, low: int, high: int) -> "Routed":
        """Return rows ``low`` to ``high`` (exclusive)."""
        return Routed(self.tasks[low:high], self.serials[low:high], self.answers[low:high])

    def pack(self) -> tuple[list[str | None], bytes, bytes]:
        """Return the rows as they go to the state file."""
        return self.tasks, self.serials.tobytes(), self.answers.tobytes()

    @classmethod
    def unpack(cls, packed: tuple[list[str | None], bytes, bytes]) -> "Routed":
        """Read what ``pack`` wrote."""
        tasks, serials, answers = packed
        return cls(tasks, np.frombuffer(serials, np.int32), np.frombuffer(answers, np.float64))


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """n consecutive scored events.

    Attributes:
        start: Position of the first.
        ids: Event ids.
        groups: Group per row, or None.
        times_ms: Record timestamps, (n,).
        rows: Raw features.
        versions: Version number that scored each arm, (n, 3) int32; -1 where none did.
        answers: Class number or value per arm, (n, 3) float64; NaN where none.
        served: Arm whose answer was served, or ``ANOTHER``, (n,) uint8.
        weights: Percent of answers that were the candidate's when each was scored, (n,) uint8; 0
            where nothing was drawn, ``UNSETTLED`` where the chance is not known.
        routed: The rows' tasks; None without ``model.route_by``.
    """

    start: int
    ids: list[str]
    groups: list[str | None]
    times_ms: NDArray[np.int64]
    rows: Rows
    versions: NDArray[np.int32]
    answers: NDArray[np.float64]
    served: NDArray[np.uint8]
    weights: NDArray[np.uint8]
    routed: Routed | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, low: int, high: int) -> "ScoredRows":
        """Return rows ``low`` to ``high`` (exclusive), counted from 0."""
        return ScoredRows(
            self.start + low,
            self.ids[low:high],
            self.groups[low:high],
            self.times_ms[low:high],
            self.rows.take(np.arange(low, high)),
            self.versions[low:high],
            self.answers[low:high],
            self.served[low:high],
            self.weights[low:high],
            None if self.routed is None else self.routed.part(low, high),
        )

    def pack(self) -> bytes:
        """Return the rows as bytes, for the state file."""
        routed = () if self.routed is None else (self.routed.pack(),)
        return msgspec.msgpack.encode(
            (
                self.start,
                self.ids,
                self.groups if any(g is not None for g in self.groups) else None,
                np.ascontiguousarray(self.times_ms).tobytes(),
                self.rows.numbers.shape[1],
                np.ascontiguousarray(self.rows.numbers).tobytes(),
                self.rows.categories,
                np.ascontiguousarray(self.versions).tobytes(),
                np.ascontiguousarray(self.answers).tobytes(),
                np.ascontiguousarray(self.served).tobytes(),
                np.ascontiguousarray(self.weights).tobytes(),
                *routed,
            )
        )

    @classmethod
    def unpack(cls, packed: bytes) -> "ScoredRows":
        """Read what ``pack`` wrote."""
        (
            start,
            ids,
            groups,
            times,
            width,
            numbers,
            categories,
            versions,
            answers,
            served,
            weights,
            *routed,
        ) = msgspec.msgpack.decode(packed)
        n = len(ids)
        return cls(
            start,
            ids,
            groups if groups is not None else [None] * n,
            np.frombuffer(times, np.int64),
            Rows(
                np.frombuffer(numbers, np.float64).reshape(n, width),
                tuple(tuple(c) for c in categories),
            ),
            np.frombuffer(versions, np.int32).reshape(n, 3),
            np.frombuffer(answers, np.float64).reshape(n, 3),
            np.frombuffer(served, np.uint8),
            np.frombuffer(weights, np.uint8),
            Routed.unpack(routed[0]) if routed else None,
        )


@dataclass(frozen=True, slots=True)
class Joined:
    """One label with the event it belongs to, as that event was at prediction time.

    ``serial`` and ``own`` are of the task's own weights: 0 and NaN where none answered.
    """

    position: int
    id: str
    group: str | None
    label: float
    versions: tuple[int, int, int]
    answers: tuple[float, float, float]
    served: int
    weight_pct: int
    task: str | None = None
    serial: int = 0
    own: float = math.nan


class JoinWindow:
    """The last ``capacity`` scored events, and which of them have their label.

    Args:
        capacity: Most events kept; at least 1,000.
        early_capacity: Most labels kept that came before their event.
    """

    def __init__(self, capacity: int, early_capacity: int) -> None:
        self.capacity, self.early_capacity = capacity, early_capacity
        self.first = self.next = 0
        self.evicted = self.orphans = 0
        self.early: OrderedDict[str, float] = OrderedDict()
        self._index: dict[str, int] = {}
        self._labels: dict[int, float] = {}
        self._blocks: dict[int, list[ScoredRows]] = {}
        self.added: list[ScoredRows] = []
        self.labelled: list[tuple[int, float]] = []
        self.early_added: dict[str, float] = {}
        self.early_removed: set[str] = set()

    def __len__(self) -> int:
        return self.next - self.first

    def position_of(self, event_id: str) -> int | None:
        """Return where the event stands, or None when it is unknown or gone."""
        return self._index.get(event_id)

    def knows_none_of(self, ids: Iterable[str]) -> bool:
        """Whether no event of these ids is in the window."""
        return self._index.keys().isdisjoint(ids)

    def label_at(self, position: int) -> float | None:
        """Return the first label that joined the event, or None."""
        return self._labels.get(position)

    def append(self, scored: ScoredRows) -> None:
        """Add rows at ``next``; the oldest blocks leave when there are too many."""
        self.added.append(scored)
        self.restore(scored)
        while self.next - self.first > self.capacity:
            self._evict_block()

    def restore(self, scored: ScoredRows) -> None:
        """Add rows without recording a change (at load)."""
        if not self._blocks:
            self.first = self.next = scored.start
        index, start, n = self._index, scored.start, len(scored)
        low = 0
        while low < n:
            block = (start + low) // BLOCK
            high = min(n, (block + 1) * BLOCK - start)
            part = scored if (low, high) == (0, n) else scored.part(low, high)
            parts = self._blocks.setdefault(block, [])
            parts.append(part)
            if len(parts) > 1 and (start + high) % BLOCK == 0:
                self._blocks[block] = [_merged(parts)]
            low = high
        index.update(zip(scored.ids, range(start, start + n), strict=True))
        self.next = start + n

    def expire(self, before_ms: int) -> None:
        """Drop the oldest blocks whose newest row is older than ``before_ms`` of engine time."""
        while self._blocks:
            oldest = self._blocks[self.first // BLOCK]
            if oldest[-1].times_ms.max() >= before_ms or self.first // BLOCK == self.next // BLOCK:
                return
            self._evict_block()

    def _evict_block(self) -> None:
        number = self.first // BLOCK
        for part in self._blocks.pop(number):
            for position, event_id in enumerate(part.ids, part.start):
                if self._index.get(event_id) == position:
                    del self._index[event_id]
                if self._labels.pop(position, None) is None:
                    self.evicted += 1
        self.first = min((number + 1) * BLOCK, self.next)

    def _find(self, position: int) -> tuple[ScoredRows, int]:
        for part in self._blocks[position // BLOCK]:
            if position < part.start + len(part):
                return part, position - part.start
        raise KeyError(position)

    def row(self, position: int) -> tuple[Rows, int]:
        """Return the rows that hold ``position`` and the index within them."""
        part, i = self._find(position)
        return part.rows, i

    def join(self, position: int, label: float) -> Joined:
        """Record the first label of the event at ``position`` and return both together."""
        part, i = self._find(position)
        self._labels[position] = label
        self.labelled.append((position, label))
        v, a, routed = part.versions[i], part.answers[i], part.routed
        task = () if routed is None else _of_task(routed, i)
        return Joined(
            position,
            part.ids[i],
            part.groups[i],
            label,
            (int(v[0]), int(v[1]), int(v[2])),
            (float(a[0]), float(a[1]), float(a[2])),
            int(part.served[i]),
            int(part.weights[i]),
            *task,
        )

    def task_at(self, position: int) -> str | None:
        """Return the task of the event at ``position``, or None."""
        part, i = self._find(position)
        return None if part.routed is None else part.routed.tasks[i]

    def restore_label(self, position: int, label: float) -> None:
        """Record a label without recording a change (at load)."""
        self._labels[position] = label

    def hold_early(self, event_id: str, label: float) -> None:
        """Keep a label whose event has not come; the oldest becomes an orphan when full."""
        for known in (self.early, self.early_added):  # a later word takes its place at the end
            known.pop(event_id, None)
            known[event_id] = label
        self.early_removed.discard(event_id)
        if len(self.early) > self.early_capacity:
            gone, _ = self.early.popitem(last=False)
            self._forget_early(gone)
            self.orphans += 1

    def take_early(self, event_id: str) -> float | None:
        """Return and forget the label that came before its event."""
        label = self.early.pop(event_id, None)
        if label is not None:
            self._forget_early(event_id)
        return label

    def _forget_early(self, event_id: str) -> None:
        self.early_added.pop(event_id, None)
        self.early_removed.add(event_id)  # an earlier transaction may have written it

    def since(self, position: int) -> Iterator[ScoredRows]:
        """Yield the rows at ``position`` and later, oldest first."""
        for number in range(max(position, self.first) // BLOCK, self.next // BLOCK + 1):
            for part in self._blocks.get(number, ()):
                low = max(0, position - part.start)
                if low < len(part):
                    yield part.part(low, len(part)) if low else part

    def position_at(self, time_ms: int) -> int:
        """Return the position of the first event stamped at or after ``time_ms``."""
        for number in sorted(self._blocks):
            for part in self._blocks[number]:
                hits = np.nonzero(part.times_ms >= time_ms)[0]
                if hits.size:
                    return part.start + int(hits[0])
        return self.next

    def clear_changes(self) -> None:
        """Forget what changed: it has been written."""
        self.added, self.labelled = [], []
        self.early_added, self.early_removed = {}, set()


def _merged(parts: Sequence[ScoredRows]) -> ScoredRows:
    """Return consecutive runs as one."""
    return ScoredRows(
        parts[0].start,
        [i for p in parts for i in p.ids],
        [g for p in parts for g in p.groups],
        np.concatenate([p.times_ms for p in parts]),
        Rows.concat([p.rows for p in parts]),
        np.concatenate([p.versions for p in parts]),
        np.concatenate([p.answers for p in parts]),
        np.concatenate([p.served for p in parts]),
        np.concatenate([p.weights for p in parts]),
        _merged_tasks([p.routed for p in parts if p.routed is not None]),
    )


def _merged_tasks(parts: Sequence[Routed]) -> Routed | None:
    if not parts:
        return None
    return Routed(
        [t for p in parts for t in p.tasks],
        np.concatenate([p.serials for p in parts]),
        np.concatenate([p.answers for p in parts]),
    )


def _of_task(routed: Routed, i: int) -> tuple[str | None, int, float]:
    return routed.tasks[i], int(routed.serials[i]), float(routed.answers[i])
