"""A model version: module, schema, preprocessor and lineage in one value and one folder.

The folder holds ``manifest.json`` and ``weights.safetensors`` (parameters and buffers). Its digest
is the sha256 of the manifest's bytes, and the manifest holds the sha256 of the weights, so one
digest pins everything. Both are compared before a byte is parsed or a module is built, and nothing
is ever unpickled.

Needs numpy, torch and safetensors only, so that it also runs in a model server's environment.
"""

import hashlib
import importlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, cast, get_args

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapters.feature_schema import FeatureSchema, Preprocessor, Rows

TaskType: TypeAlias = Literal["classification", "regression"]
Floats: TypeAlias = NDArray[np.float32]
Entry = TypeVar("Entry")

BLOCK = 64
"""Rows per forward pass; fixed, because a matrix product's last bits depend on its batch size."""
MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_MAGIC = b"metadrift-pack-1"
_LINEAGE = "metadrift.trained_on"
_LONGEST_MANIFEST = 64 * 2**20


class ModelFileError(Exception):
    """A model cannot be written, read or run as it is.

    Attributes:
        what: What is wrong.
        fix: What to do about it.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what, self.fix = what, fix

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Architecture:
    """Where a module's class is, and what to call it with.

    Attributes:
        path: ``package.module:Class``; the class is an ``nn.Module``.
        kwargs: Keyword arguments, JSON values.
    """

    path: str
    kwargs: Mapping[str, object]

    def module_class(self) -> type[nn.Module]:
        """Return the class.

        Raises:
            ModelFileError: The path is malformed, or names no ``nn.Module``.
        """
        if not _PATH.fullmatch(self.path):
            raise ModelFileError(
                f"architecture path is {self.path!r}", "write it as 'package.module:Class'"
            )
        module_name, _, class_name = self.path.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise ModelFileError(
                f"architecture {self.path!r} cannot be imported ({error})",
                "put its module on the Python path, or correct the path",
            ) from error
        if not isinstance(found, type) or not issubclass(found, nn.Module):
            raise ModelFileError(
                f"architecture {self.path!r} is no class of torch.nn.Module",
                "name a subclass of torch.nn.Module",
            )
        return found

    def build(self) -> nn.Module:
        """Return a new module; the caller's random state is left as it was.

        Raises:
            ModelFileError: The path is malformed, names no ``nn.Module``, or refuses the kwargs.
        """
        found = self.module_class()
        try:
            with torch.random.fork_rng(devices=[]):
                return found(**self.kwargs)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"architecture {self.path!r} refuses kwargs {dict(self.kwargs)} ({error})",
                "correct the kwargs to what its __init__ takes",
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says about ``n`` rows.

    Attributes:
        outputs: ``(n, C)`` logits; ``(n, 1)`` standardised values for regression.
        proba: ``(n, C)`` class probabilities; None for regression.
        embedding: ``(n, e)`` penultimate layer, or the encoded inputs where there is none.
        inputs: ``(n, d)`` encoded inputs.
        labels: ``n`` class names; empty for regression.
        values: ``(n,)`` predicted values in target units; empty for classification.
    """

    outputs: Floats
    proba: Floats | None
    embedding: Floats
    inputs: Floats
    labels: list[str]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.outputs)

    def part(self, low: int, high: int) -> "Prediction":
        """Return what is said about rows ``low`` to ``high`` (exclusive)."""
        return Prediction(
            self.outputs[low:high],
            None if self.proba is None else self.proba[low:high],
            self.embedding[low:high],
            self.inputs[low:high],
            self.labels[low:high],
            self.values[low:high],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One model version. It owns its module, puts it in eval mode and never trains it.

    A module may have ``embed(x) -> (n, e)`` and ``head(embedding) -> (n, C)``; then the embedding
    is the penultimate layer. Otherwise it is called as a whole.

    Attributes:
        module: ``(n, d) -> (n, C)`` float32; rows must not influence each other in eval mode.
        architecture: How to build the module again.
        schema: Raw features.
        preprocessor: Raw features -> ``(n, d)``.
        task_type: ``classification`` or ``regression``.
        class_names: Class of each output, append-only order; empty for regression.
        loss_scale: Error that costs a full loss: 4 x training MAE; 1.0 for classification.
        target_mean: Regression: target units of output 0.0.
        target_std: Regression: target units of one output unit, > 0.
        trained_on: Sorted unique ``lineage_key`` of every training row or group, uint64.
        info: Further lineage facts, JSON values.
    """

    module: nn.Module
    architecture: Architecture
    schema: FeatureSchema
    preprocessor: Preprocessor
    task_type: TaskType
    class_names: tuple[str, ...] = ()
    loss_scale: float = 1.0
    target_mean: float = 0.0
    target_std: float = 1.0
    trained_on: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    info: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = _what_is_wrong(self)
        if wrong:
            raise ModelFileError(*wrong)
        self.module.eval()

    @property
    def n_outputs(self) -> int:
        """Width C of ``Prediction.outputs``."""
        return len(self.class_names) if self.task_type == "classification" else 1

    def predict(self, rows: Rows) -> Prediction:
        """Return predictions for ``rows``; any ``n``, 0 too.

        Rows go through the module in zero-padded blocks of 64 on one thread, so that a row's
        result is the same, bit for bit, whatever stands beside it.

        Raises:
            ModelFileError: The module's outputs are not ``(n, n_outputs)``.
        """
        n = len(rows)
        inputs = self.preprocessor.encode(rows)
        padded = np.zeros((max(-(-n // BLOCK), 1) * BLOCK, inputs.shape[1]), dtype=np.float32)
        padded[:n] = inputs
        outputs, embedding = self._forward(torch.from_numpy(padded))
        hidden = inputs if embedding is None else embedding[:n]
        if self.task_type == "regression":
            values = outputs[:n, 0].astype(np.float64) * self.target_std + self.target_mean
            return Prediction(outputs[:n], None, hidden, inputs, [], values)
        proba = _softmax(outputs)[:n]  # padded too: a vector loop's tail may round differently
        names = np.array(self.class_names, dtype=np.object_)
        labels = names[outputs[:n].argmax(axis=1)].tolist()
        return Prediction(outputs[:n], proba, hidden, inputs, labels, np.empty(0))

    def _forward(self, padded: Tensor) -> tuple[Floats, Floats | None]:
        """Return outputs and embedding (None where the module has none) of whole blocks."""
        module, shape = self.module, (BLOCK, self.n_outputs)
        if any(part.training for part in module.modules()):
            module.eval()
        embed, head = getattr(module, "embed", None), getattr(module, "head", None)
        outputs: list[Tensor] = []
        embedding: list[Tensor] = []
        with torch.inference_mode(), _one_thread():
            for block in padded.view(-1, BLOCK, padded.shape[1]).unbind(0):
                if callable(embed) and callable(head):
                    hidden = embed(block)
                    out = head(hidden)
                    embedding.append(hidden if hidden.dim() == 2 else hidden.flatten(1))
                else:
                    out = module(block)
                if out.shape != shape:
                    raise ModelFileError(
                        f"the module answers {tuple(out.shape)} to {BLOCK} rows",
                        f"it must answer {shape}",
                    )
                outputs.append(out)
            hiddens = torch.cat(embedding).numpy() if embedding else None
            return torch.cat(outputs).numpy(), hiddens

    def losses(
        self, prediction: Prediction, labels: Sequence[str] | NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return ``(n,)`` losses in [0, 1]: 0/1, or |error| / loss_scale clipped at 1.

        A label outside ``class_names`` and a prediction that is not finite cost 1.
        """
        if len(labels) != len(prediction):
            raise ValueError(f"{len(labels)} labels for {len(prediction)} predictions")
        if self.task_type == "classification":
            pairs = zip(prediction.labels, labels, strict=True)
            return np.array([said != label for said, label in pairs], dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.abs(prediction.values - np.asarray(labels, dtype=np.float64))
            loss = np.minimum(error / self.loss_scale, 1.0)
        return np.where(np.isnan(loss), 1.0, loss)


def _what_is_wrong(model: Model) -> tuple[str, str] | None:
    """Return (what, fix) of the first thing that is wrong with a model's fields."""
    names, keys, classes = model.class_names, model.trained_on, model.task_type == "classification"
    named = bool(names) and len(set(names)) == len(names) if classes else not names
    rules = (
        (
            model.task_type in get_args(TaskType),
            (f"task_type is {model.task_type!r}", f"use one of {get_args(TaskType)}"),
        ),
        (
            named,
            (f"class_names is {names}", "classification needs unique names, regression none"),
        ),
        (
            math.isfinite(model.loss_scale) and model.loss_scale > 0,
            (f"loss_scale is {model.loss_scale}", "it must be finite and > 0"),
        ),
        (
            math.isfinite(model.target_std) and model.target_std > 0,
            (f"target_std is {model.target_std}", "it must be finite and > 0"),
        ),
        (
            math.isfinite(model.target_mean),
            (f"target_mean is {model.target_mean}", "it must be finite"),
        ),
        (
            model.preprocessor.schema == model.schema,
            ("the preprocessor was fitted for another schema", "fit it on the model's own"),
        ),
        (
            keys.dtype == np.uint64 and keys.ndim == 1 and bool((keys[1:] > keys[:-1]).all()),
            ("trained_on is not sorted, unique uint64", "pass np.unique(keys)"),
        ),
        (
            not any(
                isinstance(part, _BatchNorm) and part.running_mean is None
                for part in model.module.modules()
            ),
            (
                "a batch norm keeps no running statistics: a row's answer would depend on others",
                "build it with track_running_stats=True",
            ),
        ),
    )
    return next((wrong for right, wrong in rules if not right), None)


def _softmax(logits: Floats) -> Floats:
    """Return ``(n, C)`` probabilities; NaN where the logits are not finite."""
    columns = logits.T.copy()  # reducing along short rows is five times slower
    with np.errstate(invalid="ignore"):
        columns -= columns.max(axis=0)
        np.exp(columns, out=columns)
        columns /= columns.sum(axis=0)
    return np.ascontiguousarray(columns.T)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def lineage_key(text: str) -> int:
    """Return the 64-bit BLAKE2b key of a row's id or group.

    >>> lineage_key("event-1") == lineage_key("event-1") < 2**64
    True
    """
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")


# --- artifacts: a manifest and named tensors, pinned by one digest


def encode_artifact(
    manifest: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> tuple[bytes, bytes]:
    """Return the bytes of (manifest, weights); equal values give equal bytes."""
    # A copy laid out row by row: weights that were trained channels last are not, and are refused.
    laid_out = torch.contiguous_format
    copies = {n: t.detach().cpu().clone(memory_format=laid_out) for n, t in tensors.items()}
    weights = safetensors.torch.save(copies)
    whole = {**manifest, "weights": {"sha256": _sha256(weights), "bytes": len(weights)}}
    try:
        text = json.dumps(whole, sort_keys=True, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFileError(
            f"the manifest holds a value that is not JSON ({error})",
            "keep kwargs and info to strings, finite numbers, bools, lists and objects",
        ) from error
    return text.encode(), weights


def decode_artifact(
    manifest: bytes, weights: bytes, digest: str | None
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Return the values of ``encode_artifact`` once every digest is right.

    Args:
        manifest: Bytes of the manifest.
        weights: Bytes of the weights.
        digest: What the manifest must hash to; None trusts the manifest as it is.

    Raises:
        ModelFileError: A digest differs, or the bytes are not what ``encode_artifact`` writes.
    """
    if digest is not None and digest != f"sha256:{_sha256(manifest)}":
        raise ModelFileError(
            f"the manifest hashes to sha256:{_sha256(manifest)}, expected {digest}",
            "it was changed or damaged: fetch the artifact again",
        )
    try:
        whole = json.loads(manifest)
        sha256 = whole["weights"]["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError(f"not a manifest ({error!r})", "fetch the artifact again") from error
    if sha256 != _sha256(weights):
        raise ModelFileError(
            f"the weights hash to {_sha256(weights)}, the manifest says {sha256}",
            "they were changed or damaged: fetch the artifact again",
        )
    try:
        return cast("dict[str, object]", whole), safetensors.torch.load(weights)
    except SafetensorError as error:
        raise ModelFileError(f"not safetensors ({error})", "write the artifact again") from error


def manifest_entry(manifest: Mapping[str, object], name: str, kind: type[Entry]) -> Entry:
    """Return ``manifest[name]``; raises ModelFileError unless it is of ``kind``."""
    value = manifest.get(name)
    if not isinstance(value, kind):
        raise ModelFileError(
            f"not our manifest: {name!r} is {str(value)[:40]!r}, no {kind.__name__}",
            "write the artifact again",
        )
    return value


def write_artifact(
    folder: Path, manifest: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> str:
    """Write both files into ``folder`` (made if missing); return the digest ``sha256:<hex>``."""
    text, weights = encode_artifact(manifest, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((WEIGHTS, weights), (MANIFEST, text)):  # the manifest seals it
        partial = folder / f".{name}.partial"
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / name)
    return f"sha256:{_sha256(text)}"


def read_artifact(folder: Path, digest: str | None) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Return what ``write_artifact`` wrote; raises ModelFileError as ``decode_artifact`` does."""
    try:
        if (folder / MANIFEST).stat().st_size > _LONGEST_MANIFEST:
            raise ModelFileError(f"{folder / MANIFEST} is over 64 MiB", "it is no manifest of ours")
        text, weights = (folder / MANIFEST).read_bytes(), (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"cannot read the artifact in {folder} ({error})",
            f"the folder must hold {MANIFEST} and {WEIGHTS}",
        ) from error
    return decode_artifact(text, weights, digest)


def pack_artifact(manifest: Mapping[str, object], tensors: Mapping[str, Tensor]) -> bytes:
    """Return both files as one byte string: magic, sha256 and length of the manifest, the two."""
    text, weights = encode_artifact(manifest, tensors)
    head = _MAGIC + hashlib.sha256(text).digest() + len(text).to_bytes(8, "big")
    return b"".join((head, text, weights))


def unpack_artifact(packed: bytes) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Return what ``pack_artifact`` was given; a changed byte raises ModelFileError."""
    at = len(_MAGIC) + 40
    if len(packed) < at or not packed.startswith(_MAGIC):
        raise ModelFileError("not a packed artifact of this format", "pack it again")
    digest = packed[len(_MAGIC) : at - 8].hex()
    end = at + int.from_bytes(packed[at - 8 : at], "big")
    return decode_artifact(packed[at:end], packed[end:], f"sha256:{digest}")


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


# --- a model as an artifact


def model_artifact(model: Model) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Return the manifest and the tensors of a model."""
    state = model.module.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd or _LINEAGE in state:
        raise ModelFileError(
            f"the module's state holds {odd or [_LINEAGE]}",
            "keep it to plain parameters and buffers",
        )
    manifest: dict[str, object] = {
        "format": 1,
        "kind": "model",
        "architecture": {
            "path": model.architecture.path,
            "kwargs": dict(model.architecture.kwargs),
        },
        "schema": model.schema.to_json(),
        "preprocessor": model.preprocessor.to_json(),
        "task_type": model.task_type,
        "class_names": list(model.class_names),
        "loss_scale": float(model.loss_scale),
        "target_mean": float(model.target_mean),
        "target_std": float(model.target_std),
        "trained_on": len(model.trained_on),
        "info": dict(model.info),
    }
    keys = torch.from_numpy(model.trained_on.view(np.int64).copy())
    return manifest, {**state, _LINEAGE: keys}


def model_from_artifact(manifest: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Model:
    """Return the model of a verified manifest and its tensors; builds and tries the module.

    Raises:
        ModelFileError: The manifest is of another kind or format, the tensors do not fit the
            module, or its outputs do not fit the task.
    """
    if manifest.get("kind") != "model" or manifest.get("format") != 1:
        raise ModelFileError(
            f"artifact is kind {manifest.get('kind')!r}, format {manifest.get('format')!r}",
            "load kind 'model' of format 1, or use the version of metadrift that wrote it",
        )
    state = dict(tensors)
    described = manifest_entry(manifest, "architecture", dict)
    architecture = Architecture(
        manifest_entry(described, "path", str), manifest_entry(described, "kwargs", dict)
    )
    try:
        schema = FeatureSchema.from_json(manifest_entry(manifest, "schema", dict))
        parts = manifest_entry(manifest, "preprocessor", dict)
        preprocessor = Preprocessor.from_json(schema, parts)
        keys = state.pop(_LINEAGE).numpy().view(np.uint64)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"not our manifest ({error})", "write it again") from error
    model = Model(
        module=load_state(architecture.build(), state, architecture.path),
        architecture=architecture,
        schema=schema,
        preprocessor=preprocessor,
        task_type=cast(TaskType, manifest_entry(manifest, "task_type", str)),
        class_names=tuple(map(str, manifest_entry(manifest, "class_names", list))),
        loss_scale=manifest_entry(manifest, "loss_scale", float),
        target_mean=manifest_entry(manifest, "target_mean", float),
        target_std=manifest_entry(manifest, "target_std", float),
        trained_on=keys,
        info=manifest_entry(manifest, "info", dict),
    )
    model.predict(Rows(np.empty((0, schema.width))))
    return model


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: str) -> nn.Module:
    """Copy ``state`` into ``module`` and return it; names, shapes and types must be equal."""
    wanted = module.state_dict()
    names = sorted(wanted.keys() ^ state.keys())
    names += [
        name
        for name in wanted.keys() & state.keys()
        if wanted[name].shape != state[name].shape or wanted[name].dtype != state[name].dtype
    ]
    if names:
        raise ModelFileError(
            f"the weights do not fit {path!r}: {names[:8]}",
            "the class or its kwargs changed since they were written: restore them",
        )
    module.load_state_dict(dict(state))
    return module


def pack_model(model: Model) -> bytes:
    """Return the model as one byte string; equal models give equal bytes."""
    return pack_artifact(*model_artifact(model))


def unpack_model(packed: bytes) -> Model:
    """Return the model of ``pack_model``; a changed byte raises ModelFileError."""
    return model_from_artifact(*unpack_artifact(packed))


def save_model(folder: Path, model: Model) -> str:
    """Write the model into ``folder``; return its digest ``sha256:<hex>``."""
    return write_artifact(folder, *model_artifact(model))


def load_model(folder: Path, digest: str | None) -> Model:
    """Return the model in ``folder``; raises ModelFileError unless it hashes to ``digest``."""
    return model_from_artifact(*read_artifact(folder, digest))


def model_digest(model: Model) -> str:
    """Return the digest that ``save_model`` would return."""
    manifest, _ = encode_artifact(*model_artifact(model))
    return f"sha256:{_sha256(manifest)}"
