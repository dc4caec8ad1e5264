"""What the label-free monitor remembers: bounded arrays, and their canonical bytes."""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.detector_errors import DetectorSnapshotError
from detectors.kind_watch import KindWatch
from detectors.signals import SignalKind
from detectors.snapshot_format import (
    pack_floats,
    pack_integers,
    seal,
    unpack_floats,
    unpack_integers,
    unseal,
)
from detectors.tail_evidence import TailEvidence
from detectors.window_variance import WINDOWS, WindowVariance

BLOCK = 64
GUARD = 64
CAP = 1000
KEPT = 256
_LONGEST = WINDOWS[-1]
_KIND = "label_free_monitor"
_VERSION = "1"

Matrix = NDArray[np.float64]


class Memory:
    """Raw rows for the reference, and scores and positions of the latest events.

    Both are contiguous arrays with one block of room at the end; `close_block` moves them on.

    Attributes:
        events: Events since calibration.
        since: Events in the open block, 0 to 63 (64 just before it is closed).
    """

    def __init__(self, calibration: NDArray[np.float32]) -> None:
        width = calibration.shape[1]
        kept = calibration[-CAP:]
        self.events = 0
        self.since = 0
        self._filled = len(kept)
        self._rows = np.zeros((CAP + GUARD + BLOCK, width), dtype=np.float32)
        self._rows[: self._filled] = kept
        self._z = np.zeros((KEPT + BLOCK, width))
        self._positions = np.full(KEPT + BLOCK, -1, dtype=np.int64)
        # Running sums from 64 events before the open block; row 64 + since is the latest.
        self.sums = np.zeros((_LONGEST + 1 + BLOCK, width))

    def append(self, rows: NDArray[np.float32], z: Matrix, first_position: int) -> None:
        """Take events; the running sums were written by the caller. They must fit the block."""
        n = len(rows)
        start = KEPT + self.since
        self._rows[self._filled : self._filled + n] = rows
        self._z[start : start + n] = z
        self._positions[start : start + n] = np.arange(first_position, first_position + n)
        self._filled += n
        self.since += n
        self.events += n

    def close_block(self) -> None:
        """Make room for the next block."""
        surplus = self._filled - (CAP + GUARD)
        if surplus > 0:
            self._rows[: CAP + GUARD] = self._rows[surplus : self._filled].copy()
            self._filled = CAP + GUARD
        self._z[:KEPT] = self._z[BLOCK:].copy()
        self._positions[:KEPT] = self._positions[BLOCK:].copy()
        self.since = 0
        self._sum_up()

    def _sum_up(self) -> None:
        recent = self._z[KEPT - _LONGEST : KEPT + self.since]
        np.add.accumulate(recent, axis=0, out=self.sums[1 : 1 + len(recent)])

    def reference(self) -> NDArray[np.float32]:
        """The newest 1,000 rows that were older than the guard when the open block began."""
        stop = self._filled - self.since
        if self.events >= BLOCK:
            stop -= GUARD
        return self._rows[max(0, stop - CAP) : stop]

    def scores(self) -> Matrix:
        """Scores of the latest events, at most 320, oldest first."""
        end = KEPT + self.since
        return self._z[end - min(self.events, end) : end]

    def positions(self) -> NDArray[np.int64]:
        """Their positions."""
        end = KEPT + self.since
        return self._positions[end - min(self.events, end) : end]

    def left_guard(self) -> Matrix | None:
        """Scores up to the end of the block that has just become older than the guard.

        Asked right after `close_block`; the last 64 rows are that block. None before there is one.
        """
        if self.events < GUARD + BLOCK:
            return None
        return self.scores()[: -(GUARD + self.since)]

    def to_state(self) -> dict[str, object]:
        """Plain data; the running sums follow from the scores."""
        return {
            "events": self.events,
            "since": self.since,
            "rows": np.ascontiguousarray(self._rows[: self._filled], dtype="<f4").tobytes(),
            "z": pack_floats(self._z[: KEPT + self.since]),
            "positions": pack_integers(self._positions[: KEPT + self.since]),
        }

    @classmethod
    def from_state(cls, state: "MemoryState", width: int) -> "Memory":
        """Inverse of `to_state`."""
        rows = np.frombuffer(state.rows, dtype="<f4").astype(np.float32).reshape(-1, width)
        made = cls(rows[:0])
        made.events, made.since, made._filled = state.events, state.since, len(rows)
        made._rows[: len(rows)] = rows
        made._z[: KEPT + state.since] = unpack_floats(state.z, (-1, width))
        made._positions[: KEPT + state.since] = unpack_integers(state.positions)
        made._sum_up()
        return made


class MemoryState(msgspec.Struct, frozen=True):
    """`Memory` as plain data."""

    events: int
    since: int
    rows: bytes
    z: bytes
    positions: bytes


class _State(msgspec.Struct, frozen=True):
    columns: list[tuple[str, str, bool]]
    settings: dict[str, float]
    memory: MemoryState
    squares: bytes
    counts: bytes
    rho: bytes
    tail_start: bytes
    tail_product: bytes
    tail_total: bytes
    tail_power: bytes
    watches: dict[str, tuple[bool, int]]


_decoder = msgspec.msgpack.Decoder(_State)


@dataclass(frozen=True, slots=True)
class Parts:
    """All of a calibrated monitor that must outlive the process."""

    columns: tuple[tuple[str, SignalKind, bool], ...]
    settings: dict[str, float]
    memory: Memory
    variance: WindowVariance
    tail: TailEvidence
    watches: dict[SignalKind, KindWatch]


def pack(parts: Parts) -> bytes:
    """Canonical bytes."""
    state = {
        "columns": [[name, kind.value, tail] for name, kind, tail in parts.columns],
        "settings": parts.settings,
        "memory": parts.memory.to_state(),
        "squares": pack_floats(parts.variance.squares),
        "counts": pack_floats(parts.variance.counts),
        "rho": pack_floats(parts.variance.rho),
        "tail_start": pack_floats(parts.tail.start),
        "tail_product": pack_floats(parts.tail.product),
        "tail_total": pack_floats(parts.tail.total),
        "tail_power": pack_floats(parts.tail.power),
        "watches": {kind.value: [w.silent, w.quiet] for kind, w in parts.watches.items()},
    }
    return seal(_KIND, _VERSION, state)


def unpack(packed: bytes) -> Parts:
    """Inverse of `pack`.

    Raises:
        DetectorSnapshotError: the bytes are damaged or of another version.
    """
    try:
        state = _decoder.decode(unseal(packed, _KIND, _VERSION))
        width = len(state.columns)
        return Parts(
            columns=tuple((name, SignalKind(kind), tail) for name, kind, tail in state.columns),
            settings=state.settings,
            memory=Memory.from_state(state.memory, width),
            variance=WindowVariance(
                unpack_floats(state.squares, (len(WINDOWS), width)),
                unpack_floats(state.counts),
                unpack_floats(state.rho),
            ),
            tail=TailEvidence(
                unpack_floats(state.tail_start),
                unpack_floats(state.tail_product),
                unpack_floats(state.tail_total),
                unpack_floats(state.tail_power),
            ),
            watches={SignalKind(k): KindWatch(*watch) for k, watch in state.watches.items()},
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise DetectorSnapshotError(f"snapshot of {_KIND}: {error}") from error
