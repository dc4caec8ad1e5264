"""Where labelled rows change their meaning: the loop's error monitor, run over rows at hand.

A model is fitted to the first rows of a stretch, and the monitor watches its losses on the rows
that follow. A signal ends the stretch at the estimated change point; there the next one begins,
with a model and a monitor of its own. Nothing that is learned here goes on: what comes of it is
positions. A cut needs the labels up to its alarm, some rows into the next stretch, and no later
one.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from adapters.examples import Examples
from adapters.feature_schema import FeatureSchema
from adapters.model_file import Model
from adapters.task_frames import TaskRows, data_of_frame, tasks_by_segments
from adapters.training import fit_joint
from detectors.error_monitor import ErrorMonitor


@dataclass(frozen=True, slots=True)
class DetectionSettings:
    """How to look for changes.

    Attributes:
        learn: Rows at the start of a stretch that its model is fitted to; no change is seen
            among them, so shorter regimes are not found.
        detector: Name in the detectors' catalog; None: the error monitor's usual one.
        least_effect: Least rise of the mean loss worth a cut, in loss.
        seed: Of the models.
    """

    learn: int = 120
    detector: str | None = None
    least_effect: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.learn < 20:
            raise ValueError(f"learn is {self.learn}; use at least 20 rows, better 100")


def detected_starts(
    schema: FeatureSchema, examples: Examples, settings: DetectionSettings | None = None
) -> tuple[int, ...]:
    """Return the first row of each regime after the first one, rising, as estimated.

    Args:
        schema: Raw features.
        examples: In the order in which they happened.
        settings: How to look.

    Raises:
        ValueError: The labels hold fewer than two classes.
        DetectorError: No such detector.
    """
    settings = settings or DetectionSettings()
    names = tuple(sorted(set(examples.labels)))
    regression = len(examples.values) > 0
    starts: list[int] = []
    begin = 0
    while begin + settings.learn < len(examples):
        rest = np.arange(begin + settings.learn, len(examples))
        learned = examples.take(np.arange(begin, begin + settings.learn))
        model = fit_joint(schema, learned, class_names=names, seed=settings.seed)
        monitor = ErrorMonitor(
            settings.detector,
            None,
            "regression" if regression else "classification",
            settings.least_effect,
        )
        monitor.reset(_held_out(model))
        later = examples.take(rest)
        losses = model.losses(model.predict(later.rows), later.truths)
        found = None
        for row, loss in zip(rest.tolist(), losses.tolist(), strict=True):
            found = monitor.update(loss, row)
            if found is not None:
                break
        if found is None:
            break
        begin = found.change_point
        starts.append(begin)
    return tuple(starts)


def tasks_by_detection(
    frame: pd.DataFrame,
    schema: FeatureSchema,
    *,
    label: str,
    regression: bool = False,
    least: int = 1,
    settings: DetectionSettings | None = None,
) -> TaskRows:
    """Return one task per stretch between detected change points: ``segment-0``, ...

    Args:
        frame: Labelled rows in the order in which they happened.
        schema: The features; each is a column of the frame.
        label: Column of the truth.
        regression: Read the label as a number instead of a class.
        least: Rows that a task must have.
        settings: How to look for changes.

    Raises:
        TaskFrameError: A column or a label is missing.
        FeatureError: A cell does not fit the schema.
        ValueError: The labels hold fewer than two classes.
    """
    whole = tasks_by_segments(frame, ())
    examples = data_of_frame(frame, whole, schema, label=label, regression=regression).examples
    return tasks_by_segments(frame, detected_starts(schema, examples, settings), least=least)


def _held_out(model: Model) -> list[float]:
    losses = model.info["holdout_losses"]
    if not isinstance(losses, list):
        raise TypeError(f"a fitted model's holdout_losses are {losses!r}, not a list")
    return [float(loss) for loss in losses]
