"""Batches that were damaged on the broker's disk are set aside; the stream goes on behind them."""

from pathlib import Path

import pytest
from kafka import KafkaProducer

from pipeline.codec import Codec
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_source import KafkaSource
from pipeline.records import DeadLetter, Poll
from tests.servers.kafka_broker import KafkaBroker

pytestmark = pytest.mark.integration

BATCH = 37  # no multiple of what doubling and halving would hit by chance
TOPICS = ("events", "labels", "control")


def fill(broker: KafkaBroker) -> None:
    """Write four batches of events, the second and third of which will be damaged."""
    producer = KafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, linger_ms=5_000, batch_size=1_000_000
    )
    try:
        for batch in range(4):
            for i in range(BATCH):
                value = f'{{"id":"b{batch}-{i}","features":{{"x":{i}}}}}'.encode()
                producer.send("events", value, partition=0)
            producer.flush(timeout=30)
    finally:
        producer.close(timeout=5)


def damage(folder: Path) -> None:
    """Change one letter within the second and the third batch on disk."""
    (log,) = (folder / "data" / "events-0").glob("*.log")
    content = log.read_bytes()
    for marker in (b'"b1-7"', b'"b2-0"'):
        assert content.count(marker) == 1
        content = content.replace(marker, marker.replace(b"b", b"B"))
    log.write_bytes(content)


def settings(broker: KafkaBroker) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=broker.bootstrap_servers)


def read_on(source: KafkaSource, polls: list[Poll], events: int) -> list[Poll]:
    """Poll until so many records or damaged ranges have come."""
    for _ in range(600):
        if sum(len(c.values) if not c.damaged else 1 for p in polls for c in p.chunks) >= events:
            return polls
        poll = source.poll()
        polls += [poll] if poll else []
    raise AssertionError(f"only {polls} came")


def test_damaged_batches_are_stepped_over(tmp_path: Path) -> None:
    broker = KafkaBroker(tmp_path)
    broker.start()
    try:
        broker.create_topics(dict.fromkeys(TOPICS, 1))
        fill(broker)
        broker.stop()
        damage(tmp_path)
        broker.start()
        source = KafkaSource(settings(broker), "damaged", {})
        try:
            polls = read_on(source, [], 2 * BATCH + 2)
            dead: list[DeadLetter] = []
            ids = [
                e.id
                for p in polls
                for e in Codec(10_000).events(p.chunks, p.host_ms, dead).messages
            ]
            assert ids == [f"b{b}-{i}" for b in (0, 3) for i in range(BATCH)]
            assert [(d.error, d.offset) for d in dead] == [("damaged", 37), ("damaged", 74)]
            assert "offsets 37 to 73" in dead[0].message and "offsets 74 to 110" in dead[1].message
            assert source.positions()["events", 0] == 4 * BATCH

            for poll in polls:
                assert source.read(poll.ranges(), poll.host_ms) == poll
        finally:
            source.close()
    finally:
        broker.stop()
