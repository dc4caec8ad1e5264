"""The daemon on a real broker, killed: nothing is lost, nothing is counted twice."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.live_daemon import LiveModel
from tests.pipeline.live_stream import Stream
from tests.pipeline.small_worlds import first, lane_champion, second
from tests.pipeline.state_tables import FOLDED
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer

pytestmark = pytest.mark.integration


@pytest.fixture
def live(broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path) -> Iterator[LiveModel]:
    made = LiveModel(tmp_path, broker, mlflow_server.uri, lane_champion())
    yield made
    made.close()


def test_kills_change_nothing(live: LiveModel) -> None:
    """Crash points and random moments; then the counts, the topics, and the journal's fold."""
    rng = random.Random(11)
    stream = Stream(live)
    lives = (
        ("inside-state:3", first),
        ("", first),
        ("before-effect:1", second),  # only a changed world has something to tell
        ("after-publish:4", second),
        ("", second),
    )
    for crash_at, concept in lives:
        live.start(crash_at)
        if crash_at:
            stream.play_to_death(concept)
        else:
            stream.play(150, concept, pause_s=0.05)
            time.sleep(rng.uniform(0, 0.3))
            live.kill()
    live.start()
    stream.play(150, second, pause_s=0.02)
    live.wait(live.consumed(stream.next, stream.labels), "all events and labels")
    core = live.core()
    assert core.next == core.counts["events"] == stream.next
    assert core.labels == core.counts["labels"] == stream.labels
    repeated = stream.next // 25
    assert core.counts["duplicate_events"] == repeated
    assert core.counts["dead_letters"] == 0
    assert core.counts["duplicate_labels"] + core.counts.get("corrected_labels", 0) == 2 * repeated
    assert (core.evicted, core.orphans) == (0, 0)
    live.wait(lambda: live.outbox() == 0, "an empty outbox")
    assert live.stop() == 0

    published = live.predictions()
    assert sorted(published) == sorted(f"e{i}" for i in range(stream.next))
    assert all(len(set(values)) == 1 for values in published.values())
    decisions = [d.key for d in live.decisions()]
    told: dict[str, set[bytes]] = {}
    for key, value, _ in live.read("decisions"):
        told.setdefault(key, set()).add(value)
    assert sorted(told) == sorted(decisions)
    assert all(len(values) == 1 for values in told.values())
    ours, again = live.tables(), live.refolded()
    for table in FOLDED:
        assert again[table] == ours[table], table


def test_exactly_once_publishes_each_id_once(
    broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path
) -> None:
    kafka: dict[str, object] = {"delivery": "exactly_once"}
    live = LiveModel(tmp_path, broker, mlflow_server.uri, lane_champion(), kafka=kafka)
    stream = Stream(live)
    try:
        for crash_at in ("after-publish:3", "inside-state:4", "after-intent:3", ""):
            live.start(crash_at)
            if crash_at:
                stream.play_to_death(first)
            else:
                stream.play(150, first, pause_s=0.05)
                live.kill()
        live.start()
        stream.play(100, first)
        live.wait(live.consumed(stream.next, stream.labels), "all events and labels")
        assert live.stop() == 0
        published = live.predictions("read_committed")
        assert sorted(published) == sorted(f"e{i}" for i in range(stream.next))
        assert {len(values) for values in published.values()} == {1}
        core = live.core()
        assert core.counts["events"] == core.counts["labels"] == stream.next
    finally:
        live.close()


def test_a_stopped_owner_is_replaced_and_stops_itself(live: LiveModel) -> None:
    """SIGSTOP the owner: the one that stands by takes over; SIGCONT: the old one ends with 6."""
    import os
    import signal

    stream = Stream(live)
    live.start()
    old, old_pid = live.daemon, live.owner()
    assert old is not None
    stream.play(100, first)
    live.wait(live.consumed(100, 100), "the first events")
    standing_by = live.launch()
    live.daemon = standing_by
    try:
        standing_by.wait_for(
            lambda: "standing by" in standing_by.output(), what="standing by", within_s=40
        )
        os.kill(old_pid, signal.SIGSTOP)
        stream.play(100, first)
        standing_by.wait_for(lambda: live.owner() != old_pid, what="taking over", within_s=40)
        standing_by.wait_for(live.consumed(200, 200), what="the next events", within_s=40)
        os.kill(old_pid, signal.SIGCONT)
        stream.play(100, first)
        old.wait_for(lambda: "stopping" in old.output(), what="stopping", within_s=20)
        assert old._process.wait(20) == 6
        assert "another process has owned" in old.output()
        standing_by.wait_for(live.consumed(300, 300), what="the last events", within_s=40)
        core = live.core()
        assert core.counts["events"] == core.counts["labels"] == 300
        published = live.predictions()
        assert sorted(published) == sorted(f"e{i}" for i in range(300))
        assert all(len(set(values)) == 1 for values in published.values())
    finally:
        os.kill(old_pid, signal.SIGCONT) if old.alive else None
        old.kill()
