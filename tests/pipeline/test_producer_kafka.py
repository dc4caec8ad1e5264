"""The producer against a real Apache Kafka broker."""

import json
import time
import uuid
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from pipeline.data_file import Columns, open_data_file
from pipeline.kafka_producer import KafkaOutlet, ProduceError
from pipeline.kafka_settings import KafkaSettings, TopicSettings
from pipeline.producer import PlayPlan, StopClock, play
from tests.pipeline.test_data_file import many, written
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.ports import LOOPBACK, free_ports

pytestmark = pytest.mark.integration

Record = tuple[int, str, dict[str, object], int]


def topics_of(broker: KafkaBroker) -> KafkaSettings:
    tail = uuid.uuid4().hex[:8]
    topics = TopicSettings(events=f"events-{tail}", labels=f"labels-{tail}")
    broker.create_topics({topics.events: 2, topics.labels: 1})
    return KafkaSettings(bootstrap_servers=broker.bootstrap_servers, topics=topics)


def read_all(kafka: KafkaSettings, topic: str, partitions: int) -> list[Record]:
    """Return (partition, key, message, record time) of everything in a topic."""
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    try:
        places = [TopicPartition(topic, i) for i in range(partitions)]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning()
        found: list[Record] = []
        deadline = time.monotonic() + 30
        while sum(ends.values()) > len(found) and time.monotonic() < deadline:
            for records in consumer.poll(500).values():
                found += [
                    (r.partition, r.key.decode(), json.loads(r.value), r.timestamp) for r in records
                ]
        return found
    finally:
        consumer.close()


def test_a_file_is_played_into_the_topics(broker: KafkaBroker, tmp_path: Path) -> None:
    kafka = topics_of(broker)
    n = 3000
    path = written(tmp_path, many(x=list(range(n)), y=["a", "b"] * (n // 2)))
    file = open_data_file(path, Columns("y"))
    before_ms = time.time_ns() // 1_000_000
    with KafkaOutlet(kafka) as outlet:
        plan = PlayPlan(label_fraction=0.5, label_delay=20)
        counts = play(file.rows(), plan, outlet, StopClock())
    events = read_all(kafka, kafka.topics.events, 2)
    labels = read_all(kafka, kafka.topics.labels, 1)
    assert counts.events == len(events) == n
    assert 0.4 * n < counts.labels == len(labels) < 0.6 * n
    assert {key for _, key, _, _ in events} == {f"rows-{i}" for i in range(n)}
    assert all(key == m["id"] and "features" in m for _, key, m, _ in events)
    assert {p for p, _, _, _ in events} == {0, 1}
    now_ms = time.time_ns() // 1_000_000
    assert all(before_ms - 1 <= at <= now_ms + 1 for _, _, _, at in events + labels)
    order = [int(key.removeprefix("rows-")) for p, key, _, _ in labels if p == 0]
    assert order == sorted(order)


def test_a_missing_topic_and_a_missing_broker_are_named(broker: KafkaBroker) -> None:
    topics = TopicSettings(events=f"never-{uuid.uuid4().hex[:8]}")
    kafka = KafkaSettings(
        bootstrap_servers=broker.bootstrap_servers, topics=topics, request_timeout_ms=2000
    )
    with pytest.raises(ProduceError, match=r"topic 'never-.*' does not exist .*init --topics"):
        KafkaOutlet(kafka)
    nobody = KafkaSettings(
        bootstrap_servers=f"{LOOPBACK}:{free_ports(1)[0]}", request_timeout_ms=1000
    )
    start = time.monotonic()
    with pytest.raises(ProduceError, match=r"kafka\.bootstrap_servers: no broker answers"):
        KafkaOutlet(nobody)
    assert time.monotonic() - start < 60


def test_a_broker_that_dies_is_an_error_within_the_timeout(tmp_path: Path) -> None:
    own = KafkaBroker(tmp_path)
    own.start()
    try:
        kafka = topics_of(own).model_copy(update={"request_timeout_ms": 1500})
        outlet = KafkaOutlet(kafka)
        outlet.send("events", b"a", b"{}")
        outlet.flush()
        own.kill()
        start = time.monotonic()
        outlet.send("events", b"b", b"{}")
        with pytest.raises(ProduceError, match="the broker did not take a message"):
            outlet.flush()
        assert time.monotonic() - start < 60
        outlet.close()
    finally:
        own.stop()
