"""Everything the engine remembers, and how it goes to and comes from the state file."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from adapters.task_memory import TaskMemory
from deploy.embedded import EmbeddedBackend
from deploy.rollout import Traffic, desired_traffic
from pipeline.core_state import Core, Routing, decode_core, encode_core
from pipeline.example_buffer import Example, ExampleBuffer
from pipeline.join_window import JoinWindow, ScoredRows
from pipeline.records import Outcome
from pipeline.route_monitors import RouteMonitors
from pipeline.settings import Settings
from pipeline.state_changes import Changes
from pipeline.state_schema import TASK_MEMORY
from pipeline.task_routes import TaskRoutes

if TYPE_CHECKING:
    from pipeline.state_file import StateFile


class EngineState:
    """The small document, the join window, and buffer, monitors and task memory per route."""

    def __init__(self, settings: Settings, file: "StateFile | None" = None) -> None:
        self.core = Core()
        if settings.model.route_by is not None:
            self.core.routing = Routing()
        self.task_routes = TaskRoutes(settings, file)
        self.window = JoinWindow(settings.join.window_events, settings.join.early_labels)
        self.buffers = {
            r: ExampleBuffer(settings.episode.buffer_examples) for r in self.core.routes
        }
        self.monitors = {r: RouteMonitors(settings) for r in self.core.routes}
        self.memories = {r: TaskMemory() for r in self.core.routes}
        self._written = dict(self.memories)
        self.backends = {r: EmbeddedBackend() for r in self.core.routes}

    def restore_memory(self, route: str, memory: TaskMemory) -> None:
        """Go on with what the state file holds."""
        self.memories[route] = self._written[route] = memory

    def traffic(self, name: str) -> Traffic:
        """Return the traffic that a route's state calls for."""
        route = self.core.routes[name]
        if route.rollout is not None:
            return desired_traffic(route.rollout)
        if route.probation is not None:
            return desired_traffic(route.probation)
        champion = self.core.versions.get(route.champion)
        return Traffic("none" if champion is None else champion.name)

    def changes(self, outcome: Outcome) -> Changes:
        """Return what the last step changed, as rows, and forget that it did."""
        window = self.window
        self.core.first, self.core.next = window.first, window.next
        self.core.evicted, self.core.orphans = window.evicted, window.orphans
        changes = Changes(
            core=encode_core(self.core),
            monitors={
                (route, name): snapshot
                for route, monitors in self.monitors.items()
                for name, snapshot in monitors.changed_snapshots().items()
            },
            scored=[(s.start, s.start + len(s), s.pack()) for s in window.added],
            scored_before=window.first,
            labels=window.labelled,
            early_added=list(window.early_added.items()),
            early_removed=sorted(window.early_removed),
            effects=outcome.effects,
            decisions=[msgspec.json.encode(d, order="deterministic") for d in outcome.decisions],
        )
        self.task_routes.write(changes)
        for route, memory in self.memories.items():
            if memory is not self._written[route]:
                changes.monitors[route, TASK_MEMORY] = memory.pack()
                self._written[route] = memory
        for route, buffer in self.buffers.items():
            changes.examples += [(route, n, e.pack()) for n, e in buffer.changed.items()]
            changes.examples_removed += [(route, n) for n in sorted(buffer.removed)]
            buffer.clear_changes()
        window.clear_changes()
        return changes


def load_state(settings: Settings, file: "StateFile") -> EngineState:
    """Return the committed state; a new one when nothing was committed yet."""
    state = EngineState(settings, file)
    document = file.core()
    if document is None:
        return state
    state.core = decode_core(document)
    window = state.window
    _restore_window(window, state.core, file.scored())
    for position, label in file.labels():
        window.restore_label(position, label)
    for event_id, label in file.early_labels():
        window.early[event_id] = label
    for route in state.core.routes:
        for packed in file.examples(route):
            state.buffers[route].restore(Example.unpack(packed))
        for name, snapshot in file.monitors(route).items():
            if name == TASK_MEMORY:
                state.restore_memory(route, TaskMemory.unpack(snapshot))
                continue
            state.monitors[route].restore(name, snapshot, committed=True)
    for name, monitors in state.monitors.items():
        champion = state.core.versions.get(state.core.routes[name].champion)
        monitors.prime_lost(champion.losses if champion else [])
    return state


def _restore_window(window: JoinWindow, core: Core, runs: Iterable[bytes]) -> None:
    for packed in runs:
        scored = ScoredRows.unpack(packed)
        low = max(0, core.first - scored.start)
        if low < len(scored):
            window.restore(scored.part(low, len(scored)) if low else scored)
    window.first, window.next = core.first, core.next
    window.evicted, window.orphans = core.evicted, core.orphans
