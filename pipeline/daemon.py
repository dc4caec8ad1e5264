"""The shell around the engine: read, decide, publish, commit, act, in this order.

    1. note what is about to be folded (``intent``)
    2. fold it: the engine decides
    3. publish predictions and dead letters, and wait for the broker
    4. commit state, journal entry, next offsets and outbox: one SQLite transaction
    5. carry out the outbox: decisions to their topic, everything else to the registry's process

A crash before 3 loses nothing: the same records are read again. Between 3 and 4 the intent makes
the restart fold the same step, so what is published twice has the same bytes (``at_least_once``)
or is not published twice (``exactly_once``: the offsets in Kafka's transaction tell). After 4 the
outbox repeats what was not confirmed, under the same keys.
"""

import gc
import os
import threading
import time
import uuid
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog

from pipeline import arrivals
from pipeline.adaptation_worker import AdaptationWorker
from pipeline.compaction import Compaction
from pipeline.core_state import ONE_ROUTE
from pipeline.crash_points import crash_point
from pipeline.engine_state import EngineState
from pipeline.fold import Fold, shelf_of, state_path
from pipeline.http_server import HttpServer, write_address
from pipeline.journal import read_entry
from pipeline.kafka_sink import KafkaSink, SinkError
from pipeline.kafka_source import KafkaSource
from pipeline.metrics import Metrics
from pipeline.recording import LIBRARIES
from pipeline.records import Outcome, Poll, ServingSeen, Tick
from pipeline.registry_outbox import RegistryOutbox
from pipeline.registry_process import RegistryProcess
from pipeline.serving_backends import open_backend
from pipeline.settings import Settings
from pipeline.state_file import StateError, StateFile, wall_s
from pipeline.state_glimpse import epoch_in
from pipeline.tracking_store import artifacts_folder, tracking_uri
from pipeline.traffic_keeper import TrafficKeeper
from pipeline.watchdog import Watchdog

STAND_BY_S = 1.0
HEARTBEAT_S = 2.0
IDLE_BEFORE_TICK_S = 1.0
LOOK_S = 1.0
COMMIT_RETRY_S = 0.5
SERVERS_END_S = 3.0

FIXED_SETTINGS = ("model.task_type", "model.route_by")
"""Settings that a state cannot outlive."""


class NoChampionError(Exception):
    """There is no model to serve; says how to get one."""


class _StoppedError(Exception):
    """Told to stop while a step could not be published."""


class Daemon:
    """One model's long-running process.

    Args:
        settings: The configuration.
        stop: Set to drain and end.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self.settings, self._stop = settings, stop
        self._log = structlog.get_logger("daemon").bind(model=settings.model.name)
        self._file = StateFile(state_path(settings.state_dir), settings.model.name)
        self._metrics = Metrics(settings.model.name)
        self._ready = threading.Event()
        self._watchdog: Watchdog | None = None
        self._keeper: TrafficKeeper | None = None
        self._digests: dict[str, str] = {}
        self._looked_s = self._heard_s = self._last_records_s = 0.0

    # ---------------------------------------------------------------- life

    def run(self, *, accept_lost: bool = False) -> None:
        """Own the model and work until told to stop.

        Args:
            accept_lost: Go on where the broker begins when it no longer holds the next record.

        Raises:
            NoChampionError: There is no model to serve.
            SourceError: The topics cannot be read as the state demands.
            NotOwnerError: Another process has taken over.
            ServingError: The servers beside the daemon cannot be set up.
        """
        http = self._serve_http()
        try:
            if self._stand_by():
                self._own(accept_lost=accept_lost)
        finally:
            http.close()
            self._file.close()

    def _stand_by(self) -> bool:
        told = False
        while not self._file.acquire(wall_s()):
            if not told:
                self._log.info("standing by: another process owns the model")
                told = True
            if self._stop.wait(STAND_BY_S):
                return False
        self._log.info("owner", owner_epoch=self._file.epoch)
        return True

    def _own(self, *, accept_lost: bool) -> None:
        settings = self.settings
        self._fold = Fold(settings, self._file, shelf_of(settings.state_dir), wall_s)
        self._adopt_models()
        self._name_changes()
        self._worker = AdaptationWorker(settings.episode.timeout_s)
        process = RegistryProcess(
            tracking_uri(settings),
            artifacts_folder(settings),
            settings.model.name,
            settings.registry.poll_s,
        )
        self._registry = RegistryOutbox(
            self._file, self._fold.shelf, process, self._metrics.dropped_effects.inc
        )
        self._compaction = Compaction(self._file, self._fold.shelf, settings.keep)
        group = f"metadrift-{settings.model.name}"
        exactly_once = settings.kafka.delivery == "exactly_once"
        try:
            self._source = KafkaSource(
                settings.kafka, group, self._positions(), accept_lost=accept_lost
            )
            self._sink = KafkaSink(
                settings.kafka, group if exactly_once else None, self._still_waiting
            )
            self._finish_intent()
            self._open_servers()
            gc.collect()
            gc.freeze()
            gc.set_threshold(200_000, 50, 100)
            self._watchdog = Watchdog(settings.kafka.watchdog_s, self._hung)
            self._ready.set()
            self._log.info("ready", position=self._fold.state.window.next)
            try:
                while not self._stop.is_set():
                    self._watchdog.feed()
                    self._turn()
            except _StoppedError:
                self._log.warning("stopped before the broker took a step; it will be repeated")
            self._drain()
        finally:
            self._ready.clear()
            if self._watchdog is not None:
                self._watchdog.stop()
            self._worker.close()
            self._registry.close()
            self._close_servers()
            self._compaction.close()
            for name in ("_source", "_sink"):
                client = getattr(self, name, None)
                if client is not None:
                    client.close()

    def _positions(self) -> dict[tuple[str, int], int]:
        found = {}
        for name, offset in self._fold.state.core.positions.items():
            topic, _, partition = name.rpartition("/")
            found[topic, int(partition)] = offset
        return found

    def _adopt_models(self) -> None:
        core = self._fold.state.core
        found = arrivals.read(self.settings.state_dir)
        if arrivals.new_to(core, found):
            self._fold.step(replace(found, state_id=uuid.uuid4().hex[:8]))
        if not core.versions:
            raise NoChampionError(
                f"there is no champion in {self.settings.state_dir}: make one with "
                "`metadrift meta-train FILE --label COLUMN` or bring one with "
                "`metadrift model import DIR`"
            )

    def _name_changes(self) -> None:
        """Say which settings differ from those that the state was made with.

        Raises:
            StateError: A changed setting would make the state wrong.
        """
        known = self._file.meta().get("settings")
        now = self.settings.state_facts()
        if known is not None:
            before = msgspec.json.decode(known)
            changed = {k: [before.get(k), v] for k, v in now.items() if before.get(k) != v}
            refuse_fixed(changed, self.settings.state_dir)
            if changed:
                self._log.warning("settings changed since the last start", changed=changed)
        self._file.remember(
            {
                "settings": msgspec.json.encode(now).decode(),
                "fingerprint": self.settings.fingerprint(),
                "libraries": msgspec.json.encode({n: version(n) for n in LIBRARIES}).decode(),
            }
        )
        for monitors in self._fold.state.monitors.values():
            for name in monitors.lost:
                self._log.warning("detector restarts in warm-up", monitor=name)

    def _open_servers(self) -> None:
        """Begin to serve beside the loop, where the settings say so; no traffic is seen yet."""
        known = self._fold.state.core.serving
        failed = known.failures if known is not None else {}
        kept = open_backend(
            self.settings, self._fold.shelf, self._digests, self._file.epoch, failed
        )
        seen = ServingSeen(failures=kept.failures() if kept else {}, external=kept is not None)
        if known != (seen if kept is not None else None):
            self._fold.step(seen)
        epoch, path = self._file.epoch, state_path(self.settings.state_dir)
        address = path.with_name("serving.json")
        address.unlink(missing_ok=True)  # an earlier router's
        if kept is None:
            return
        self._keeper = TrafficKeeper(kept, lambda: epoch_in(path) == epoch)
        if kept.port is None:
            return
        write_address(address, "127.0.0.1", kept.port)
        self._log.info("serving", url=f"http://127.0.0.1:{kept.port}/api/v1.0/predictions")

    def _close_servers(self) -> None:
        if self._keeper is not None and not self._keeper.close(SERVERS_END_S):
            self._log.warning("serving did not end in time: local servers end with this process")
        self._keeper = None

    def _hung(self) -> None:
        self._log.error("the poll loop hangs", limit_s=self.settings.kafka.watchdog_s)
        os._exit(70)

    # ---------------------------------------------------------------- the loop

    def _turn(self) -> None:
        poll = self._source.poll()
        crash_point("after-poll")
        if poll is not None:
            self._step(poll)
            self._last_records_s = time.monotonic()
            self._source.advertise()
        elif time.monotonic() - max(self._last_records_s, self._looked_s) > IDLE_BEFORE_TICK_S:
            self._tick()
        self._collect_bake_off()
        for news in self._registry.turn(self._fold.state):
            self._fold.step(news)
        self._keep_servers()
        self._publish_decisions()
        self._compaction.turn()
        self._look()

    def _step(self, poll: Poll) -> None:
        began = time.perf_counter()
        self._fold.step(poll, self._publish)
        self._metrics.polls.inc()
        self._metrics.step_seconds.observe(time.perf_counter() - began)

    def _publish(self, outcome: Outcome, _: EngineState) -> None:
        crash_point("after-intent")
        positions = self._positions()
        while True:
            try:
                self._sink.publish(
                    outcome.predictions,
                    outcome.dead_letters,
                    positions,
                    self._source.group_metadata(),
                )
                break
            except SinkError as error:
                self._log.warning("broker did not take predictions", error=str(error))
                if self._stop.wait(COMMIT_RETRY_S):
                    raise _StoppedError from error
                if self._watchdog is not None:
                    self._watchdog.feed()
        crash_point("after-publish")

    def _still_waiting(self) -> bool:
        """Live on while the broker is away, so that nobody takes over; return whether to stop."""
        if self._watchdog is not None:
            self._watchdog.feed()
        if time.monotonic() - self._heard_s >= LOOK_S:
            self._heard_s = time.monotonic()
            self._file.heartbeat(wall_s())
        return self._stop.is_set()

    def _tick(self) -> None:
        """Let time pass where somebody waits for it."""
        self._looked_s = time.monotonic()
        routes = self._fold.state.core.routes.values()
        if any(r.episode or r.rollout or r.probation or r.waiting for r in routes):
            self._fold.step(Tick(int(wall_s() * 1000)))

    def _keep_servers(self) -> None:
        """Tell the servers what the committed state calls for; take in what was seen of them."""
        if self._keeper is None:
            return
        state = self._fold.state
        traffic = state.traffic(ONE_ROUTE)
        for known in state.core.versions.values():
            if known.name in (traffic.stable, traffic.candidate):
                self._digests[known.name] = known.digest
        self._keeper.want(traffic)
        seen = self._keeper.news()
        if seen is not None:
            if seen.problem:
                self._log.warning("the servers are not as wanted", problem=seen.problem)
            self._fold.step(seen)

    def _collect_bake_off(self) -> None:
        answer = self._worker.collect()
        if answer is not None:
            done = self._fold.answer(answer)
            crash_point("after-bake-off")
            self._fold.step(done)
        if self._worker.busy_with is None:
            wanted = self._fold.request()
            if wanted is not None:
                self._worker.submit(*wanted)

    def _publish_decisions(self) -> None:
        queued = self._file.pending(("decision",))
        if not queued:
            return
        for q in queued:
            self._log.info(str(q.effect.payload["kind"]), reason=q.effect.payload["reason"])
        crash_point("before-effect")
        try:
            self._sink.decide((q.effect.key, msgspec.json.encode(q.effect.payload)) for q in queued)
        except SinkError as error:
            self._log.warning("broker did not take decisions", error=str(error))
            return
        crash_point("after-effect")
        self._file.done(queued)

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._heard_s < LOOK_S:
            return
        self._heard_s = now_s
        self._file.heartbeat(wall_s())
        self._metrics.lag(self._source.lag())
        self._metrics.disk(self._compaction.use())
        self._metrics.observe(self._fold.state, self._file.outbox_depth(), not self._registry.away)

    def _drain(self) -> None:
        self._log.info("draining")
        self._publish_decisions()
        self._close_servers()
        self._file.release()

    def _finish_intent(self) -> None:
        """Fold the step that had begun when the last owner died, just as it began."""
        entry = self._file.intent()
        if entry is None:
            return
        poll = read_entry(entry, self._source.read)
        published = False
        if self.settings.kafka.delivery == "exactly_once" and isinstance(poll, Poll):
            committed = self._source.committed()
            published = all(
                committed.get((c.topic, c.partition), 0) > c.offsets[-1] for c in poll.chunks
            )
        self._log.info("finishing a begun step", already_published=published)
        self._fold.step(poll, None if published else self._publish)

    # ---------------------------------------------------------------- health

    def _serve_http(self) -> HttpServer:
        s = self.settings.http
        server = HttpServer(
            s.host,
            s.port,
            {
                "/healthz": lambda: (200, "text/plain", b"ok\n"),
                "/readyz": self._readiness,
                "/metrics": lambda: (
                    200,
                    "text/plain; version=0.0.4; charset=utf-8",
                    self._metrics.text(),
                ),
            },
        )
        write_address(Path(self.settings.state_dir) / "http.json", s.host, server.port)
        return server

    def _readiness(self) -> tuple[int, str, bytes]:
        if self._ready.is_set():
            return 200, "text/plain", b"ready\n"
        return 503, "text/plain", b"not ready: starting or standing by\n"


def refuse_fixed(changed: dict[str, list[object]], state_dir: Path) -> None:
    """Refuse a change of a setting that the state cannot outlive.

    Args:
        changed: By dotted key, what the state was made with and what is set now.
        state_dir: Of the state.

    Raises:
        StateError: There is such a change; names key, values and fix.
    """
    fatal = sorted(set(changed) & set(FIXED_SETTINGS))
    if fatal:
        before, now = changed[fatal[0]]
        raise StateError(
            f"{fatal[0]} is {now!r}, but the state in {state_dir} was made with {before!r}: "
            "change it back, or set state_dir to a new folder"
        )
