"""Keeps labels and commands from running ahead of events that are still unread.

After a long pause every topic has a backlog. Read at full speed, labels would come before their
events by more than may wait, and be lost as orphans.
"""

from collections.abc import Callable, Sequence
from typing import Final

from pipeline.records import Chunk, Stream

FOLLOWERS: Final[tuple[Stream, ...]] = ("labels", "control")
CAUGHT_UP_POLLS = 5
AHEAD_MS = 1000
"""How far labels and commands may run ahead of unread events, by record time."""


class StreamPace:
    """Says after each poll which streams to hold back.

    >>> pace, late = StreamPace(), Chunk("labels", "labels", 0, [0], [9_000], [b""])
    >>> pace.hold([Chunk("events", "events", 0, [0], [5_000], [b""]), late], 9_000, lambda: True)
    {'labels'}
    >>> pace.hold([Chunk("events", "events", 0, [1], [8_500], [b""])], 9_000, lambda: True)
    set()
    """

    def __init__(self) -> None:
        self._newest_ms: dict[Stream, int] = {}
        self._polls_without_events = 0

    def hold(
        self, chunks: Sequence[Chunk], now_ms: int, unread_events: Callable[[], bool]
    ) -> set[Stream]:
        """Return the streams to hold back until the next poll.

        Args:
            chunks: Of this poll; may be none.
            now_ms: Host time, epoch milliseconds.
            unread_events: Whether the broker holds events that were not read yet.
        """
        for chunk in chunks:
            newest_ms = min(chunk.times_ms[-1], now_ms)  # a wrong clock must not hold labels back
            newest = max(self._newest_ms.get(chunk.stream, 0), newest_ms)
            self._newest_ms[chunk.stream] = newest
        events = any(c.stream == "events" for c in chunks)
        self._polls_without_events = 0 if events else self._polls_without_events + 1
        # Offsets of transaction markers are never read, so "unread" alone could last for ever.
        if self._polls_without_events >= CAUGHT_UP_POLLS or not unread_events():
            return set()
        limit_ms = self._newest_ms.get("events", 0) + AHEAD_MS
        return {stream for stream in FOLLOWERS if self._newest_ms.get(stream, 0) > limit_ms}
