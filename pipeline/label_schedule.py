"""When each label of a file reaches the stream: a pure schedule of events and labels."""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.data_file import FileRow


@dataclass(frozen=True, slots=True)
class EventItem:
    """An event happens."""

    row: FileRow


@dataclass(frozen=True, slots=True)
class LabelItem:
    """A label arrives.

    Attributes:
        row: Whose label it is; ``row.label`` is set.
        ts_ms: Time of the event after which it arrives, epoch milliseconds.
    """

    row: FileRow
    ts_ms: int


Item: TypeAlias = EventItem | LabelItem


def schedule(
    rows: Iterable[FileRow], label_fraction: float = 1.0, label_delay: int = 0, seed: int = 0
) -> Iterator[Item]:
    """Yield events and labels in stream order.

    A label arrives right after the event that comes ``label_delay`` events later (0: right after
    its own); at the end the remaining labels arrive in order. Memory: ``label_delay + 1`` rows.

    Args:
        rows: In stream order.
        label_fraction: Chance that a row's label arrives at all, in [0, 1].
        label_delay: In events.
        seed: Decides which labels arrive; a row's draw depends on its place only.

    Raises:
        ValueError: A fraction outside [0, 1] or a negative delay.
    """
    if not 0.0 <= label_fraction <= 1.0:
        raise ValueError(f"label_fraction is {label_fraction}: use 0 to 1")
    if label_delay < 0:
        raise ValueError(f"label_delay is {label_delay}: use 0 or more events")
    return _schedule(rows, label_fraction, label_delay, seed)


def _schedule(
    rows: Iterable[FileRow], label_fraction: float, label_delay: int, seed: int
) -> Iterator[Item]:
    draw = random.Random(seed)
    waiting: deque[tuple[int, FileRow]] = deque()
    now_ms = 0
    for place, row in enumerate(rows):
        yield EventItem(row)
        now_ms = row.ts_ms
        chosen = draw.random() < label_fraction
        if chosen and row.label is not None:
            waiting.append((place + label_delay, row))
        while waiting and waiting[0][0] <= place:
            yield LabelItem(waiting.popleft()[1], now_ms)
    while waiting:
        yield LabelItem(waiting.popleft()[1], now_ms)
