"""Settings under which the loop decides quickly, and the records that it reads."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.records import Chunk, Poll, Stream
from pipeline.settings import Settings, parse_settings

START_MS = 1_700_000_000_000
EVENT_MS = 100
QUICK: dict[str, dict[str, object]] = {
    "detect": {"confidence": False, "features": False},
    "trigger": {"warm_up_labels": 5, "cool_down_labels": 5},
    "episode": {
        "support": 24,
        "query": 12,
        "holdout": 16,
        "least_support": 8,
        "recipes": ["frozen", "recalled", "reptile", "fine_tune", "scratch"],
    },
    "gate": {"target_from": 0.5, "target_to": 0.05},
    "rollout": {
        "steps": [10, 50],
        "least_labels": 5,
        "probation_labels": 20,
        "risk_per_rollout": 0.2,
        "wrong_promotions_per_30_days": 5.0,
    },
}


def quick_settings(folder: Path, **sections: Mapping[str, object]) -> Settings:
    """Return settings under which the loop decides within some dozen labels."""
    content: dict[str, object] = {"model": {"name": "small"}, "state_dir": str(folder), **QUICK}
    for name, section in sections.items():
        content[name] = {**QUICK.get(name, {}), **section}
    content["model"] = {"name": "small", **sections.get("model", {})}
    return parse_settings(content)


class Topics:
    """Records by topic, one partition each; topic and stream have the same name."""

    def __init__(self) -> None:
        self.records: dict[str, list[tuple[int, bytes | None]]] = {}

    def put(self, stream: Stream, values: Iterable[bytes | None], times_ms: list[int]) -> Chunk:
        """Append records; return them as one poll would."""
        records = self.records.setdefault(stream, [])
        first, new = len(records), list(values)
        records += zip(times_ms, new, strict=True)
        return Chunk(stream, stream, 0, list(range(first, len(records))), times_ms, new)

    def read(self, ranges: list[tuple[str, str, int, int, int]], host_ms: int) -> Poll:
        """Return the records of some ranges again."""
        chunks = []
        for stream, topic, partition, low, high in ranges:
            got = self.records[topic][low : high + 1]
            assert stream in ("events", "labels", "control")
            chunks.append(
                Chunk(
                    stream,
                    topic,
                    partition,
                    list(range(low, high + 1)),
                    [t for t, _ in got],
                    [v for _, v in got],
                )
            )
        return Poll(tuple(chunks), host_ms)


def as_bytes(message: object) -> bytes | None:
    """Return a message as it travels; bytes and None stay what they are."""
    if message is None or isinstance(message, bytes):
        return message
    return json.dumps(message).encode()
