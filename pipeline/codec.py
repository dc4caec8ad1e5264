"""Bytes in, typed messages or dead letters out. Nothing here raises on bad input."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from pipeline.messages import Control, Event, Label
from pipeline.records import Chunk, DeadLetter, Stream

LONGEST_LEAD_MS = 3_600_000
LONGEST_ID = 256
LONGEST_REASON = 2000

_EVENT_TEXTS = (("group", LONGEST_ID), ("task", LONGEST_ID))
_LABEL_TEXTS = (("group", LONGEST_ID),)
_CONTROL_TEXTS = (
    ("by", LONGEST_ID),
    ("reason", LONGEST_REASON),
    ("route", LONGEST_ID),
    ("task", LONGEST_ID),
    ("digest", LONGEST_ID),
)
"""Optional texts and their bounds: they are kept, and a command's go into decisions."""

M = TypeVar("M", Event, Label, Control)


@dataclass(frozen=True, slots=True)
class Decoded(Generic[M]):
    """The readable messages of one stream, with where each one came from.

    Attributes:
        messages: In order of record time.
        origins: (chunk number, index within the chunk) per message.
        times_ms: Record timestamp per message.
    """

    messages: list[M]
    origins: list[tuple[int, int]]
    times_ms: list[int]

    def slices(self, most: int) -> "Iterator[Decoded[M]]":
        """Yield the messages in runs of at most ``most``."""
        if len(self.messages) <= most:
            yield self
            return
        for low in range(0, len(self.messages), most):
            part = slice(low, low + most)
            yield Decoded(self.messages[part], self.origins[part], self.times_ms[part])


class Codec:
    """Decodes polls.

    Args:
        max_bytes: A larger value is dead-lettered unread.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._events = msgspec.json.Decoder(Event).decode
        self._labels = msgspec.json.Decoder(Label).decode
        self._control = msgspec.json.Decoder(Control).decode

    def events(
        self, chunks: Iterable[Chunk], host_ms: int, dead: list[DeadLetter]
    ) -> Decoded[Event]:
        """Decode the events of a poll; what cannot be read is appended to ``dead``."""
        return self._decode(self._events, _EVENT_TEXTS, "events", chunks, host_ms, dead)

    def labels(
        self, chunks: Iterable[Chunk], host_ms: int, dead: list[DeadLetter]
    ) -> Decoded[Label]:
        """Decode the labels of a poll; what cannot be read is appended to ``dead``."""
        return self._decode(self._labels, _LABEL_TEXTS, "labels", chunks, host_ms, dead)

    def control(
        self, chunks: Iterable[Chunk], host_ms: int, dead: list[DeadLetter]
    ) -> Decoded[Control]:
        """Decode the commands of a poll; what cannot be read is appended to ``dead``."""
        return self._decode(self._control, _CONTROL_TEXTS, "control", chunks, host_ms, dead)

    def _decode(
        self,
        decode: Callable[[bytes], M],
        texts: tuple[tuple[str, int], ...],
        stream: Stream,
        chunks: Iterable[Chunk],
        host_ms: int,
        dead: list[DeadLetter],
    ) -> Decoded[M]:
        messages: list[M] = []
        origins: list[tuple[int, int]] = []
        times: list[int] = []
        latest, longest, several = host_ms + LONGEST_LEAD_MS, self.max_bytes, 0
        for number, chunk in enumerate(chunks):
            if chunk.stream != stream:
                continue
            if chunk.damaged:
                dead.append(_damaged(chunk))
                continue
            several += 1
            for i, (value, time_ms) in enumerate(zip(chunk.values, chunk.times_ms, strict=True)):
                try:
                    if value is None:
                        raise _UnusableError("empty", "the record has no value; send a JSON object")
                    if len(value) > longest:
                        raise _UnusableError(
                            "oversized",
                            f"the value has {len(value)} bytes; kafka.max_message_bytes allows "
                            f"{longest}",
                        )
                    if time_ms > latest:
                        raise _UnusableError(
                            "from-the-future",
                            f"the record is stamped {(time_ms - host_ms) / 1000:.0f} s ahead of "
                            "this host; correct the producer's clock",
                        )
                    message = decode(value)
                    if not 0 < len(message.id) <= LONGEST_ID:
                        raise _UnusableError(
                            "wrong-type",
                            f"id has {len(message.id)} characters; send 1 to {LONGEST_ID}",
                        )
                    for name, most in texts:
                        text = getattr(message, name)
                        if text is not None and len(text) > most:
                            raise _UnusableError(
                                "wrong-type",
                                f"{name} has {len(text)} characters; send at most {most}",
                            )
                except (
                    msgspec.MsgspecError,
                    RecursionError,
                    UnicodeError,
                    _UnusableError,
                ) as error:
                    dead.append(dead_letter(chunk, i, _class_of(error), str(error)))
                    continue
                messages.append(message)
                origins.append((number, i))
                times.append(time_ms)
        if several > 1:
            order = sorted(range(len(messages)), key=times.__getitem__)
            messages = [messages[k] for k in order]
            origins = [origins[k] for k in order]
            times = [times[k] for k in order]
        return Decoded(messages, origins, times)


class _UnusableError(Exception):
    """A record that is set aside, with its error class."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError, _UnusableError)


def _class_of(error: Exception) -> str:
    match error:
        case _UnusableError():
            return error.error
        case msgspec.ValidationError():
            return "wrong-type"
        case _:
            return "undecodable"


def _damaged(chunk: Chunk) -> DeadLetter:
    first, last = chunk.offsets[0], chunk.offsets[-1]
    message = f"offsets {first} to {last} cannot be unpacked ({chunk.damaged}); produce them again"
    return dead_letter(chunk, 0, "damaged", message)


def dead_letter(chunk: Chunk, index: int, error: str, message: str) -> DeadLetter:
    """Return the dead letter for one record of a chunk."""
    return DeadLetter(
        chunk.topic, chunk.partition, chunk.offsets[index], chunk.values[index], error, message
    )
