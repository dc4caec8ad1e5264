"""Follows the predictions topic, as a consumer of the daemon's answers would."""

import threading
from typing import TYPE_CHECKING, Any

import msgspec
from kafka import KafkaConsumer, TopicPartition

from pipeline.kafka_source import connection
from pipeline.messages import Prediction

if TYPE_CHECKING:
    from pipeline.kafka_settings import KafkaSettings

POLL_MS = 200
MOST_RECORDS = 500


class KafkaAnswers:
    """A thread that keeps the first answer to every event.

    Args:
        kafka: The broker and the topics.
    """

    def __init__(self, kafka: "KafkaSettings") -> None:
        self.served: dict[str, str | float | None] = {}
        self._decoder = msgspec.json.Decoder(Prediction)
        self._consumer: Any = KafkaConsumer(
            **connection(kafka), enable_auto_commit=False, auto_offset_reset="earliest"
        )
        topic = kafka.topics.predictions
        partitions = self._consumer.partitions_for_topic(topic) or {0}
        self._consumer.assign([TopicPartition(topic, p) for p in sorted(partitions)])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="answers", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.is_set():
            found = self._consumer.poll(timeout_ms=POLL_MS, max_records=MOST_RECORDS)
            for records in found.values():
                for record in records:
                    answer = self._decoder.decode(record.value)
                    self.served.setdefault(answer.id, answer.prediction)

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(5)
        self._consumer.close()
