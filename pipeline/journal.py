"""How what happened is written down: offset ranges and digests, never the records themselves."""

from collections.abc import Callable
from typing import TypeAlias, assert_never

import msgspec

from pipeline.records import (
    BakeOffDone,
    Input,
    ModelsFound,
    Poll,
    RegistryNews,
    RouteAdapted,
    ServingSeen,
    Tick,
)

Range = tuple[str, str, int, int, int]
"""(stream, topic, partition, first offset, last offset)."""

ReadRanges = Callable[[list[Range], int], Poll]
"""Returns the records of some ranges again, as the poll they once were."""


def write_entry(happened: Input) -> bytes:
    """Return the journal entry of one input."""
    match happened:
        case Poll():
            entry = ("poll", happened.ranges(), happened.host_ms)
        case (
            Tick() | BakeOffDone() | RouteAdapted() | RegistryNews() | ModelsFound() | ServingSeen()
        ):
            return msgspec.msgpack.encode((_NAMES[type(happened)], msgspec.to_builtins(happened)))
        case _:
            assert_never(happened)
    return msgspec.msgpack.encode(entry)


def read_entry(entry: bytes, read: ReadRanges) -> Input:
    """Return the input that an entry stands for; the records of a poll are read again.

    Raises:
        ValueError: The entry is none of ours.
    """
    name, *rest = msgspec.msgpack.decode(entry)
    if name == "poll":
        ranges, host_ms = rest
        return read([(s, t, p, a, b) for s, t, p, a, b in ranges], host_ms)
    for kind, known in _NAMES.items():
        if known == name:
            return msgspec.convert(rest[0], kind)
    raise ValueError(f"journal entry of unknown kind {name!r}")


_Plain: TypeAlias = Tick | BakeOffDone | RouteAdapted | RegistryNews | ModelsFound | ServingSeen

_NAMES: dict[type[_Plain], str] = {
    Tick: "tick",
    BakeOffDone: "bake-off",
    RouteAdapted: "route",
    RegistryNews: "registry",
    ModelsFound: "models",
    ServingSeen: "serving",
}
