"""Routes of tasks: a row each in the state file, and the recently used ones in memory.

A route remembers whether its task has weights of its own, its last labelled examples, and what
watches its losses. Loading and dropping one decides nothing: what is in memory is what its rows
say, and only what a transaction has been given leaves.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from deploy.sequential import BettingTest
from detectors.detector_errors import DetectorSnapshotError
from detectors.error_monitor import ErrorMonitor
from pipeline.core_state import ONE_ROUTE
from pipeline.example_buffer import Example, ExampleBuffer
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.state_changes import Changes
    from pipeline.state_file import StateFile

ERRORS = "error-0"
LONGEST_TASK = 256


class TaskRoute(msgspec.Struct):
    """What one task's route remembers, besides its examples and its detector.

    Attributes:
        task: Its name.
        answer: Digest of the worker's answer that holds the weights it serves; empty: the fall-back
            serves it.
        serial: Counts its weights, from 1; 0 before the first.
        recipe: How they were made.
        labels: Labels of its events so far.
        try_at: Labels at which own weights are tried next.
        request: Number of the request that waits for the worker; 0: none does.
        cut: Examples before this position are of a world that has passed.
        losses: Holdout losses of its weights, which prime its detector.
        harm: Evidence that its weights are worse than the fall-back; None while it has none.
    """

    task: str
    answer: str = ""
    serial: int = 0
    recipe: str = ""
    labels: int = 0
    try_at: int = 0
    request: int = 0
    cut: int = 0
    losses: list[float] = []
    harm: BettingTest | None = None


class LiveRoute:
    """A route in memory."""

    def __init__(self, settings: Settings, core: TaskRoute) -> None:
        self.core = core
        self.buffer = ExampleBuffer(settings.routes.examples)
        self.monitor = fresh_monitor(settings, core.losses)
        self.monitor_changed = False


def fresh_monitor(settings: Settings, losses: list[float]) -> ErrorMonitor:
    """Return a detector of a route's losses, primed with those of its holdout."""
    detector = settings.detect.error
    monitor = ErrorMonitor(
        detector.name if detector else None,
        detector.params if detector else None,
        settings.model.task_type,
    )
    monitor.reset(losses)
    return monitor


class TaskRoutes:
    """Every route by its task; at most ``routes.in_memory`` stay in memory between steps.

    Args:
        settings: The configuration.
        file: Holds the others; None: all stay in memory.
    """

    def __init__(self, settings: Settings, file: "StateFile | None") -> None:
        self._settings, self._file = settings, file
        on = file is not None and settings.model.route_by is not None
        self._names = set(file.route_names() if on and file is not None else ())
        self._kept: OrderedDict[str, LiveRoute] = OrderedDict()
        self._changed: dict[str, LiveRoute] = {}

    def __len__(self) -> int:
        return len(self._names)

    @property
    def in_memory(self) -> int:
        """How many are in memory now."""
        return len(self._kept)

    def may_open(self, task: str) -> bool:
        """Whether a task that has no route may get one."""
        fits = 0 < len(task) <= LONGEST_TASK and task != ONE_ROUTE
        return fits and len(self._names) < self._settings.routes.most

    def get(self, task: str) -> LiveRoute | None:
        """Return a task's route, from memory or from its rows; None where it has none."""
        live = self._kept.get(task)
        if live is not None:
            self._kept.move_to_end(task)
            return live
        if task not in self._names or self._file is None:
            return None
        live = self._kept[task] = self._load(self._file, task)
        return live

    def _load(self, file: "StateFile", task: str) -> LiveRoute:
        core = msgspec.json.decode(file.route(task), type=TaskRoute)
        live = LiveRoute(self._settings, core)
        for packed in file.examples(task):
            live.buffer.restore(Example.unpack(packed))
        snapshot = file.monitors(task).get(ERRORS)
        if snapshot is not None:
            try:
                live.monitor = ErrorMonitor.restore(snapshot)
            except DetectorSnapshotError:
                live.monitor_changed = True  # another River release: it restarts, primed as before
        return live

    def add(self, task: str) -> LiveRoute:
        """Make the route of a task that has none."""
        settings = self._settings
        core = TaskRoute(task, try_at=settings.routes.support + settings.routes.holdout)
        live = self._kept[task] = LiveRoute(settings, core)
        self._names.add(task)
        return self.changed(live)

    def changed(self, live: LiveRoute) -> LiveRoute:
        """Have a route written with the step in progress."""
        self._changed[live.core.task] = live
        return live

    def write(self, changes: "Changes") -> None:
        """Hand over what the step changed, then drop the least recently used from memory."""
        for task, live in sorted(self._changed.items()):
            core, buffer = live.core, live.buffer
            document = msgspec.json.encode(core)
            changes.routes.append((task, core.labels, bool(core.answer), document))
            changes.examples += [(task, n, e.pack()) for n, e in buffer.changed.items()]
            changes.examples_removed += [(task, n) for n in sorted(buffer.removed)]
            buffer.clear_changes()
            if live.monitor_changed:
                changes.monitors[task, ERRORS] = live.monitor.snapshot()
                live.monitor_changed = False
        self._changed = {}
        while self._file is not None and len(self._kept) > self._settings.routes.in_memory:
            self._kept.popitem(last=False)
