"""Publishes predictions, decisions and dead letters.

``at_least_once``: a batch is sent and acknowledged before the state that led to it is committed.
``exactly_once``: a batch, and the offsets that it answers, are one Kafka transaction.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, ProducerFencedError

from pipeline.kafka_source import connection, offsets_to_commit
from pipeline.records import DeadLetter

if TYPE_CHECKING:
    from pipeline.kafka_settings import KafkaSettings

FLUSH_SLICE_S = 0.5
LARGEST_DEAD_LETTER = 64 * 1024


class SinkError(Exception):
    """The broker did not take a message; it will be sent again."""


class FencedError(Exception):
    """Another process publishes for this model now; this one must stop."""


class KafkaSink:
    """A producer for the three output topics.

    Args:
        kafka: The broker and the topics.
        transactional_id: Set for ``exactly_once``; fences an older owner.
        give_up: Whether waiting for a broker that is away is to end early.
    """

    def __init__(
        self,
        kafka: "KafkaSettings",
        transactional_id: str | None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._give_up = give_up
        self._topics = kafka.topics
        self._timeout_s = kafka.request_timeout_ms / 1000 * 2
        self._transactional = transactional_id is not None
        extra: dict[str, Any] = {"transactional_id": transactional_id} if transactional_id else {}
        self._producer = KafkaProducer(
            **connection(kafka),
            acks="all",
            compression_type="lz4",
            linger_ms=0 if self._transactional else 1,
            batch_size=256 * 1024,
            max_block_ms=kafka.request_timeout_ms,
            delivery_timeout_ms=kafka.request_timeout_ms * 2,
            max_request_size=kafka.max_message_bytes + 256 * 1024,
            **extra,
        )
        if self._transactional:
            try:
                self._producer.init_transactions()
            except ProducerFencedError as error:
                raise FencedError(str(error)) from error

    def publish(
        self,
        predictions: Iterable[tuple[bytes, bytes]],
        dead_letters: Iterable[DeadLetter],
        positions: Mapping[tuple[str, int], int],
        group_metadata: Any,
    ) -> None:
        """Publish a step's messages and wait until the broker has them.

        Args:
            predictions: (key, value).
            dead_letters: What could not be used.
            positions: Next offset per partition after the step, for the transaction.
            group_metadata: From the source, for the transaction.

        Raises:
            SinkError: Not all were taken (in a transaction: none was).
            FencedError: Another owner has taken over.
        """
        try:
            if self._transactional:
                self._producer.begin_transaction()
            sent = _Acknowledgements()
            send, topic = self._producer.send, self._topics.predictions
            for key, value in predictions:
                sent.expect(send(topic, value, key))
            for letter in dead_letters:
                kept, headers = _as_record(letter)
                sent.expect(send(self._topics.dead_letters, kept, None, headers))
            self._flush()
            sent.check()
            if self._transactional:
                self._producer.send_offsets_to_transaction(
                    offsets_to_commit(positions), group_metadata
                )
                self._producer.commit_transaction()
        except ProducerFencedError as error:
            raise FencedError(str(error)) from error
        except KafkaError as error:
            if self._transactional:
                self._abort()
            raise SinkError(f"{type(error).__name__}: {error}") from error

    def _flush(self) -> None:
        """Wait for the broker, in slices, so that a drain is not held up by one that is away."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                self._producer.flush(timeout=FLUSH_SLICE_S)
                return
            except KafkaTimeoutError:
                if self._give_up() or time.monotonic() > deadline:
                    raise

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction()
        except ProducerFencedError as error:
            raise FencedError(str(error)) from error
        except KafkaError as error:
            raise SinkError(f"abort: {error}") from error

    def decide(self, documents: Iterable[tuple[str, bytes]]) -> None:
        """Publish decisions (key, JSON) and wait until the broker has them.

        Raises:
            SinkError: Not all were taken; sending them again is harmless by their keys.
            FencedError: Another owner has taken over.
        """
        try:
            if self._transactional:
                self._producer.begin_transaction()
            sent = _Acknowledgements()
            for key, document in documents:
                sent.expect(self._producer.send(self._topics.decisions, document, key.encode()))
            self._flush()
            sent.check()
            if self._transactional:
                self._producer.commit_transaction()
        except ProducerFencedError as error:
            raise FencedError(str(error)) from error
        except KafkaError as error:
            if self._transactional:
                self._abort()
            raise SinkError(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Send what is queued and leave the broker."""
        self._producer.close(timeout=2)


class _Acknowledgements:
    """Counts what the broker has not acknowledged."""

    def __init__(self) -> None:
        self._futures: list[Any] = []

    def expect(self, future: Any) -> None:
        self._futures.append(future)

    def check(self) -> None:
        for future in self._futures:
            if not future.is_done:
                raise KafkaError("a message was not acknowledged in time")
            if future.exception is not None:
                raise future.exception


def _as_record(letter: DeadLetter) -> tuple[bytes, list[tuple[str, bytes]]]:
    value = letter.value if letter.value is not None else b""  # no record is sent without a value
    headers = [
        ("error", letter.error.encode()),
        ("message", letter.message.encode(errors="replace")[:2000]),
        ("topic", letter.topic.encode()),
        ("partition", str(letter.partition).encode()),
        ("offset", str(letter.offset).encode()),
    ]
    if letter.value is None:
        headers.append(("tombstone", b"true"))
    if len(value) > LARGEST_DEAD_LETTER:
        headers += [
            ("sha256", hashlib.sha256(value).hexdigest().encode()),
            ("length", str(len(value)).encode()),
        ]
        value = value[:LARGEST_DEAD_LETTER]
    return value, headers
