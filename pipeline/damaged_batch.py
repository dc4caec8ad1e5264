"""Finds where a batch that the client cannot unpack ends, so that reading can go on behind it.

A batch whose checksum is wrong (a damaged disk) or that cannot be decompressed is raised by every
poll from any offset within it, and a consumer that has raised once never gets over it. So each
look here is a new consumer's, and as few as doubling and halving need.
"""

import time
from collections.abc import Callable
from typing import Any

from kafka.errors import CorruptRecordError, KafkaError, UnsupportedCodecError

LOOK_S = 10.0


def is_damage(error: Exception) -> bool:
    """Whether a poll's exception may be about the records themselves, not the connection."""
    if isinstance(error, KafkaError):
        return isinstance(error, CorruptRecordError | UnsupportedCodecError)
    return not isinstance(error, OSError)


def damaged_range(
    open_consumer: Callable[[], Any], partition: Any, first: int, end: int
) -> tuple[int, str] | None:
    """Return the last offset of the batch at ``first`` that cannot be unpacked, and why.

    Args:
        open_consumer: Returns a consumer without assignment.
        partition: Topic and partition.
        first: Offset that cannot be read.
        end: The partition's end.

    Returns:
        None when the record at ``first`` can be read.
    """

    def trouble(offset: int) -> str | None:
        return _trouble(open_consumer, partition, offset)

    why = trouble(first)
    if why is None:
        return None
    bad, step = first, 1
    while bad + step < end and trouble(bad + step) == why:
        bad, step = bad + step, 2 * step
    good = min(bad + step, end)
    while good - bad > 1:
        middle = (bad + good) // 2
        if trouble(middle) == why:
            bad = middle
        else:
            good = middle
    return bad, why


def _trouble(open_consumer: Callable[[], Any], partition: Any, offset: int) -> str | None:
    """Return what a poll from ``offset`` raises, or None when it returns a record or none comes."""
    consumer = open_consumer()
    try:
        consumer.assign([partition])
        consumer.seek(partition, offset)
        deadline = time.monotonic() + LOOK_S
        while time.monotonic() < deadline:
            if consumer.poll(timeout_ms=200, max_records=1):
                return None
            if consumer.position(partition, timeout_ms=1000) > offset:
                return None  # nothing but markers and aborted records here
        return None
    except Exception as error:
        if not is_damage(error):
            raise
        return f"{type(error).__name__}: {error}"
    finally:
        consumer.close(autocommit=False, timeout_ms=2000)
