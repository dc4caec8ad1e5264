"""Small worlds for the loop's tests: four numbers in, a lane or a value out, models by hand."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.feature_schema import Feature, FeatureSchema, Preprocessor, Rows
from adapters.meta_init import MetaInit, Start
from adapters.model_file import Architecture, Model, TaskType
from adapters.modules import MLP, initialise

FEATURES = 4
SCHEMA = FeatureSchema(tuple(Feature(f"x{i}", "number") for i in range(FEATURES)))
LANES = ("down", "up")
HOLDOUT_LOSSES = tuple([0.0] * 97 + [1.0] * 3)
ARCHITECTURE = Architecture("adapters.modules:MLP", {"inputs": 4, "hidden": [], "outputs": 2})
LINE = Architecture("adapters.modules:MLP", {"inputs": 4, "hidden": [], "outputs": 1})

Label = str | float
Concept = Callable[[NDArray[np.float64]], Label]


def first(x: NDArray[np.float64]) -> str:
    """The lane by the first number."""
    return LANES[int(x[0] > 0)]


def second(x: NDArray[np.float64]) -> str:
    """The lane by the second number: half of the first plan's answers are wrong."""
    return LANES[int(x[1] > 0)]


def third(x: NDArray[np.float64]) -> str:
    """The lane by the third number."""
    return LANES[int(x[2] > 0)]


def swapped(x: NDArray[np.float64]) -> str:
    """The first plan with the lanes' names exchanged."""
    return LANES[int(x[0] <= 0)]


def rising(x: NDArray[np.float64]) -> float:
    """A value that grows with the first number."""
    return float(100 + 10 * x[0])


def falling(x: NDArray[np.float64]) -> float:
    """A value that grows with the second number and falls with the first."""
    return float(100 - 10 * x[0] + 10 * x[1])


def linear(weights: Sequence[float], *, task_type: TaskType = "classification") -> Model:
    """Return a model whose answer is the sign of (or, for regression, is) a weighted sum."""
    lanes = task_type == "classification"
    module = initialise(ARCHITECTURE if lanes else LINE, 0)
    assert isinstance(module, MLP)
    with torch.no_grad():
        w = torch.tensor([weights], dtype=torch.float32)
        module.head.weight.copy_(torch.cat([-w, w]) if lanes else w)
        module.head.bias.zero_()
    unit = np.vstack([np.ones(FEATURES), -np.ones(FEATURES)])
    return Model(
        module,
        ARCHITECTURE if lanes else LINE,
        SCHEMA,
        Preprocessor.fit(SCHEMA, Rows(unit)),  # mean 0, deviation 1: it changes nothing
        task_type,
        LANES if lanes else (),
        loss_scale=1.0 if lanes else 10.0,
        target_mean=0.0 if lanes else 100.0,
        target_std=1.0 if lanes else 10.0,
    )


def lane_champion() -> Model:
    """Return a model that knows the first plan."""
    return linear([4.0, 0.0, 0.0, 0.0])


def line_champion() -> Model:
    """Return a model of ``rising``."""
    return linear([1.0, 0.0, 0.0, 0.0], task_type="regression")


def lane_start() -> MetaInit:
    """Return a start that is good for every plan by one number: no weight, and long steps."""
    model = lane_champion()
    weights = {name: torch.zeros_like(w) for name, w in model.module.state_dict().items()}
    steps = {name: torch.full_like(w, 0.5) for name, w in weights.items()}
    return MetaInit(
        architecture=ARCHITECTURE,
        schema=SCHEMA,
        preprocessor=model.preprocessor,
        task_type="classification",
        class_names=LANES,
        target_mean=0.0,
        target_std=1.0,
        starts={"reptile": Start("reptile", weights, steps, 5)},
        joint={},
        recommended="reptile",
        validation={},
        trained_on=np.empty(0, np.uint64),
    )


class Generator:
    """Draws rows and their labels; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def rows(self, n: int, shift: Sequence[float] = (0.0,) * FEATURES) -> NDArray[np.float64]:
        """Return ``(n, 4)`` numbers near -1 and 1, moved by ``shift``."""
        signs = self._rng.choice([-1.0, 1.0], (n, FEATURES))
        found: NDArray[np.float64] = signs + self._rng.normal(0, 0.3, signs.shape) + shift
        return found

    def chance(self, share: float) -> bool:
        """Whether something of this probability happens now."""
        return bool(self._rng.random() < share)


def features(row: NDArray[np.float64]) -> dict[str, float]:
    """Return a row as an event's features."""
    return {f"x{i}": float(v) for i, v in enumerate(row)}
