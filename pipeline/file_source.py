"""A data file as the polls that a broker would have returned."""

from collections.abc import Iterable, Iterator

import msgspec

from pipeline.label_schedule import EventItem, Item, LabelItem
from pipeline.messages import Event, Label
from pipeline.records import Chunk, Poll

_encode = msgspec.json.Encoder().encode


def polls_of(items: Iterable[Item], events_per_poll: int) -> Iterator[Poll]:
    """Yield polls of at most this many events, each with the labels that came among them.

    Offsets count events and labels from 0; record time is the row's time.
    """
    events_seen = labels_seen = 0
    for batch in _batches(items, events_per_poll):
        events = [i.row for i in batch if isinstance(i, EventItem)]
        labels = [i for i in batch if isinstance(i, LabelItem)]
        chunks = []
        if events:
            chunks.append(
                Chunk(
                    "events",
                    "events",
                    0,
                    list(range(events_seen, events_seen + len(events))),
                    [r.ts_ms for r in events],
                    [
                        _encode(
                            Event(
                                id=r.id, ts=r.ts_ms, features=r.features, task=r.task, group=r.group
                            )
                        )
                        for r in events
                    ],
                )
            )
        if labels:
            chunks.append(
                Chunk(
                    "labels",
                    "labels",
                    0,
                    list(range(labels_seen, labels_seen + len(labels))),
                    [i.ts_ms for i in labels],
                    [
                        _encode(Label(id=i.row.id, label=i.row.label, ts=i.ts_ms))
                        for i in labels
                        if i.row.label is not None
                    ],
                )
            )
        events_seen, labels_seen = events_seen + len(events), labels_seen + len(labels)
        newest = max(max(c.times_ms) for c in chunks)
        yield Poll(tuple(chunks), newest)


def _batches(items: Iterable[Item], events_per_poll: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    events = 0
    for item in items:
        if isinstance(item, EventItem):
            if events == events_per_poll:
                yield batch
                batch, events = [], 0
            events += 1
        batch.append(item)
        if len(batch) >= 64 * events_per_poll:
            yield batch
            batch, events = [], 0
    if batch:
        yield batch
