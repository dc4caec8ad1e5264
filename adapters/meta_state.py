"""Where a meta-training stands, as one value that can be kept and taken up again bit for bit."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from adapters.inner_loop import Tensors
from adapters.meta_learner import MetaParameters, Outer
from adapters.meta_settings import MetaTrainingError
from adapters.model_file import ModelFileError, pack_artifact, unpack_artifact


@dataclass(slots=True)
class Counters:
    """What a training counts.

    Attributes:
        done: Meta-steps, skipped ones among them.
        skipped: Meta-steps whose loss or gradient was not finite: nothing moved.
        skipped_in_a_row: The latest of them.
        taken_since_rollback: Finite steps since the start or the last rollback.
        rolled_back: How often the state went back to the one kept before a run of skipped steps.
        validated: Meta-validations.
        validations_without_gain: Since the best one.
        elapsed_s: Seconds spent, over all processes that took the training up.
    """

    done: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    taken_since_rollback: int = 0
    rolled_back: int = 0
    validated: int = 0
    validations_without_gain: int = 0
    elapsed_s: float = 0.0


@dataclass(slots=True, eq=False)
class MetaState:
    """A training in progress.

    Attributes:
        parameters: The leaves.
        outer: How they move.
        generator: Draws the episodes.
        counters: What has happened.
        kept: Copies to roll back to.
        best: Copies of the parameters with the least meta-validation loss; empty without any.
        best_loss: That loss.
        losses: Meta-validation losses, in order.
    """

    parameters: MetaParameters
    outer: Outer
    generator: torch.Generator
    counters: Counters = field(default_factory=Counters)
    kept: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    best_loss: float = math.inf
    losses: list[tuple[int, float]] = field(default_factory=list)
    _adam: torch.optim.Adam | None = None

    def __post_init__(self) -> None:
        if self.outer == "adam":
            self._adam = torch.optim.Adam(self.parameters.leaves)
        self.keep()

    def move(self, gradients: list[Tensor], rate: float) -> None:
        """Move the leaves against their gradients."""
        leaves = self.parameters.leaves
        if self._adam is None:
            with torch.no_grad():
                for leaf, gradient in zip(leaves, gradients, strict=True):
                    leaf.sub_(rate * gradient)
            return
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        self._adam.zero_grad()

    def keep(self) -> None:
        """Keep what ``roll_back`` returns to."""
        self.kept = _copies(self._moving())

    def roll_back(self) -> None:
        """Return to what was kept."""
        self._restore(self.kept)

    def note_validation(self, loss: float) -> None:
        """Keep the parameters if ``loss`` is the least so far."""
        self.counters.validated += 1
        self.losses.append((self.counters.done, loss))
        if loss < self.best_loss:
            self.best_loss, self.counters.validations_without_gain = loss, 0
            self.best = _copies(_named(self.parameters))
        else:
            self.counters.validations_without_gain += 1

    def _moving(self) -> Tensors:
        """Return everything that a step changes, by name."""
        tensors = _named(self.parameters)
        if self._adam is not None:
            for number, values in self._adam.state_dict()["state"].items():
                tensors |= {f"adam/{number}/{name}": value for name, value in values.items()}
        return tensors

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in _named(self.parameters).items():
                value.copy_(tensors[name])
        if self._adam is not None:
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith("adam/"):
                    _, number, entry = name.split("/")
                    state.setdefault(int(number), {})[entry] = value.clone()
            self._adam.load_state_dict({**self._adam.state_dict(), "state": state})

    def save(self, path: Path, training: str) -> None:
        """Write the state to ``path``, whole or not at all.

        Args:
            path: The file.
            training: Says which training this is; ``resume`` refuses another one.

        Raises:
            MetaTrainingError: It cannot be written; what was there before stands.
        """
        tensors = {f"now/{name}": value for name, value in self._moving().items()}
        tensors |= {f"kept/{name}": value for name, value in self.kept.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        tensors["generator"] = self.generator.get_state()
        counters = {name: getattr(self.counters, name) for name in Counters.__slots__}
        manifest: dict[str, object] = {
            "format": 1,
            "kind": "meta-training",
            "training": training,
            "counters": counters,
            "losses": [list(entry) for entry in self.losses],
        }
        partial = path.with_suffix(".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(pack_artifact(manifest, tensors))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise MetaTrainingError(
                f"the checkpoint {path} cannot be written ({error}); make room, or name another"
                " checkpoint folder"
            ) from error

    def resume(self, path: Path, training: str) -> bool:
        """Take up the state in ``path``; return False where there is none.

        Raises:
            MetaTrainingError: It cannot be read, is damaged, or of another training.
        """
        try:
            manifest, tensors = unpack_artifact(path.read_bytes())
        except FileNotFoundError:
            return False
        except OSError as error:
            raise MetaTrainingError(
                f"the checkpoint {path} cannot be read ({error}); name another checkpoint folder"
            ) from error
        except ModelFileError as error:
            raise MetaTrainingError(f"{path}: {error.what}; delete it to start anew") from error
        counters, losses = manifest.get("counters"), manifest.get("losses")
        known = (manifest.get("format"), manifest.get("kind"), manifest.get("training"))
        if known != (1, "meta-training", training):
            raise MetaTrainingError(
                f"{path} is of a training with other data, settings or version; resume it with"
                " those, or name another checkpoint folder"
            )
        if not isinstance(counters, dict) or not isinstance(losses, list):
            raise MetaTrainingError(f"{path} has no counters; delete it to start anew")
        self._restore(_under("now/", tensors))
        self.kept, self.best = _under("kept/", tensors), _under("best/", tensors)
        self.counters = Counters(**counters)
        self.losses = [(int(at), float(loss)) for at, loss in losses]
        self.best_loss = min((loss for _, loss in self.losses), default=math.inf)
        self.generator.set_state(tensors["generator"])
        return True


def _named(parameters: MetaParameters) -> Tensors:
    named = {f"weights/{name}": value for name, value in parameters.weights.items()}
    return named | {f"step_sizes/{name}": value for name, value in parameters.step_sizes.items()}


def _copies(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: value.detach().clone() for name, value in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
