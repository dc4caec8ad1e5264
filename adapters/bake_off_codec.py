"""A bake-off as bytes, for the trip to the adaptation worker and back: msgpack, never pickle.

Models and the meta-init travel in their packed form, whose digests are checked on arrival. Results
that are kept name their models by digest instead: a model lies in one place.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import msgpack
from numpy.typing import NDArray

from adapters.bake_off import BakeOff, Outcome, RecipeResult
from adapters.examples import Examples
from adapters.feature_schema import FeatureSchema, Rows
from adapters.meta_init import pack_meta_init, unpack_meta_init
from adapters.model_file import Model, pack_model, unpack_model


class BakeOffCodecError(ValueError):
    """The bytes are not what the encoder of this version writes."""


class _Examples(msgspec.Struct, array_like=True):
    shape: tuple[int, int]
    numbers: bytes
    categories: tuple[tuple[str | None, ...], ...]
    labels: tuple[str, ...]
    values: bytes
    keys: bytes


class _Request(msgspec.Struct):
    recipes: tuple[str, ...]
    support: _Examples
    query: _Examples
    holdout: _Examples
    champion: bytes | None
    earlier: dict[str, bytes]
    meta_init: bytes | None
    seed: int
    schema: dict[str, object] | None
    new_classes: tuple[str, ...]
    fine_tune_steps: int
    fine_tune_lr: float
    scratch_steps: int
    scratch_lr: float
    scratch_weight_decay: float
    prototype_steps: int
    prototype_lr: float
    evidence: _Examples


class _Result(msgspec.Struct):
    name: str
    zero_step: bool
    outcome: Outcome
    message: str
    query_losses: bytes
    holdout_losses: bytes
    curve: tuple[tuple[int, float], ...]
    seconds: float
    model: bytes | None
    evidence_losses: bytes = b""  # results of earlier releases lie on shelves without it
    digest: str = ""  # of a model that is kept elsewhere; earlier releases kept it in ``model``


def encode_request(request: BakeOff) -> bytes:
    """Return the request as bytes."""
    champion, init, schema = request.champion, request.meta_init, request.schema
    return msgpack.encode(
        _Request(
            recipes=request.recipes,
            support=_pack(request.support),
            query=_pack(request.query),
            holdout=_pack(request.holdout),
            champion=None if champion is None else pack_model(champion),
            earlier={version: pack_model(model) for version, model in request.earlier.items()},
            meta_init=None if init is None else pack_meta_init(init),
            seed=request.seed,
            schema=None if schema is None else schema.to_json(),
            new_classes=request.new_classes,
            fine_tune_steps=request.fine_tune_steps,
            fine_tune_lr=request.fine_tune_lr,
            scratch_steps=request.scratch_steps,
            scratch_lr=request.scratch_lr,
            scratch_weight_decay=request.scratch_weight_decay,
            prototype_steps=request.prototype_steps,
            prototype_lr=request.prototype_lr,
            evidence=_pack(request.evidence),
        )
    )


def decode_request(raw: bytes) -> BakeOff:
    """Return the request of ``encode_request``.

    Raises:
        BakeOffCodecError: The bytes are not a request.
        ModelFileError: A packed model is damaged.
    """
    wire = _decode(raw, _Request)
    return BakeOff(
        recipes=wire.recipes,
        support=_unpack(wire.support),
        query=_unpack(wire.query),
        holdout=_unpack(wire.holdout),
        champion=None if wire.champion is None else unpack_model(wire.champion),
        earlier={version: unpack_model(packed) for version, packed in wire.earlier.items()},
        meta_init=None if wire.meta_init is None else unpack_meta_init(wire.meta_init),
        seed=wire.seed,
        schema=None if wire.schema is None else FeatureSchema.from_json(wire.schema),
        new_classes=wire.new_classes,
        fine_tune_steps=wire.fine_tune_steps,
        fine_tune_lr=wire.fine_tune_lr,
        scratch_steps=wire.scratch_steps,
        scratch_lr=wire.scratch_lr,
        scratch_weight_decay=wire.scratch_weight_decay,
        prototype_steps=wire.prototype_steps,
        prototype_lr=wire.prototype_lr,
        evidence=_unpack(wire.evidence),
    )


def encode_results(
    results: tuple[RecipeResult, ...], keep: Callable[[Model], str] | None = None
) -> bytes:
    """Return the results as bytes.

    Args:
        results: Of a bake-off.
        keep: Stores a model elsewhere and returns its digest, which then stands in its place; None:
            the bytes hold the models themselves.
    """
    return msgpack.encode(
        [
            _Result(
                name=result.name,
                zero_step=result.zero_step,
                outcome=result.outcome,
                message=result.message,
                query_losses=_bytes_of(result.query_losses),
                holdout_losses=_bytes_of(result.holdout_losses),
                curve=result.curve,
                seconds=result.seconds,
                model=None if result.model is None or keep else pack_model(result.model),
                evidence_losses=_bytes_of(result.evidence_losses),
                digest=keep(result.model) if result.model is not None and keep else "",
            )
            for result in results
        ]
    )


def decode_results(
    raw: bytes, models: Callable[[str], Model] | None = None
) -> tuple[RecipeResult, ...]:
    """Return the results of ``encode_results``.

    Args:
        raw: As they were encoded.
        models: Returns a model by its digest; needed for results that name theirs.

    Raises:
        BakeOffCodecError: The bytes are no results, or name models that cannot be looked up here.
        ModelFileError: A model is damaged.
    """
    return tuple(
        RecipeResult(
            name=wire.name,
            zero_step=wire.zero_step,
            outcome=wire.outcome,
            message=wire.message,
            query_losses=_floats(wire.query_losses),
            holdout_losses=_floats(wire.holdout_losses),
            curve=wire.curve,
            seconds=wire.seconds,
            model=_model_of(wire, models),
            evidence_losses=_floats(wire.evidence_losses),
        )
        for wire in _decode(raw, tuple[_Result, ...])
    )


def model_digests(raw: bytes) -> list[str]:
    """Return the digests that results name their models by; raises as ``decode_results``."""
    return [wire.digest for wire in _decode(raw, tuple[_Result, ...]) if wire.digest]


def _model_of(wire: _Result, models: Callable[[str], Model] | None) -> Model | None:
    if wire.digest:
        if models is None:
            raise BakeOffCodecError(
                f"recipe {wire.name} names its model by the digest {wire.digest}: pass models, "
                "which looks it up on the shelf"
            )
        return models(wire.digest)
    return None if wire.model is None else unpack_model(wire.model)


_T = TypeVar("_T")


def _decode(raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgpack.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BakeOffCodecError(
            f"not a bake-off of this version ({error}); both sides must run one version"
        ) from error


def _pack(examples: Examples) -> _Examples:
    n, width = examples.rows.numbers.shape
    return _Examples(
        (n, width),
        _bytes_of(examples.rows.numbers),
        examples.rows.categories,
        examples.labels,
        _bytes_of(examples.values),
        np.ascontiguousarray(examples.keys).tobytes(),
    )


def _unpack(wire: _Examples) -> Examples:
    try:
        return Examples(
            Rows(_floats(wire.numbers).reshape(wire.shape), wire.categories),
            wire.labels,
            _floats(wire.values),
            np.frombuffer(wire.keys, dtype=np.uint64).copy(),
        )
    except ValueError as error:
        raise BakeOffCodecError(f"examples do not fit together ({error})") from error


def _bytes_of(values: NDArray[np.float64]) -> bytes:
    return np.ascontiguousarray(values, dtype=np.float64).tobytes()


def _floats(raw: bytes) -> NDArray[np.float64]:
    return np.frombuffer(raw, dtype=np.float64).copy()
