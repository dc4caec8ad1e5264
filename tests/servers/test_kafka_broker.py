"""The broker fixture keeps its promises: durable over a SIGKILL, gone with its owner."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.servers.kafka_broker import KafkaBroker
from tests.servers.leashed_process import LeashedProcess, ServerError

WAIT_S = 15.0


def produce(broker: KafkaBroker, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all")
    try:
        for future in [producer.send(topic, value) for value in values]:
            future.get(timeout=WAIT_S)
    finally:
        producer.close(timeout=WAIT_S)


def consume(broker: KafkaBroker, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    consumer.assign([TopicPartition(topic, 0)])
    values: list[bytes] = []
    deadline = time.monotonic() + WAIT_S
    try:
        while len(values) < count and time.monotonic() < deadline:
            for records in consumer.poll(500).values():
                values.extend(record.value for record in records)
    finally:
        consumer.close()
    return values


@pytest.mark.integration
def test_a_killed_broker_comes_back_with_its_records(tmp_path: Path) -> None:
    broker = KafkaBroker(tmp_path)
    try:
        broker.start()
        broker.create_topics({"events": 1})
        produce(broker, "events", [b"before"])
        broker.kill()
        assert not broker.alive
        broker.start()
        produce(broker, "events", [b"after"])
        assert consume(broker, "events", 2) == [b"before", b"after"]
    finally:
        broker.stop()


def test_a_leashed_process_ends_with_its_owner(tmp_path: Path) -> None:
    owner = """
import pathlib, sys, time
from tests.servers.leashed_process import LeashedProcess
folder = pathlib.Path(sys.argv[1])
sleeper = LeashedProcess(["/bin/sh", "-c", "echo $$; exec sleep 600"], log=folder / "log")
sleeper.wait_for(lambda: sleeper.output().endswith("\\n"), what="its number", within_s=10)
print(sleeper.output().strip(), flush=True)
time.sleep(600)
"""
    killed = subprocess.Popen(
        [sys.executable, "-c", owner, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert killed.stdout is not None
    with killed.stdout:
        number = int(killed.stdout.readline())
    assert runs(number)
    killed.kill()
    killed.wait(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while runs(number):
        assert time.monotonic() < deadline, "the server outlived its owner"
        time.sleep(0.02)


def runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    listed = ["ps", "-o", "stat=", "-p", str(number)]
    state = subprocess.run(listed, check=False, capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_sigterm_reaches_the_server_and_its_exit_status_comes_back(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    process = LeashedProcess(["/bin/sh", "-c", script], log=tmp_path / "log")
    process.wait_for(lambda: "ready" in process.output(), what="ready", within_s=WAIT_S)
    assert process.terminate(within_s=WAIT_S) == 3
    assert process.output() == "ready\nbye\n"


def test_a_server_that_ends_early_shows_its_last_words(tmp_path: Path) -> None:
    process = LeashedProcess(["/bin/sh", "-c", "echo port is taken; exit 1"], log=tmp_path / "log")
    with pytest.raises(ServerError, match="port is taken"):
        process.wait_for(lambda: False, what="starting", within_s=WAIT_S)
    process.kill()
