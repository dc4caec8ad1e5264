"""Sends events and labels to Kafka: ready bytes, acknowledged by all replicas, bounded in flight.

The client itself bounds nothing (3.0 has no ``buffer_memory``), so the sends that are not yet
acknowledged are counted here, and the oldest is waited for when there are too many.
"""

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kafka import KafkaProducer
from kafka.errors import KafkaError

from pipeline.kafka_source import connection
from pipeline.records import Stream

if TYPE_CHECKING:
    from pipeline.kafka_settings import KafkaSettings

MOST_IN_FLIGHT = 10_000


class ProduceError(Exception):
    """The broker did not take a message; says what to do."""


class KafkaOutlet:
    """An outlet into the input topics; a context manager that closes at the end.

    Record timestamps are the time of sending.

    Args:
        kafka: The broker and the topics.
        streams: Those that will be sent to; each topic must exist.

    Raises:
        ProduceError: No broker answers, or a topic does not exist.
    """

    def __init__(
        self, kafka: "KafkaSettings", streams: Sequence[Stream] = ("events", "labels")
    ) -> None:
        self._topics: dict[Stream, str] = {s: getattr(kafka.topics, s) for s in streams}
        self._timeout_s = kafka.request_timeout_ms / 1000 * 2
        self._in_flight: deque[Any] = deque()
        try:
            self._producer = KafkaProducer(
                **connection(kafka),
                acks="all",
                compression_type="lz4",
                linger_ms=5,
                batch_size=256 * 1024,
                max_block_ms=kafka.request_timeout_ms,
                delivery_timeout_ms=kafka.request_timeout_ms * 2,
                max_request_size=kafka.max_message_bytes + 256 * 1024,
            )
        except KafkaError as error:
            raise ProduceError(
                f"kafka.bootstrap_servers: no broker answers at {kafka.bootstrap_servers} "
                f"({error}): start it or correct the address"
            ) from error
        try:
            for topic in self._topics.values():
                self._require(topic)
        except ProduceError:
            self.close()
            raise

    def _require(self, topic: str) -> None:
        try:
            found = self._producer.partitions_for(topic)
        except KafkaError as error:
            raise ProduceError(_missing(topic, error)) from error
        if not found:
            raise ProduceError(_missing(topic, None))

    def send(self, stream: Stream, key: bytes, value: bytes) -> None:
        """Send one message; waits for the oldest one in flight when there are too many.

        Raises:
            ProduceError: The broker refused a message or did not answer in time.
        """
        if len(self._in_flight) >= MOST_IN_FLIGHT:
            self._settle(self._in_flight.popleft())
        try:
            self._in_flight.append(self._producer.send(self._topics[stream], value, key))
        except KafkaError as error:
            raise ProduceError(_refused(error)) from error

    def flush(self) -> None:
        """Return once the broker has acknowledged everything.

        Raises:
            ProduceError: It has not, in time.
        """
        try:
            self._producer.flush(timeout=self._timeout_s)
        except KafkaError as error:
            raise ProduceError(_refused(error)) from error
        while self._in_flight:
            self._settle(self._in_flight.popleft())

    def _settle(self, future: Any) -> None:
        try:
            future.get(timeout=self._timeout_s)
        except KafkaError as error:
            raise ProduceError(_refused(error)) from error

    def close(self) -> None:
        """Leave the broker."""
        self._producer.close(timeout=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _missing(topic: str, error: KafkaError | None) -> str:
    why = f" ({type(error).__name__})" if error is not None else ""
    return (
        f"topic {topic!r} does not exist on the broker{why}: make it with "
        "`metadrift init --topics`, or correct kafka.topics"
    )


def _refused(error: KafkaError) -> str:
    return (
        f"the broker did not take a message ({type(error).__name__}: {error}): check the broker, "
        "then play the file again; repeated ids are recognised as duplicates"
    )
