"""A meta-init: starts from which a few gradient steps on a few labels reach an unseen task.

Stored like a model: ``manifest.json`` and ``weights.safetensors``, pinned by one digest, never
unpickled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.feature_schema import FeatureSchema, Preprocessor
from adapters.inner_loop import weights_of
from adapters.model_file import (
    Architecture,
    ModelFileError,
    TaskType,
    pack_artifact,
    read_artifact,
    unpack_artifact,
    write_artifact,
)

Algorithm: TypeAlias = Literal["maml", "reptile", "fomaml", "anil", "meta-sgd", "joint"]
ALGORITHMS: tuple[Algorithm, ...] = ("maml", "reptile", "fomaml", "anil", "meta-sgd", "joint")
"""What can train a start: one file each, by the name of its class."""

_LINEAGE = "trained_on"


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where to start, how far each step goes, and how many steps to take.

    Attributes:
        algorithm: What trained it.
        weights: Parameters by name.
        step_sizes: Step size of every parameter, of its shape or ``()``; the same names.
        steps: Gradient steps that meta-validation chose, >= 1.
    """

    algorithm: Algorithm
    weights: Mapping[str, Tensor]
    step_sizes: Mapping[str, Tensor]
    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class MetaInit:
    """The result of meta-training.

    Attributes:
        architecture: Module of every start.
        schema: Raw features.
        preprocessor: Fitted on the meta-training tasks; support is encoded with it as well.
        task_type: ``classification`` or ``regression``.
        class_names: Class of each output; empty for regression and for N-way ``slots``.
        target_mean: Regression: target units of output 0.0.
        target_std: Regression: target units of one output unit, > 0.
        starts: By algorithm.
        joint: Weights (with batch norm: buffers too) trained on all tasks at once, the honest
            rival; empty for ``slots``.
        recommended: Algorithm that did best on the meta-validation tasks.
        validation: What meta-validation measured, JSON values.
        trained_on: Sorted unique lineage keys of every row used, uint64.
        slots: Number of interchangeable output slots of N-way episodes, which take any class
            names; 0 where outputs have fixed names.
        info: Further lineage facts, JSON values.
    """

    architecture: Architecture
    schema: FeatureSchema
    preprocessor: Preprocessor
    task_type: TaskType
    class_names: tuple[str, ...]
    target_mean: float
    target_std: float
    starts: Mapping[str, Start]
    joint: Mapping[str, Tensor]
    recommended: str
    validation: Mapping[str, object]
    trained_on: NDArray[np.uint64]
    slots: int = 0
    info: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = _what_is_wrong(self)
        if wrong:
            raise ModelFileError(wrong, "run meta-train again")

    @property
    def n_outputs(self) -> int:
        """Width C of the module's outputs."""
        if self.task_type == "regression":
            return 1
        return self.slots or len(self.class_names)


def _what_is_wrong(init: MetaInit) -> str | None:
    """Return the first thing that is wrong with a meta-init's fields."""
    named = bool(init.class_names) != bool(init.slots)
    rules = [
        (
            init.recommended in init.starts,
            f"recommended is {init.recommended!r}, the starts are {sorted(init.starts)}",
        ),
        (
            init.preprocessor.schema == init.schema,
            "the preprocessor was fitted for another schema",
        ),
        (
            math.isfinite(init.target_std) and init.target_std > 0,
            f"target_std is {init.target_std}, it must be finite and > 0",
        ),
        (
            named if init.task_type == "classification" else not init.class_names,
            f"class_names {init.class_names} and slots {init.slots} do not fit {init.task_type}",
        ),
    ]
    module = init.architecture.build()
    shapes = {name: value.shape for name, value in weights_of(module).items()}
    for name, start in init.starts.items():
        fits = {n: w.shape for n, w in start.weights.items()} == shapes
        rules += [
            (
                start.algorithm == name and start.steps >= 1,
                f"start {name!r} is of {start.algorithm!r} with {start.steps} steps",
            ),
            (
                fits and start.step_sizes.keys() == shapes.keys(),
                f"start {name!r} does not fit {init.architecture.path}",
            ),
        ]
    joint = {name: weight.shape for name, weight in init.joint.items()}
    whole = {name: value.shape for name, value in module.state_dict().items()}
    fits = not joint or (shapes.items() <= joint.items() and joint.items() <= whole.items())
    rules.append((fits, f"joint weights do not fit {init.architecture.path}"))
    return next((wrong for right, wrong in rules if not right), None)


def _artifact(init: MetaInit) -> tuple[dict[str, object], dict[str, Tensor]]:
    tensors = {f"joint/{name}": value for name, value in init.joint.items()}
    for algorithm, start in init.starts.items():
        tensors |= {f"{algorithm}/weights/{n}": v for n, v in start.weights.items()}
        tensors |= {f"{algorithm}/step_sizes/{n}": v for n, v in start.step_sizes.items()}
    tensors[_LINEAGE] = torch.from_numpy(init.trained_on.view(np.int64).copy())
    manifest: dict[str, object] = {
        "format": 1,
        "kind": "meta-init",
        "architecture": {
            "path": init.architecture.path,
            "kwargs": dict(init.architecture.kwargs),
        },
        "schema": init.schema.to_json(),
        "preprocessor": init.preprocessor.to_json(),
        "task_type": init.task_type,
        "class_names": list(init.class_names),
        "target_mean": init.target_mean,
        "target_std": init.target_std,
        "steps": {algorithm: start.steps for algorithm, start in init.starts.items()},
        "recommended": init.recommended,
        "validation": dict(init.validation),
        "slots": init.slots,
        "info": dict(init.info),
    }
    return manifest, tensors


def _from_artifact(manifest: Mapping[str, object], tensors: Mapping[str, Tensor]) -> MetaInit:
    if manifest.get("kind") != "meta-init" or manifest.get("format") != 1:
        raise ModelFileError(
            f"artifact is kind {manifest.get('kind')!r}, format {manifest.get('format')!r}",
            "load kind 'meta-init' of format 1, or use the version of metadrift that wrote it",
        )

    def under(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}

    try:
        described = cast("dict[str, object]", manifest["architecture"])
        schema = FeatureSchema.from_json(cast("dict[str, object]", manifest["schema"]))
        steps = cast("dict[Algorithm, int]", manifest["steps"])
        return MetaInit(
            architecture=Architecture(
                cast(str, described["path"]), cast("dict[str, object]", described["kwargs"])
            ),
            schema=schema,
            preprocessor=Preprocessor.from_json(
                schema, cast("dict[str, object]", manifest["preprocessor"])
            ),
            task_type=cast(TaskType, manifest["task_type"]),
            class_names=tuple(cast("list[str]", manifest["class_names"])),
            target_mean=cast(float, manifest["target_mean"]),
            target_std=cast(float, manifest["target_std"]),
            starts={
                a: Start(a, under(f"{a}/weights/"), under(f"{a}/step_sizes/"), count)
                for a, count in steps.items()
            },
            joint={n: v for n, v in under("joint/").items() if "/" not in n},  # no start's
            recommended=cast(str, manifest["recommended"]),
            validation=cast("dict[str, object]", manifest["validation"]),
            trained_on=tensors[_LINEAGE].numpy().view(np.uint64),
            slots=cast(int, manifest["slots"]),
            info=cast("dict[str, object]", manifest["info"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"not a meta-init's manifest ({error!r})", "write it again") from error


def pack_meta_init(init: MetaInit) -> bytes:
    """Return the meta-init as one byte string; equal values give equal bytes."""
    return pack_artifact(*_artifact(init))


def unpack_meta_init(packed: bytes) -> MetaInit:
    """Return the meta-init of ``pack_meta_init``; a changed byte raises ModelFileError."""
    return _from_artifact(*unpack_artifact(packed))


def save_meta_init(folder: Path, init: MetaInit) -> str:
    """Write the meta-init into ``folder``; return its digest ``sha256:<hex>``."""
    return write_artifact(folder, *_artifact(init))


def load_meta_init(folder: Path, digest: str | None) -> MetaInit:
    """Return the meta-init in ``folder``; raises ModelFileError unless it hashes to ``digest``."""
    return _from_artifact(*read_artifact(folder, digest))
