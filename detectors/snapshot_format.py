"""Packed monitor state: msgpack under a header with kind, version and sha256.

Canonical: equal states give equal bytes (map keys are sorted, floats keep their bits), and a
snapshot of what was restored equals the snapshot. No pickle is written or read.
"""

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors.detector_errors import DetectorSnapshotError

State: TypeAlias = "bool | int | float | str | bytes | list[State] | dict[str, State] | None"

_MAGIC = "metadrift-detector-1"
_encoder = msgspec.msgpack.Encoder(order="deterministic")


class _Envelope(msgspec.Struct, array_like=True, frozen=True):
    magic: str
    kind: str
    version: str
    sha256: bytes
    payload: bytes


_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)


def seal(kind: str, version: str, state: Mapping[str, object]) -> bytes:
    """Pack ``state`` (None, bool, int, float, str, bytes, list, dict) under a header."""
    payload = _encoder.encode(state)
    digest = hashlib.sha256(payload).digest()
    return _encoder.encode(_Envelope(_MAGIC, kind, version, digest, payload))


def unseal(packed: bytes, kind: str, version: str) -> bytes:
    """The payload of ``packed``, checked; decode it with a ``msgspec`` decoder of its type.

    Raises:
        DetectorSnapshotError: ``packed`` is damaged, or of another kind or version.
    """
    try:
        envelope = _envelope_decoder.decode(packed)
    except msgspec.MsgspecError as error:
        raise DetectorSnapshotError(f"not a detector snapshot: {error}") from error
    found = (envelope.magic, envelope.kind, envelope.version)
    if found != (_MAGIC, kind, version):
        raise DetectorSnapshotError(f"snapshot of {found}, expected {(_MAGIC, kind, version)}")
    if hashlib.sha256(envelope.payload).digest() != envelope.sha256:
        raise DetectorSnapshotError(f"snapshot of {kind!r}: sha256 does not match its content")
    return envelope.payload


def pack_floats(values: NDArray[np.float64]) -> bytes:
    """Little-endian float64 bytes."""
    return np.ascontiguousarray(values, dtype="<f8").tobytes()


def unpack_floats(packed: bytes, shape: tuple[int, ...] = (-1,)) -> NDArray[np.float64]:
    """Writable array from `pack_floats`.

    Raises:
        DetectorSnapshotError: the bytes do not fill ``shape``.
    """
    try:
        return np.frombuffer(packed, dtype="<f8").astype(np.float64).reshape(shape)
    except ValueError as error:
        raise DetectorSnapshotError(f"array of {len(packed)} bytes is not {shape}") from error


def pack_integers(values: NDArray[np.int64]) -> bytes:
    """Little-endian int64 bytes."""
    return np.ascontiguousarray(values, dtype="<i8").tobytes()


def unpack_integers(packed: bytes) -> NDArray[np.int64]:
    """Writable array from `pack_integers`.

    Raises:
        DetectorSnapshotError: the bytes are no whole number of int64.
    """
    try:
        return np.frombuffer(packed, dtype="<i8").astype(np.int64)
    except ValueError as error:
        raise DetectorSnapshotError(f"{len(packed)} bytes are no int64 array") from error
