"""Makes the topics and looks at them; the only place where topics come into being."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, for_code

from pipeline.kafka_source import connection

if TYPE_CHECKING:
    from pipeline.kafka_settings import KafkaSettings

_DAY_MS = 86_400_000
RETENTION_MS = {"decisions": -1}
"""By setting's name; decisions are the audit trail and stay for ever (-1)."""
USUAL_RETENTION_MS = 7 * _DAY_MS
SPREAD = ("events", "labels", "predictions")
"""Topics with several partitions; the others are small, and their order matters."""
BROKER_MESSAGE_BYTES = 1_000_000
_UNKNOWN_TOPIC = 3
_EXISTS = 36


class TopicError(Exception):
    """The broker does not answer or refuses; says what to do."""


def make_topics(
    kafka: "KafkaSettings", partitions: int, replication_factor: int, timeout_s: float
) -> dict[str, str]:
    """Make the six topics; return by name what became of each (``made`` or how it exists).

    Args:
        kafka: The broker and the names.
        partitions: Of events, labels and predictions; the others get one.
        replication_factor: Copies of each; -1 takes the broker's own default.
        timeout_s: Longest wait for the broker.

    Raises:
        TopicError: The broker does not answer, or refuses one.
    """
    wanted = {
        name: {
            "num_partitions": partitions if key in SPREAD else 1,
            "replication_factor": replication_factor,
            "configs": _configs(key, kafka.max_message_bytes),
        }
        for key, name in _named(kafka).items()
    }
    with _admin(kafka, timeout_s) as admin:
        answer = admin.create_topics(wanted, timeout_ms=int(timeout_s * 1000), raise_errors=False)
        found: dict[str, str] = {}
        for topic in answer["topics"]:
            name, code = str(topic["name"]), int(topic["error_code"])
            if code not in (0, _EXISTS):
                why = topic.get("error_message") or for_code(code).__name__
                raise TopicError(
                    f"topic '{name}': the broker refuses to make it ({why}): correct kafka.topics, "
                    "--partitions or --replication-factor, or have an administrator make it"
                )
            found[name] = "made" if code == 0 else "exists"
        held = _partitions(admin, list(wanted))
    for name, what in found.items():
        if what == "exists":
            found[name] = f"exists with {held.get(name, 0)} partitions, left as it is"
    return found


def topic_partitions(kafka: "KafkaSettings", timeout_s: float) -> dict[str, int]:
    """Return the partitions of each of the six topics; 0 where it does not exist.

    Raises:
        TopicError: The broker does not answer.
    """
    names = list(_named(kafka).values())
    with _admin(kafka, timeout_s) as admin:
        held = _partitions(admin, names)
    return {name: held.get(name, 0) for name in names}


def _named(kafka: "KafkaSettings") -> dict[str, str]:
    return {key: str(getattr(kafka.topics, key)) for key in type(kafka.topics).model_fields}


def _configs(key: str, max_message_bytes: int) -> dict[str, str]:
    configs = {
        "cleanup.policy": "delete",
        "retention.ms": str(RETENTION_MS.get(key, USUAL_RETENTION_MS)),
    }
    if max_message_bytes > BROKER_MESSAGE_BYTES:
        configs["max.message.bytes"] = str(max_message_bytes + 64 * 1024)
    return configs


@contextmanager
def _admin(kafka: "KafkaSettings", timeout_s: float) -> Iterator[Any]:
    timeout_ms = max(1000, int(timeout_s * 1000))
    shared = connection(kafka)
    del shared["allow_auto_create_topics"]
    shared["request_timeout_ms"] = shared["bootstrap_timeout_ms"] = timeout_ms
    try:
        admin = KafkaAdminClient(**shared)
        try:
            yield admin
        finally:
            admin.close()
    except (KafkaError, OSError) as error:
        raise TopicError(
            f"kafka.bootstrap_servers: no broker answers at {kafka.bootstrap_servers} ({error}): "
            "start it or correct the address"
        ) from error


def _partitions(admin: Any, names: list[str]) -> dict[str, int]:
    return {
        str(topic["name"]): len(topic["partitions"])
        for topic in admin.describe_topics(names)
        if int(topic["error_code"]) != _UNKNOWN_TOPIC
    }
