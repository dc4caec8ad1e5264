"""T11: from the last label that an episode needs to the first answer by the adapted model.

A real broker, a real daemon, 200 events a second. Tasks are announced one after another, each with
20 labelled examples; the clock starts when the last example has been acknowledged by the broker
and stops at the record time of the first prediction with ``arm: candidate`` of a new version.
In between: poll, join, bake-off of every recipe in the worker, gate, rollout, poll, score, publish.
"""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from adapters.examples import Examples
from adapters.feature_schema import Feature, FeatureSchema
from adapters.meta_settings import MetaTrainData, MetaTrainSettings
from adapters.meta_training import meta_train
from adapters.model_file import lineage_key
from benchmarks.stage import FEATURES, make_state, producing, write_config
from pipeline import arrivals
from pipeline.fold import shelf_of
from pipeline.messages import Control, Event, Label, Prediction
from pipeline.records import ModelsFound
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.leashed_process import LeashedProcess

RATE = 200
EXAMPLES = 20
LONGEST_S = 20.0
_encode = msgspec.json.Encoder().encode


def _features(row: list[float]) -> dict[str, float]:
    return {f"f{i}": round(v, 6) for i, v in enumerate(row)}


def _meta_init(state: Path, seed: int) -> None:
    """Meta-train briefly over tasks that are random half-spaces."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(24, 100, FEATURES))
    normals = draw.normal(size=(24, FEATURES))
    labels = np.where(np.einsum("tnf,tf->tn", x, normals) > 0, "up", "down").reshape(-1)
    schema = FeatureSchema(tuple(Feature(f"f{i}", "number") for i in range(FEATURES)))
    rows = schema.parse_many([_features(r) for r in x.reshape(-1, FEATURES).tolist()]).rows
    keys = np.array([lineage_key(f"meta-{i}") for i in range(len(labels))], np.uint64)
    tasks = tuple(f"task-{i // 100}" for i in range(len(labels)))
    data = MetaTrainData(schema, Examples(rows, tuple(labels), keys=keys), tasks, ("down", "up"))
    made = meta_train(data, MetaTrainSettings(max_seconds=8, processes=1, seed=seed))
    digest = shelf_of(state).put_meta_init(made)
    found = ModelsFound("", meta_init=digest, recommended=made.recommended)
    arrivals.announce(state, found)


class _Traffic(threading.Thread):
    """A steady stream of events that nobody labels."""

    def __init__(self, producer: KafkaProducer, topic: str, seed: int) -> None:
        super().__init__(daemon=True)
        self._producer, self._topic = producer, topic
        self._draw = np.random.default_rng(seed)
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.ended.wait(1 / RATE):
            features = _features(self._draw.normal(size=FEATURES).tolist())
            event = Event(id=f"t-{number}", features=features)
            self._producer.send(self._topic, _encode(event), event.id.encode())
            number += 1


def _wait(what: str, within_s: float, look: Callable[[], float | None]) -> float:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
    raise TimeoutError(f"{what} did not come within {within_s} s")


def measure(broker: KafkaBroker, folder: Path, announcements: int) -> dict[str, object]:
    """Return seconds per announcement, and how many were refused by the gate."""
    prefix, state = "reaction", folder / "reaction"
    make_state(state)
    _meta_init(state, 0)
    config = folder / "reaction.yaml"
    rollout = {"steps": [100], "least_labels": 10, "wrong_promotions_per_30_days": 5.0}
    write_config(config, broker, state, prefix, rollout=rollout)
    reader = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="latest")
    partition = TopicPartition(f"{prefix}-predictions", 0)
    reader.assign([partition])
    reader.seek_to_end(partition)
    reader.poll(timeout_ms=100)
    daemon = LeashedProcess(
        [str(Path(sys.executable).parent / "metadrift"), "run", "-c", str(config)],
        log=folder / "reaction.log",
    )
    decode = msgspec.json.Decoder(Prediction).decode
    draw = np.random.default_rng(1)
    times: list[float] = []
    refused = 0
    versions: set[str] = set()

    def answered() -> float | None:
        for records in reader.poll(timeout_ms=20).values():
            for record in records:
                answer = decode(record.value)
                if answer.arm == "candidate" and answer.model_version not in versions:
                    versions.add(answer.model_version)
                    return record.timestamp / 1000
        return None

    def any_answer() -> float | None:
        return 1.0 if reader.poll(timeout_ms=200) else None

    try:
        with producing(broker) as producer:
            traffic = _Traffic(producer, f"{prefix}-events", 2)
            traffic.start()
            _wait("the daemon's first answer", 60, any_answer)
            time.sleep(2)
            for number in range(announcements):
                normal = draw.normal(size=FEATURES)
                x = draw.normal(size=(EXAMPLES, FEATURES))
                ids = [f"example-{number}-{i}" for i in range(EXAMPLES)]
                command = Control(
                    verb="new-task", id=f"n{number}", by="bench", task=f"t{number}", examples=ids
                )
                producer.send(f"{prefix}-control", _encode(command))
                for name, row in zip(ids, x, strict=True):
                    label = "up" if row @ normal > 0 else "down"
                    text = _encode(Label(id=name, label=label, features=_features(row.tolist())))
                    producer.send(f"{prefix}-labels", text)
                producer.flush(timeout=10)
                began = time.time()
                try:
                    times.append(_wait("a candidate's answer", LONGEST_S / 4, answered) - began)
                except TimeoutError:
                    refused += 1
            traffic.ended.set()
            traffic.join(5)
    finally:
        daemon.terminate(within_s=20)
        reader.close()
    p50, p95 = (float(np.percentile(times, q)) for q in (50, 95))
    print(
        f"{len(times)} of {announcements} announced tasks reached the canary "
        f"({refused} had no lower loss than the champion on 5 examples): "
        f"median {p50 * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms, most {max(times) * 1000:.0f} ms"
    )
    return {"seconds": times, "refused": refused, "p50_s": p50, "p95_s": p95}
