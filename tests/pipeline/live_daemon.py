"""A real daemon on a real broker: started, watched, killed and stopped by the tests."""

import json
import os
import signal
import sqlite3
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import yaml
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from adapters.model_file import Model
from pipeline.arrivals import announce
from pipeline.core_state import Core, decode_core
from pipeline.fold import refold, shelf_of, state_path
from pipeline.kafka_source import KafkaSource
from pipeline.messages import Decision
from pipeline.records import ModelsFound
from pipeline.settings import Settings, parse_settings
from pipeline.state_file import StateFile
from pipeline.state_glimpse import glimpse
from tests.pipeline.loop_inputs import QUICK
from tests.pipeline.small_worlds import HOLDOUT_LOSSES
from tests.pipeline.state_tables import Tables, tables_of
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.leashed_process import LeashedProcess, ServerError

PARTITIONS = {"events": 3, "labels": 2, "control": 1, "predictions": 2, "decisions": 1}
START_S = 180.0  # under load; the promise of 10 s has a test of its own
WAIT_S = 180.0


class LiveModel:
    """One model's topics, state folder and configuration; its daemons come and go.

    Args:
        folder: For state, configuration and logs.
        broker: Runs.
        tracking_uri: Of MLflow.
        champion: The first one.
        losses: Its holdout losses.
        sections: Of the configuration, over the quick ones.
    """

    def __init__(
        self,
        folder: Path,
        broker: KafkaBroker,
        tracking_uri: str,
        champion: Model,
        losses: Sequence[float] = HOLDOUT_LOSSES,
        **sections: dict[str, object],
    ) -> None:
        self.name = f"live-{uuid.uuid4().hex[:8]}"
        self.folder, self.broker = folder, broker
        self.topics = {
            key: f"{key.replace('_', '-')}-{self.name}" for key in (*PARTITIONS, "dead_letters")
        }
        broker.create_topics({self.topics[key]: PARTITIONS.get(key, 1) for key in self.topics})
        content: dict[str, object] = {
            **{
                name: {**QUICK.get(name, {}), **sections.get(name, {})}
                for name in (*QUICK, *sections)
            },
            "model": {"name": self.name},
            "state_dir": str(folder / "state"),
            "kafka": {
                "bootstrap_servers": broker.bootstrap_servers,
                "topics": self.topics,
                **sections.get("kafka", {}),
            },
            "registry": {"tracking_uri": tracking_uri, "poll_s": 0.5},
            "http": {"port": 0},
        }
        self.settings: Settings = parse_settings(content)
        self.config = folder / "metadrift.yaml"
        self.config.write_text(yaml.safe_dump(content))
        digest = shelf_of(self.settings.state_dir).put_model(champion)
        announce(self.settings.state_dir, ModelsFound(digest, "imported", tuple(losses)))
        self.daemon: LeashedProcess | None = None
        self.logs = 0
        self._producer = KafkaProducer(
            bootstrap_servers=broker.bootstrap_servers,
            acks="all",
            linger_ms=2,
            compression_type="lz4",
            max_request_size=4 * 1024 * 1024,
        )

    def close(self) -> None:
        """End what still runs."""
        if self.daemon is not None:
            self.daemon.kill()
        self._producer.close(timeout=5)

    # ---------------------------------------------------------------- the daemon's life

    def launch(self, crash_at: str = "") -> LeashedProcess:
        """Start a daemon process, without waiting."""
        self.logs += 1
        return LeashedProcess(
            [str(Path(sys.executable).with_name("metadrift")), "run", "-c", str(self.config)],
            log=self.folder / f"daemon-{self.logs}.log",
            env={"METADRIFT_CRASH_AT": crash_at},
        )

    def start(self, crash_at: str = "") -> None:
        """Start the daemon and wait until it is ready, or has died where it should."""
        self.daemon = self.launch(crash_at)
        daemon = self.daemon
        try:
            daemon.wait_for(self.ready, what="being ready", within_s=START_S)
        except ServerError:
            if not crash_at or daemon.alive:
                raise

    def ready(self) -> bool:
        """Whether the owner says that it is."""
        try:
            return self.page("/readyz")[0] == 200
        except (OSError, ValueError):
            return False

    def page(self, path: str) -> tuple[int, str]:
        """Get a page of the daemon's HTTP server."""
        facts = json.loads((self.settings.state_dir / "http.json").read_text())
        try:
            with urllib.request.urlopen(
                f"http://{facts['host']}:{facts['port']}{path}", timeout=3
            ) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def owner(self) -> int:
        """Return the owner's process id."""
        found = glimpse(state_path(self.settings.state_dir)).owner
        assert found is not None
        return found[2]

    def kill(self) -> None:
        """SIGKILL the daemon alone, as the kernel's out-of-memory killer would."""
        os.kill(self.owner(), signal.SIGKILL)
        self.wait_dead()

    def wait_dead(self) -> None:
        """Wait until the daemon has ended."""
        daemon = self.daemon
        assert daemon is not None
        wait_until(lambda: not daemon.alive, "the daemon's end")
        daemon.kill()

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        assert self.daemon is not None
        return self.daemon.terminate(within_s=30)

    # ---------------------------------------------------------------- topics

    def send(self, stream: str, messages: Iterable[object], *, flush: bool = True) -> None:
        """Produce messages; dictionaries as JSON under their id."""
        for message in messages:
            key = str(message["id"]).encode() if isinstance(message, dict) else b"no id"
            value = message if message is None or isinstance(message, bytes) else None
            if isinstance(message, dict):
                value = json.dumps(message).encode()
            self._producer.send(self.topics[stream], value, key)
        if flush:
            self._producer.flush(timeout=WAIT_S)

    def read(
        self, stream: str, isolation: str = "read_uncommitted"
    ) -> list[tuple[str, bytes, dict[str, bytes]]]:
        """Return (key, value, headers) of everything in a topic."""
        topic = self.topics[stream]
        consumer = KafkaConsumer(
            bootstrap_servers=self.broker.bootstrap_servers,
            isolation_level=isolation,
            enable_auto_commit=False,
        )
        try:
            places = [TopicPartition(topic, i) for i in range(PARTITIONS.get(stream, 1))]
            consumer.assign(places)
            ends = consumer.end_offsets(places)
            consumer.seek_to_beginning()
            found, deadline = [], time.monotonic() + WAIT_S
            while any(consumer.position(p) < ends[p] for p in places):
                assert time.monotonic() < deadline, f"{topic} could not be read to its end"
                for records in consumer.poll(300).values():
                    found += [((r.key or b"").decode(), r.value, dict(r.headers)) for r in records]
            return found
        finally:
            consumer.close()

    def predictions(self, isolation: str = "read_uncommitted") -> dict[str, list[bytes]]:
        """Return what was published, by event id."""
        found: dict[str, list[bytes]] = {}
        for key, value, _ in self.read("predictions", isolation):
            found.setdefault(key, []).append(value)
        return found

    # ---------------------------------------------------------------- the state

    def core(self) -> Core:
        """Return the small state as it is now; an empty one before the first commit."""
        path = state_path(self.settings.state_dir)
        document = glimpse(path).core if path.exists() else None
        return Core() if document is None else decode_core(document)

    def decisions(self) -> list[Decision]:
        """Return every decision."""
        import msgspec

        documents = glimpse(state_path(self.settings.state_dir), 100_000).decisions
        return [msgspec.json.decode(d, type=Decision) for d in documents]

    def kinds(self) -> list[str]:
        """Return the kinds of all decisions."""
        return [d.kind for d in self.decisions()]

    def outbox(self) -> int:
        """Return how many effects wait."""
        return glimpse(state_path(self.settings.state_dir)).outbox

    def wait(self, condition: Callable[[], object], what: str, within_s: float = WAIT_S) -> None:
        """Wait for something while the daemon runs."""
        assert self.daemon is not None
        self.daemon.wait_for(lambda: bool(condition()), what=what, within_s=within_s)

    def consumed(self, events: int, labels: int | None = None) -> Callable[[], bool]:
        """Return whether so many events (and labels) have been taken."""

        def done() -> bool:
            core = self.core()
            return core.next >= events and (labels is None or core.labels >= labels)

        return done

    def tables(self) -> Tables:
        """Return the committed state."""
        return tables_of(state_path(self.settings.state_dir))

    def refolded(self) -> Tables:
        """Fold the journal anew from the broker's records; return the state it leads to."""
        target_path = self.folder / "again.sqlite"
        copy = self.folder / "journal.sqlite"
        state = sqlite3.connect(state_path(self.settings.state_dir))
        with closing(state), closing(sqlite3.connect(copy)) as to:
            state.backup(to)
        source = KafkaSource(self.settings.kafka, f"{self.name}-again", {})
        journal = StateFile(copy, self.name)
        target = StateFile(target_path, self.name)
        try:
            assert target.acquire(0.0)
            shelf = shelf_of(self.settings.state_dir)
            refold(self.settings, journal, target, shelf, source.read)
        finally:
            source.close()
            journal.close()
            target.close()
        return tables_of(target_path)


def wait_until(condition: Callable[[], object], what: str, within_s: float = WAIT_S) -> None:
    """Wait for something.

    Raises:
        TimeoutError: It did not come.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} took over {within_s:g} s")
        time.sleep(0.05)
