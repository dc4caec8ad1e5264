"""A model's answers in the state's own terms: class numbers, or values."""

import numpy as np
from numpy.typing import NDArray

from adapters.model_file import Model, Prediction
from pipeline.turn import Turn


def answers_of(turn: Turn, model: Model, prediction: Prediction) -> NDArray[np.float64]:
    """Return a model's answers as class numbers of the state, or values; ``(n,)``."""
    if model.task_type == "regression":
        return prediction.values
    numbers = np.array([turn.class_number(name) for name in model.class_names], np.float64)
    best: NDArray[np.float64] = numbers[prediction.outputs.argmax(axis=1)]
    return best
