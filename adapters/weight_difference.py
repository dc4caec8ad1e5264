"""A model written as its difference to another one, exactly.

Thousands of models that come from one start differ from it by a few gradient steps: equal signs and
exponents, small moves of the mantissa. Weights of equal shape are stored as the exclusive or with
the base's bits, byte planes apart, compressed; what the base does not have is stored as it is; the
manifest is compressed against the base's. The digest of the whole model is compared after it was
put together again, so a wrong base or a damaged byte never serves.
"""

import json
import zlib

import msgspec
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.model_file import (
    Model,
    ModelFileError,
    model_artifact,
    model_digest,
    model_from_artifact,
)

_LINEAGE = "metadrift.trained_on"


class _Difference(msgspec.Struct, frozen=True, array_like=True):
    digest: str
    manifest: bytes
    names: list[str]
    moved: bytes
    others: bytes
    whole_lineage: bool
    lineage: bytes


_decoder = msgspec.msgpack.Decoder(_Difference)


def pack_difference(model: Model, base: Model) -> bytes:
    """Return ``model`` as its difference to ``base``; equal models and bases give equal bytes."""
    manifest, tensors = model_artifact(model)
    base_manifest, base_tensors = model_artifact(base)
    whole = not bool(np.isin(base.trained_on, model.trained_on).all())
    keys = model.trained_on if whole else np.setdiff1d(model.trained_on, base.trained_on)
    weights = {name: tensor for name, tensor in tensors.items() if name != _LINEAGE}
    names = sorted(name for name in weights if _alike(weights[name], base_tensors.get(name)))
    moved = b"".join(
        _planes(_bits(weights[name]) ^ _bits(base_tensors[name]), weights[name].element_size())
        for name in names
    )
    others = {n: t.detach().cpu().clone() for n, t in weights.items() if n not in names}
    squeeze = zlib.compressobj(9, zdict=_text(base_manifest))
    return msgspec.msgpack.encode(
        _Difference(
            model_digest(model),
            squeeze.compress(_text(manifest)) + squeeze.flush(),
            names,
            zlib.compress(moved, 9),
            safetensors.torch.save(others) if others else b"",
            whole,
            keys.tobytes(),
        )
    )


def unpack_difference(packed: bytes, base: Model) -> Model:
    """Return the model of ``pack_difference``.

    Args:
        packed: As it was written.
        base: The same model as then.

    Raises:
        ModelFileError: The base is another model, or a byte was changed.
    """
    fix = "it was changed or damaged, or belongs to another base"
    try:
        parts = _decoder.decode(packed)
        base_manifest, base_tensors = model_artifact(base)
        expand = zlib.decompressobj(zdict=_text(base_manifest))
        manifest = json.loads(expand.decompress(parts.manifest) + expand.flush())
        moved = np.frombuffer(zlib.decompress(parts.moved), np.uint8)
        tensors: dict[str, Tensor] = {}
        low = 0
        for name in parts.names:
            like = base_tensors[name]
            bits = _bits(like)
            change = _from_planes(moved[low : low + bits.size], like.element_size())
            low += bits.size
            raw = torch.from_numpy(bits ^ change)
            tensors[name] = raw.view(like.dtype).reshape(like.shape)
        if parts.others:
            tensors.update(safetensors.torch.load(parts.others))
        keys = np.frombuffer(parts.lineage, np.uint64)
        if not parts.whole_lineage:
            keys = np.union1d(base.trained_on, keys)
        tensors[_LINEAGE] = torch.from_numpy(keys.view(np.int64).copy())
        model = model_from_artifact(manifest, tensors)
    except (KeyError, TypeError, ValueError, zlib.error, msgspec.DecodeError) as error:
        raise ModelFileError(f"not a difference to this base ({error!r})", fix) from error
    if model_digest(model) != parts.digest:
        raise ModelFileError(
            f"the model hashes to {model_digest(model)}, the difference says {parts.digest}", fix
        )
    return model


def _alike(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and one.dtype == other.dtype


def _text(manifest: dict[str, object]) -> bytes:
    return json.dumps(manifest, sort_keys=True, allow_nan=False).encode()


def _bits(tensor: Tensor) -> NDArray[np.uint8]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    bits: NDArray[np.uint8] = flat.view(torch.uint8).numpy().copy()
    return bits


def _planes(bits: NDArray[np.uint8], size: int) -> bytes:
    """Return the first bytes of all elements, then the second ones, and so on."""
    return np.ascontiguousarray(bits.reshape(-1, size).T).tobytes()


def _from_planes(planes: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(planes.reshape(size, -1).T).reshape(-1)
