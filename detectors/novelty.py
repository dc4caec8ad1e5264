"""Unseen classes and unseen tasks: names that no model knows yet."""

from collections.abc import Iterable

import msgspec

from detectors.detector_errors import DetectorError, DetectorSnapshotError
from detectors.signals import Signal, SignalKind
from detectors.snapshot_format import seal, unseal

_KIND = "novelty"
_VERSION = "1"
_LONGEST_NAME = 256


class _Sighting(msgspec.Struct, frozen=True, array_like=True):
    count: int
    first: int


class _State(msgspec.Struct, frozen=True):
    classes: list[str]
    tasks: list[str]
    least_class: int
    least_task: int
    capacity: int
    unseen_classes: dict[str, _Sighting]
    unseen_tasks: dict[str, _Sighting]
    dropped: int


_decoder = msgspec.msgpack.Decoder(_State)


class NoveltyMonitor:
    """Counts unseen class and task names and signals each of them once.

    Args:
        classes: Class names the champion knows; empty for regression (then feed no labels).
        tasks: Task names known. With none given, the first task seen is taken as known.
        least_class: Sightings of a class before its signal; a single one is often a typing error.
        least_task: Sightings of a task before its signal.
        capacity: Unseen names kept of each kind; further ones are only counted in ``dropped``.

    Raises:
        DetectorError: a bound is below 1.
    """

    def __init__(
        self,
        classes: Iterable[str] = (),
        tasks: Iterable[str] = (),
        least_class: int = 3,
        least_task: int = 1,
        capacity: int = 1000,
    ) -> None:
        bounds = {"least_class": least_class, "least_task": least_task, "capacity": capacity}
        for key, value in bounds.items():
            if value < 1:
                raise DetectorError(f"novelty.{key}", value, "give a number of 1 or more")
        self._classes = set(classes)
        self._tasks = set(tasks)
        self.least_class = least_class
        self.least_task = least_task
        self.capacity = capacity
        self._unseen_classes: dict[str, _Sighting] = {}
        self._unseen_tasks: dict[str, _Sighting] = {}
        self.dropped = 0

    @property
    def unseen_classes(self) -> dict[str, int]:
        """Sightings of each unseen class."""
        return {name: seen.count for name, seen in self._unseen_classes.items()}

    @property
    def unseen_tasks(self) -> dict[str, int]:
        """Sightings of each unseen task."""
        return {name: seen.count for name, seen in self._unseen_tasks.items()}

    def sighted_class(self, name: str) -> Signal | None:
        """What `see_class` signalled of a class that is unseen still, as of now; else None."""
        seen = self._unseen_classes.get(name)
        if seen is None or seen.count < self.least_class:
            return None
        return _signal(SignalKind.NEW_CLASS, "class", name, seen.first, seen)

    def see_class(self, name: str, position: int) -> Signal | None:
        """Take the first label of an event; a signal at the ``least_class``-th unseen sighting."""
        if name in self._classes:
            return None
        seen = self._count(self._unseen_classes, name, position)
        if seen is None or seen.count != self.least_class:
            return None
        return _signal(SignalKind.NEW_CLASS, "class", name, position, seen)

    def see_task(self, name: str, position: int) -> Signal | None:
        """Take the task name of an event; a signal at the ``least_task``-th unseen sighting."""
        if name in self._tasks:
            return None
        if not self._tasks:
            self._tasks.add(name)
            return None
        seen = self._count(self._unseen_tasks, name, position)
        if seen is None or seen.count != self.least_task:
            return None
        return _signal(SignalKind.NEW_TASK, "task", name, position, seen)

    def know_classes(self, names: Iterable[str]) -> None:
        """A model with these classes, and no others, serves now."""
        self._classes = set(names)
        for name in self._classes:
            self._unseen_classes.pop(name, None)

    def learn_task(self, name: str) -> None:
        """A model of this task serves now."""
        self._tasks.add(name)
        self._unseen_tasks.pop(name, None)

    def _count(self, unseen: dict[str, _Sighting], name: str, position: int) -> _Sighting | None:
        before = unseen.get(name)
        if before is None and (len(unseen) >= self.capacity or len(name) > _LONGEST_NAME):
            self.dropped += 1
            return None
        seen = (
            _Sighting(1, position) if before is None else _Sighting(before.count + 1, before.first)
        )
        unseen[name] = seen
        return seen

    def snapshot(self) -> bytes:
        """Canonical bytes of the whole state."""
        state = _State(
            sorted(self._classes),
            sorted(self._tasks),
            self.least_class,
            self.least_task,
            self.capacity,
            self._unseen_classes,
            self._unseen_tasks,
            self.dropped,
        )
        return seal(_KIND, _VERSION, msgspec.structs.asdict(state))

    @classmethod
    def restore(cls, packed: bytes) -> "NoveltyMonitor":
        """The monitor that `snapshot` packed.

        Raises:
            DetectorSnapshotError: the bytes are damaged or of another version.
        """
        try:
            state = _decoder.decode(unseal(packed, _KIND, _VERSION))
        except msgspec.MsgspecError as error:
            raise DetectorSnapshotError(f"snapshot of {_KIND}: {error}") from error
        made = cls(state.classes, state.tasks, state.least_class, state.least_task, state.capacity)
        made._unseen_classes = state.unseen_classes
        made._unseen_tasks = state.unseen_tasks
        made.dropped = state.dropped
        return made


def _signal(kind: SignalKind, noun: str, name: str, position: int, seen: _Sighting) -> Signal:
    return Signal(
        kind=kind,
        detector="novelty",
        at=position,
        change_point=min(seen.first, position),
        statistic=float(seen.count),
        threshold=float(seen.count),
        detail=f"unseen {noun} {name[:80]!r}, {seen.count} sightings since event {seen.first}",
    )
