"""Measures over a stream of losses; pure functions of arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.report_schema import Comparison, Recovery, Score

Losses = NDArray[np.float64]

RECOVERY_EVENTS = 50
RECOVERY_SHARE = 0.95
BEFORE_EVENTS = 200


@dataclass(frozen=True, slots=True, eq=False)
class StreamLosses:
    """The events whose truth is known, in stream order.

    Attributes:
        position: ``(n,)`` event numbers, rising.
        served: ``(n,)`` loss in [0, 1] of the answer that was served.
        frozen: ``(n,)`` loss of the stream's first champion on the same event.
        truth: ``n`` labels, for No-Change; empty for regression.
    """

    position: NDArray[np.int64]
    served: Losses
    frozen: Losses
    truth: Sequence[str] = ()

    def __post_init__(self) -> None:
        n = len(self.position)
        if len(self.served) != n or len(self.frozen) != n:
            raise ValueError(
                f"{n} positions, {len(self.served)} served and {len(self.frozen)} frozen losses: "
                "give one of each per event"
            )
        if len(self.truth) not in (0, n):
            raise ValueError(f"{n} positions, {len(self.truth)} truths: give one per event or none")
        if n and np.any(np.diff(self.position) <= 0):
            raise ValueError("positions must rise: give the events in stream order, each once")
        for name, losses in (("served", self.served), ("frozen", self.frozen)):
            if n and not (losses.min() >= 0.0 and losses.max() <= 1.0):
                raise ValueError(f"{name} losses must lie in [0, 1]")

    def __len__(self) -> int:
        return len(self.position)

    def between(self, first: int, end: int) -> "StreamLosses":
        """Return the events at positions ``first .. end - 1``."""
        low, high = np.searchsorted(self.position, [first, end])
        return StreamLosses(
            self.position[low:high],
            self.served[low:high],
            self.frozen[low:high],
            self.truth[low:high],
        )


def score(losses: Losses, *, classification: bool) -> Score:
    """Return events, accuracy and mean loss.

    >>> score(np.array([0.0, 0.0, 0.0, 1.0]), classification=True)
    Score(events=4, accuracy=0.75, loss=0.25)
    """
    if not losses.size:
        return Score(events=0, accuracy=None, loss=None)
    loss = float(losses.mean())
    return Score(
        events=losses.size, accuracy=round(1.0 - loss, 12) if classification else None, loss=loss
    )


def compare(stream: StreamLosses, *, classification: bool) -> Comparison:
    """Return what was served beside the frozen model on the same events."""
    return Comparison(
        served=score(stream.served, classification=classification),
        frozen=score(stream.frozen, classification=classification),
    )


def first_events(stream: StreamLosses, boundary: int, end: int, n: int) -> StreamLosses:
    """Return the first ``n`` events of a regime (fewer where it is shorter)."""
    return stream.between(boundary, min(end, boundary + n))


def pool(parts: Sequence[StreamLosses]) -> StreamLosses:
    """Return disjoint, rising parts as one stream."""
    if not parts:
        none = np.empty(0)
        return StreamLosses(np.empty(0, np.int64), none, none)
    return StreamLosses(
        np.concatenate([p.position for p in parts]),
        np.concatenate([p.served for p in parts]),
        np.concatenate([p.frozen for p in parts]),
    )


def no_change_accuracy(
    truth: Sequence[str], delay: int = 0, labelled: NDArray[np.bool_] | None = None
) -> float | None:
    """Accuracy of predicting the newest label that has arrived (test, then train).

    Args:
        truth: Labels in stream order.
        delay: A label arrives right after the event that many events later, so that event
            ``i`` can know the label of event ``i - 1 - delay`` at best.
        labelled: ``(n,)`` whose labels arrive at all; None: all.

    Returns:
        The accuracy over all events, the first ones (nothing arrived yet) counted as wrong;
        None without events.

    >>> no_change_accuracy(["a", "a", "b", "b"])
    0.5
    """
    if not truth:
        return None
    right, newest = 0, -1
    for i, label in enumerate(truth):
        arrived = i - 1 - delay
        if arrived >= 0 and (labelled is None or labelled[arrived]):
            newest = arrived
        right += newest >= 0 and truth[newest] == label
    return right / len(truth)


def kappa_temporal(accuracy: float | None, no_change: float | None) -> float | None:
    """(accuracy - no_change) / (1 - no_change) (Bifet et al. 2013); None where undefined.

    >>> kappa_temporal(0.9, 0.8)
    0.5
    """
    if accuracy is None or no_change is None or no_change >= 1.0:
        return None
    return round((accuracy - no_change) / (1.0 - no_change), 12)


def rolling_accuracy(losses: Losses, window: int) -> Losses:
    """Mean of ``1 - loss`` over the last ``window`` events at each event (fewer at the start).

    >>> rolling_accuracy(np.array([1.0, 0.0, 0.0]), 2)
    array([0. , 0.5, 1. ])
    """
    total = np.concatenate([[0.0], np.cumsum(1.0 - losses)])
    upto = np.arange(1, len(losses) + 1)
    start = np.maximum(0, upto - window)
    mean: Losses = (total[upto] - total[start]) / (upto - start)
    return mean


def events_to_recover(losses: Losses, reference: float) -> int | None:
    """Least n such that events ``n .. n + 49`` reach 95 % of ``reference`` accuracy.

    Args:
        losses: A regime's losses from its boundary on.
        reference: Accuracy (1 - mean loss) to come back to.

    Returns:
        The events before that; None if it does not happen before the regime's end (censored).
    """
    if len(losses) < RECOVERY_EVENTS:
        return None
    total = np.concatenate([[0.0], np.cumsum(1.0 - losses)])
    mean = (total[RECOVERY_EVENTS:] - total[:-RECOVERY_EVENTS]) / RECOVERY_EVENTS
    good = np.flatnonzero(mean >= RECOVERY_SHARE * reference - 1e-9)
    return int(good[0]) if good.size else None


def recovery(
    stream: StreamLosses, boundary: int, end: int, oracle: float | None
) -> Recovery | None:
    """Return how soon the served model was good again after a boundary.

    Args:
        stream: The whole stream.
        boundary: First event of the regime.
        end: The event after its last one.
        oracle: Accuracy of a model trained on the regime; None: the served model's own
            accuracy over the last 200 events before the boundary takes its place.
    """
    regime = stream.between(boundary, end)
    if oracle is not None:
        lost = float(np.sum(oracle - (1.0 - regime.served)))
        return Recovery(
            events=events_to_recover(regime.served, oracle),
            reference=oracle,
            against="oracle",
            area_lost=lost,
        )
    before = stream.between(boundary - BEFORE_EVENTS, boundary)
    if not len(before):
        return None
    reference = float(1.0 - before.served.mean())
    return Recovery(
        events=events_to_recover(regime.served, reference),
        reference=reference,
        against="before",
        area_lost=None,
    )
