"""Labels as the state keeps them: a class number, or a number."""

import math

from pipeline.messages import LONGEST_LABEL, LabelValue
from pipeline.turn import Turn

MOST_CLASSES = 10_000


class LabelError(ValueError):
    """A label that cannot be used; says what to send."""


def canonical(label: LabelValue) -> str:
    """Return a class label as text.

    >>> [canonical(v) for v in ("lane A", 3, True, 3.0)]
    ['lane A', '3', 'true', '3']
    """
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, float):
        if not label.is_integer():
            raise LabelError(f"label is {label!r}: a class must be a string, integer or bool")
        label = int(label)
    text = str(label)
    if not 0 < len(text) <= LONGEST_LABEL:
        raise LabelError(f"label has {len(text)} characters: send 1 to {LONGEST_LABEL}")
    return text


def label_value(turn: Turn, label: LabelValue) -> float:
    """Return the class number (a new class gets its number) or the regression target.

    Raises:
        LabelError: It is of the wrong type, not finite, or one class too many.
    """
    if turn.settings.model.task_type == "regression":
        if isinstance(label, bool | str) or (isinstance(label, float) and not math.isfinite(label)):
            raise LabelError(f"label is {label!r}: regression needs a finite number")
        try:
            return float(label)
        except OverflowError as error:
            raise LabelError(f"label has {len(str(label))} digits: send a finite number") from error
    text = canonical(label)
    classes = turn.core.classes
    if len(classes) >= MOST_CLASSES and text not in classes:
        raise LabelError(
            f"label is {text!r}: the {MOST_CLASSES} classes known already are the most"
        )
    return float(turn.class_number(text))


def loss_of(turn: Turn, scale: float, answer: float, label: float) -> float:
    """Return the loss in [0, 1] of one answer.

    Args:
        turn: Says whether labels are classes or numbers.
        scale: Regression: error that costs a full loss (4 x the champion's training MAE).
        answer: Class number or value; NaN costs 1.
        label: Class number or value.
    """
    if turn.settings.model.task_type == "classification":
        return float(answer != label)
    error = abs(answer - label) / scale
    return error if error <= 1.0 else 1.0
