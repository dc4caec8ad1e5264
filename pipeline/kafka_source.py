"""Reads events, labels and control from Kafka: every partition, by explicit offset, raw bytes.

The process that owns a model reads all partitions itself (``assign``), starting where the state
file says. Kafka's committed offset is written now and then for lag tools and never read back,
except in ``exactly_once``, where it tells whether the last transaction came through.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from pipeline.damaged_batch import damaged_range, is_damage
from pipeline.records import Chunk, Poll, Stream
from pipeline.stream_pace import StreamPace

if TYPE_CHECKING:
    from pipeline.kafka_settings import KafkaSettings

Positions = dict[tuple[str, int], int]
"""(topic, partition) -> next offset."""

LOOK_FOR_PARTITIONS_S = 30.0
LONGEST_RECONNECT_MS = 2_000
"""The client's own 30 s would leave a broker that is back unread for as long."""

COMMIT_EVERY_S = 5.0
_CALL_MS = 15_000


class SourceError(Exception):
    """The topics cannot be read as the state demands; says what to do."""


def connection(kafka: "KafkaSettings") -> dict[str, Any]:
    """Return the client settings that every connection to the broker shares."""
    secret = kafka.sasl_password
    return {
        "bootstrap_servers": kafka.bootstrap_servers.split(","),
        "security_protocol": kafka.security_protocol,
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": secret.get_secret_value() if secret else None,
        "ssl_cafile": str(kafka.ssl_cafile) if kafka.ssl_cafile else None,
        "request_timeout_ms": kafka.request_timeout_ms,
        "bootstrap_timeout_ms": kafka.request_timeout_ms,
        "reconnect_backoff_max_ms": LONGEST_RECONNECT_MS,
        "allow_auto_create_topics": False,
    }


class KafkaSource:
    """An assigned consumer over the three input topics.

    Args:
        kafka: The broker and the topics.
        group: Consumer group, for lag tools and transactions; ``metadrift-<model>``.
        positions: Where to go on; partitions not named here start at their first record.
        accept_lost: Go on at the nearest record where the broker no longer holds the next one.

    Raises:
        SourceError: A topic does not exist, or the broker does not answer.
    """

    def __init__(
        self,
        kafka: "KafkaSettings",
        group: str,
        positions: Mapping[tuple[str, int], int],
        *,
        accept_lost: bool = False,
    ) -> None:
        topics = kafka.topics
        self._streams: dict[str, Stream] = {
            topics.events: "events",
            topics.labels: "labels",
            topics.control: "control",
        }
        self._settings, self._group = kafka, group
        self._known: Positions = dict(positions)
        self._looked_s = self._committed_s = time.monotonic()
        try:
            self._consumer = self._open()
        except KafkaError as error:
            raise SourceError(
                f"kafka.bootstrap_servers: no broker answers at {kafka.bootstrap_servers} "
                f"({error}): start it or correct the address"
            ) from error
        self._assigned: list[Any] = []
        self._pace = StreamPace()
        self._held: set[Stream] = set()
        try:
            if accept_lost:
                self._accept_lost()
            self._assign()
        except KafkaError as error:
            raise SourceError(
                f"kafka.bootstrap_servers: {kafka.bootstrap_servers} does not say what it holds "
                f"({error}): try again once the broker is up"
            ) from error

    def _open(self) -> Any:
        return KafkaConsumer(
            **connection(self._settings),
            client_id=self._group,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=min(self._settings.poll_timeout_ms, 100),
            max_partition_fetch_bytes=4 * 1024 * 1024,
            metadata_max_age_ms=int(LOOK_FOR_PARTITIONS_S * 1000),
        )

    def _partitions(self) -> list[Any]:
        found = []
        for topic in self._streams:
            numbers = self._consumer.partitions_for_topic(topic)
            if not numbers:
                raise SourceError(
                    f"topic '{topic}' does not exist: make the topics with "
                    "`metadrift init --topics -c CONFIG`"
                )
            found += [TopicPartition(topic, n) for n in sorted(numbers)]
        return found

    def _assign(self) -> None:
        wanted = self._partitions()
        if wanted == self._assigned:
            return
        new = [tp for tp in wanted if (tp.topic, tp.partition) not in self._known]
        firsts = self._consumer.beginning_offsets(new, timeout_ms=_CALL_MS) if new else {}
        for tp in new:
            self._known[tp.topic, tp.partition] = int(firsts[tp])
        self._check_not_lost(wanted)
        self._consumer.assign(wanted)
        for tp in wanted:
            self._consumer.seek(tp, self._known[tp.topic, tp.partition])
        self._assigned = wanted
        self._held = set()

    def _check_not_lost(self, partitions: Iterable[Any]) -> None:
        partitions = list(partitions)
        firsts = self._consumer.beginning_offsets(partitions, timeout_ms=_CALL_MS)
        ends = self._consumer.end_offsets(partitions, timeout_ms=_CALL_MS)
        for tp in partitions:
            next_offset = self._known[tp.topic, tp.partition]
            if not int(firsts[tp]) <= next_offset <= int(ends[tp]):
                raise SourceError(
                    f"{tp.topic}[{tp.partition}]: the state goes on at offset {next_offset}, the "
                    f"broker holds {firsts[tp]} to {ends[tp]}: records were lost (retention, or "
                    "another cluster). Point kafka.bootstrap_servers at the right cluster, or "
                    "accept the gap with `metadrift run --accept-lost`"
                )

    def _accept_lost(self) -> None:
        tps = [TopicPartition(t, p) for t, p in self._known]
        firsts = self._consumer.beginning_offsets(tps, timeout_ms=_CALL_MS)
        ends = self._consumer.end_offsets(tps, timeout_ms=_CALL_MS)
        for tp in tps:
            at = self._known[tp.topic, tp.partition]
            self._known[tp.topic, tp.partition] = min(max(at, int(firsts[tp])), int(ends[tp]))

    def poll(self) -> Poll | None:
        """Return the next records, or None when none came within the poll timeout.

        Raises:
            SourceError: The broker no longer holds the next record.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s > LOOK_FOR_PARTITIONS_S:
            self._looked_s = now_s
            with suppress(KafkaError):  # the broker is away; there is a next look
                self._assign()
        try:
            found = self._consumer.poll(
                timeout_ms=self._settings.poll_timeout_ms,
                max_records=self._settings.max_poll_records,
            )
        except OffsetOutOfRangeError:
            self._check_not_lost(self._assigned)
            raise
        except Exception as error:
            if not is_damage(error):
                raise
            return self._step_over(error)
        if not found:
            self._keep_step(())
            return None
        host_ms = int(time.time() * 1000)
        chunks = [self._chunk(tp, records, host_ms) for tp, records in found.items()]
        for chunk in chunks:
            self._known[chunk.topic, chunk.partition] = chunk.offsets[-1] + 1
        self._keep_step(chunks)
        chunks.sort(key=lambda c: (c.stream, c.topic, c.partition))
        return Poll(tuple(chunks), host_ms)

    def _keep_step(self, chunks: Sequence[Chunk]) -> None:
        """Hold labels and commands back while they run ahead of events that are still unread."""
        hold = self._pace.hold(chunks, int(time.time() * 1000), self._unread_events)
        for stream in hold ^ self._held:
            partitions = [tp for tp in self._assigned if self._streams[tp.topic] == stream]
            (self._consumer.pause if stream in hold else self._consumer.resume)(*partitions)
        self._held = hold

    def _unread_events(self) -> bool:
        return any(
            self._streams[tp.topic] == "events" and self._unread(tp) for tp in self._assigned
        )

    def _unread(self, tp: Any) -> bool:
        end = self._consumer.highwater(tp)
        return end is None or self._known[tp.topic, tp.partition] < int(end)

    def _step_over(self, error: Exception) -> Poll:
        """Return the batch that cannot be unpacked as one damaged chunk, and go on behind it.

        Raises:
            Exception: ``error``, where every partition can be read.
        """
        partitions = self._reopen()
        for tp in partitions:
            damaged = self._damaged_at(tp)
            if damaged is not None:
                self._known[tp.topic, tp.partition] = damaged.offsets[-1] + 1
                self._assign()
                return Poll((damaged,), int(time.time() * 1000))
        raise error

    def _reopen(self) -> list[Any]:
        """Take a new consumer (one that has raised never recovers); return what was assigned."""
        self._consumer.close(autocommit=False, timeout_ms=2000)
        self._consumer = self._open()
        before, self._assigned = self._assigned, []
        return before

    def _damaged_at(self, tp: Any) -> Chunk | None:
        """Return the batch at the next offset of a partition if it cannot be unpacked."""
        first = self._known[tp.topic, tp.partition]
        end = int(self._consumer.end_offsets([tp], timeout_ms=_CALL_MS)[tp])
        found = damaged_range(self._open, tp, first, end) if first < end else None
        if found is None:
            return None
        offsets = sorted({first, found[0]})
        return Chunk(
            self._streams[tp.topic],
            tp.topic,
            tp.partition,
            offsets,
            [0] * len(offsets),
            [None] * len(offsets),
            found[1],
        )

    def _chunk(self, tp: Any, records: list[Any], host_ms: int) -> Chunk:
        return Chunk(
            self._streams[tp.topic],
            tp.topic,
            tp.partition,
            [r.offset for r in records],
            [r.timestamp if r.timestamp >= 0 else host_ms for r in records],
            [r.value for r in records],
        )

    def read(
        self, ranges: Iterable[tuple[str, str, int, int, int]], host_ms: int, timeout_s: float = 30
    ) -> Poll:
        """Return exactly these records (stream, topic, partition, first, last offset) again.

        Leaves the reading position behind them.

        Raises:
            SourceError: The broker no longer holds them, or does not answer in time.
        """
        wanted = [(TopicPartition(t, p), first, last) for _, t, p, first, last in ranges]
        got: dict[Any, list[Any]] = {tp: [] for tp, _, _ in wanted}
        self._consumer.assign([tp for tp, _, _ in wanted])
        for tp, first, _ in wanted:
            self._consumer.seek(tp, first)
        open_ = {tp: last for tp, _, last in wanted}
        deadline = time.monotonic() + timeout_s
        while open_:
            if time.monotonic() > deadline:
                raise SourceError(f"the broker did not return {sorted(open_)} within {timeout_s} s")
            try:
                found = self._consumer.poll(timeout_ms=200, max_records=5000)
            except Exception as error:
                if not is_damage(error):
                    raise
                return self._read_damaged(wanted, host_ms, error)
            for tp, records in found.items():
                if tp not in open_:
                    continue
                got[tp] += [r for r in records if r.offset <= open_[tp]]
                if records[-1].offset >= open_[tp]:
                    del open_[tp]
                    self._consumer.pause(tp)
        for tp, _, last in wanted:
            self._known[tp.topic, tp.partition] = last + 1
        self._assigned = []
        self._assign()
        self._consumer.resume(*self._assigned)
        return Poll(
            tuple(self._chunk(tp, got[tp], host_ms) for tp, _, _ in wanted if got[tp]), host_ms
        )

    def _read_damaged(
        self, wanted: list[tuple[Any, int, int]], host_ms: int, error: Exception
    ) -> Poll:
        """Return the poll of a damaged batch again: it was that batch alone."""
        self._reopen()
        tp, first, last = wanted[0]
        self._known[tp.topic, tp.partition] = first
        damaged = self._damaged_at(tp)
        if len(wanted) > 1 or damaged is None or damaged.offsets[-1] != last:
            raise SourceError(
                f"{tp.topic}[{tp.partition}]: offsets {first} to {last} were read before and can "
                f"no longer be unpacked ({error}): the broker's disk may be failing"
            ) from error
        self._known[tp.topic, tp.partition] = last + 1
        self._assign()
        return Poll((damaged,), host_ms)

    def positions(self) -> Positions:
        """Return the next offset of every partition."""
        return dict(self._known)

    def group_metadata(self) -> Any:
        """Return what a transaction needs to commit offsets for this group."""
        return self._consumer.group_metadata()

    def committed(self) -> Positions:
        """Return the offsets committed at Kafka."""
        found: Positions = {}
        for tp in self._assigned:
            offset = self._consumer.committed(tp, timeout_ms=_CALL_MS)
            if offset is not None:
                found[tp.topic, tp.partition] = int(offset)
        return found

    def advertise(self) -> bool:
        """Commit the positions at Kafka, for lag tools, at most every few seconds.

        Returns:
            False when the broker did not take them; they are advisory, so nothing is lost.
        """
        if time.monotonic() - self._committed_s < COMMIT_EVERY_S:
            return True
        self._committed_s = time.monotonic()
        try:
            self._consumer.commit(offsets_to_commit(self._known), timeout_ms=2000)
        except KafkaError:
            return False
        return True

    def lag(self) -> dict[str, int]:
        """Return records not yet read, by topic, as the last fetches knew the topics' ends."""
        lag: dict[str, int] = dict.fromkeys(self._streams, 0)
        for tp in self._assigned:
            end = self._consumer.highwater(tp)
            if end is not None:
                lag[tp.topic] += max(0, int(end) - self._known[tp.topic, tp.partition])
        return lag

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close(autocommit=False, timeout_ms=2000)


def offsets_to_commit(positions: Mapping[tuple[str, int], int]) -> dict[Any, Any]:
    """Return positions in the client's types."""
    return {TopicPartition(t, p): OffsetAndMetadata(o, "", -1) for (t, p), o in positions.items()}
