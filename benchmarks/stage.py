"""What the benchmarks share: a made-up model, its state folder, topics full of events."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import yaml
from kafka import KafkaProducer

from adapters.examples import Examples
from adapters.feature_schema import Feature, FeatureSchema
from adapters.model_file import lineage_key
from adapters.training import FitSettings, fit_joint
from pipeline import arrivals
from pipeline.fold import shelf_of
from pipeline.messages import Event, Label
from pipeline.records import ModelsFound
from tests.servers.kafka_broker import KafkaBroker

FEATURES = 8
TOPICS = ("events", "labels", "control", "predictions", "decisions", "dead-letters")


def labelled_rows(n: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Return ``(n, 8)`` normal features and the sign of their sum as the class."""
    x = np.random.default_rng(seed).normal(size=(n, FEATURES))
    return x, ["up" if total > 0 else "down" for total in x.sum(axis=1)]


def make_state(folder: Path, seed: int = 0) -> None:
    """Leave a fitted MLP 8-64-64-2 as the first champion."""
    schema = FeatureSchema(tuple(Feature(f"f{i}", "number") for i in range(FEATURES)))
    x, labels = labelled_rows(2000, seed)
    rows = schema.parse_many([{f"f{i}": v for i, v in enumerate(r)} for r in x.tolist()]).rows
    keys = np.array([lineage_key(f"train-{i}") for i in range(len(x))], np.uint64)
    model = fit_joint(
        schema,
        Examples(rows, tuple(labels), keys=keys),
        settings=FitSettings(hidden=(64, 64)),
        seed=seed,
    )
    losses = tuple(float(v) for v in model.info["holdout_losses"])  # type: ignore[attr-defined]
    found = ModelsFound(shelf_of(folder).put_model(model), "joint", losses)
    arrivals.announce(folder, found)


def write_config(
    path: Path, broker: KafkaBroker, state: Path, prefix: str, **sections: object
) -> None:
    """Write a daemon's configuration with topics of its own."""
    topics = {name.replace("-", "_"): f"{prefix}-{name}" for name in TOPICS}
    broker.create_topics(dict.fromkeys(topics.values(), 1))
    content = {
        "model": {"name": prefix},
        "state_dir": str(state),
        "kafka": {"bootstrap_servers": broker.bootstrap_servers, "topics": topics},
        "http": {"port": 0},
        "log": {"level": "warning"},
        **sections,
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


@contextmanager
def producing(broker: KafkaBroker) -> Iterator[KafkaProducer]:
    """A producer for the benchmark's own events."""
    producer = KafkaProducer(
        bootstrap_servers=broker.bootstrap_servers,
        acks="all",
        compression_type="lz4",
        linger_ms=20,
        batch_size=256 * 1024,
    )
    try:
        yield producer
    finally:
        producer.close(timeout=10)


def fill(broker: KafkaBroker, prefix: str, events: int, label_share: float, seed: int) -> int:
    """Publish events, and labels for a share of them; return how many labels."""
    x, labels = labelled_rows(events, seed)
    draw, encode = random.Random(seed), msgspec.json.Encoder().encode
    count = 0
    with producing(broker) as producer:
        for i, (row, label) in enumerate(zip(x.tolist(), labels, strict=True)):
            features = {f"f{k}": round(v, 6) for k, v in enumerate(row)}
            event = Event(id=f"e-{i}", ts=1_700_000_000_000 + i, features=features)
            producer.send(f"{prefix}-events", encode(event), event.id.encode())
            if draw.random() < label_share:
                producer.send(f"{prefix}-labels", encode(Label(id=event.id, label=label)))
                count += 1
            if i % 5000 == 4999:
                producer.flush(timeout=60)
        producer.flush(timeout=60)
    return count
