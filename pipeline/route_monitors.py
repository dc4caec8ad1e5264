"""All that watches one route: the champion's losses, its confidence and inputs, unseen classes."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.model_file import Model, Prediction
from detectors.detector_errors import DetectorSnapshotError
from detectors.error_monitor import ErrorMonitor
from detectors.label_free import LabelFreeMonitor
from detectors.label_free_columns import LabelFreeReference
from detectors.novelty import NoveltyMonitor
from detectors.signals import Signal, SignalKind
from pipeline.settings import Settings

Floats = NDArray[np.float32]

ROWS_KEPT = 1000


class RouteMonitors:
    """Builds the monitors that the settings name, feeds them, and says which have changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._errors = self._fresh_errors()
        self._novelty = NoveltyMonitor(least_class=settings.detect.new_class_after)
        self._reference: LabelFreeReference | None = None
        self._label_free: LabelFreeMonitor | None = None
        self._rows: list[tuple[Floats, Floats, Floats]] = []
        self._collected = 0
        self._changed: set[str] = set()
        self.lost: list[str] = []

    def _fresh_errors(self) -> dict[str, ErrorMonitor]:
        detect, task_type = self._settings.detect, self._settings.model.task_type
        chosen = [detect.error, *detect.also]
        return {
            f"error-{i}": ErrorMonitor(d.name if d else None, d.params if d else None, task_type)
            for i, d in enumerate(chosen)
        }

    @property
    def reference_loss(self) -> float | None:
        """Mean loss that the champion is held to, or None before it is known."""
        return self._errors["error-0"].reference_loss

    @property
    def least_effect(self) -> float:
        """Least rise of the mean loss worth a signal."""
        return self._errors["error-0"].least_effect

    @property
    def calibrated(self) -> bool:
        """Whether the label-free monitors have their reference."""
        return self._label_free is not None

    # ---------------------------------------------------------------- feeding

    def judged(self, loss: float, position: int) -> list[Signal]:
        """Take the champion's loss on a labelled event."""
        self._changed.update(self._errors)
        found = [m.update(loss, position) for m in self._errors.values()]
        return [s for s in found if s is not None]

    def saw_class(self, name: str, position: int) -> list[Signal]:
        """Take a label's class name."""
        signal = self._novelty.see_class(name, position)
        if signal is None and name not in self._novelty.unseen_classes:
            return []
        self._changed.add("novelty")
        return [] if signal is None else [signal]

    def new_classes(self) -> dict[str, Signal]:
        """Return the unseen classes that were signalled, each with its signal as of now."""
        found = {name: self._novelty.sighted_class(name) for name in self._novelty.unseen_classes}
        return {name: signal for name, signal in found.items() if signal is not None}

    def saw_task(self, name: str, position: int) -> list[Signal]:
        """Take an event's task name."""
        self._changed.add("novelty")
        signal = self._novelty.see_task(name, position)
        return [] if signal is None else [signal]

    def announced_task(self, name: str) -> None:
        """Take the name of a task that somebody announced: its events are no surprise."""
        self._changed.add("novelty")
        self._novelty.learn_task(name)

    def scored(self, prediction: Prediction, position: int) -> list[Signal]:
        """Take the champion's forward pass over consecutive events from ``position`` on."""
        detect = self._settings.detect
        if not (detect.confidence or detect.features):
            return []
        low = 0
        if self._label_free is None:
            low = min(len(prediction), detect.calibration_events - self._collected)
            self._collect(prediction, low)
            self._calibrate_when_full()
        if low == len(prediction) or self._label_free is None or self._reference is None:
            return []
        self._changed.add("label-free")
        columns = self._reference.columns(
            prediction.outputs[low:], prediction.embedding[low:], prediction.inputs[low:]
        )
        return [
            s
            for s in self._label_free.update(columns, position + low)
            if (detect.confidence if s.kind is SignalKind.CONFIDENCE else detect.features)
        ]

    def refer(self, prediction: Prediction) -> None:
        """Take reference rows of the champion's own task, without watching them."""
        self._collect(prediction, len(prediction))

    def _collect(self, prediction: Prediction, n: int) -> None:
        if n:
            p = prediction
            self._rows.append((p.outputs[:n], p.embedding[:n], p.inputs[:n]))
            self._collected += n
            self._changed.add("reference-rows")

    def _calibrate_when_full(self) -> None:
        if self._collected < self._settings.detect.calibration_events:
            return
        outputs, embedding, inputs = (
            np.concatenate(part)[-ROWS_KEPT:] for part in zip(*self._rows, strict=True)
        )
        classes = outputs.argmax(axis=1) if outputs.shape[1] > 1 else None
        self._reference = LabelFreeReference.fit(outputs, embedding, inputs, classes)
        self._label_free = LabelFreeMonitor(self._reference.signal_columns)
        self._label_free.calibrate(
            self._reference.cross_fitted(outputs, embedding, inputs, classes)
        )
        self._rows, self._collected = [], 0
        self._changed.update(("reference", "label-free", "reference-rows"))

    def champion_changed(self, champion: Model, losses: Sequence[float]) -> None:
        """Start anew for another champion.

        Args:
            champion: Names the classes that are known.
            losses: Its own holdout losses, which prime the error detectors.
        """
        self.forget_losses(losses)
        self._novelty.know_classes(champion.class_names)
        self._changed.add("novelty")
        self.recalibrate()

    def forget_losses(self, losses: Sequence[float]) -> None:
        """Start the error detectors anew, primed with the champion's own holdout losses."""
        for monitor in self._errors.values():
            monitor.reset(losses)
        self._changed.update(self._errors)

    def recalibrate(self) -> None:
        """Learn the reference anew from the coming events: what alarmed is normal now."""
        self._reference = self._label_free = None
        self._rows, self._collected = [], 0
        self._changed.update(("reference", "label-free", "reference-rows"))

    def settle(self) -> None:
        """Calibrate on the rows given by ``refer``, when they are enough."""
        self._calibrate_when_full()

    # ---------------------------------------------------------------- remembering

    def changed_snapshots(self) -> dict[str, bytes]:
        """Return the snapshots of what has changed since the last call."""
        names, self._changed = sorted(self._changed), set()
        return {name: self._snapshot(name) for name in names}

    def snapshots(self) -> dict[str, bytes]:
        """Return every snapshot."""
        names = [*self._errors, "novelty", "reference", "label-free", "reference-rows"]
        return {name: self._snapshot(name) for name in names}

    def _snapshot(self, name: str) -> bytes:
        match name:
            case "novelty":
                return self._novelty.snapshot()
            case "reference":
                return self._reference.snapshot() if self._reference else b""
            case "label-free":
                return self._label_free.snapshot() if self._label_free else b""
            case "reference-rows":
                return _pack_rows(self._rows)
            case _:
                return self._errors[name].snapshot()

    def prime_lost(self, losses: Sequence[float]) -> None:
        """Give error detectors that restart the champion's own holdout losses."""
        for name in self.lost:
            if name in self._errors:
                self._errors[name].reset(losses)
                self._changed.add(name)

    def _restore_errors(self, name: str, restored: ErrorMonitor) -> None:
        """Go on with a monitor unless another detector is configured by now."""
        if _same_detector(restored, self._errors[name]):
            self._errors[name] = restored
        else:
            self.lost.append(name)

    def restore(self, name: str, snapshot: bytes, *, committed: bool = False) -> None:
        """Go on from a snapshot.

        One that another River release wrote is not read: that detector restarts in warm-up, and
        ``lost`` names it.

        Args:
            name: Of the monitor.
            snapshot: As ``snapshots`` gave it.
            committed: Whether the state file holds just this (at load), so nothing has changed.
        """
        if not committed:
            self._changed.add(name)
        try:
            match name:
                case "novelty":
                    self._novelty = NoveltyMonitor.restore(snapshot)
                case "reference":
                    self._reference = LabelFreeReference.restore(snapshot) if snapshot else None
                case "label-free":
                    self._label_free = LabelFreeMonitor.restore(snapshot) if snapshot else None
                case "reference-rows":
                    self._rows = _unpack_rows(snapshot)
                    self._collected = sum(len(r[0]) for r in self._rows)
                case _ if name in self._errors:
                    self._restore_errors(name, ErrorMonitor.restore(snapshot))
                case _:
                    self.lost.append(name)
        except DetectorSnapshotError:
            self.lost.append(name)


def _same_detector(one: ErrorMonitor, other: ErrorMonitor) -> bool:
    return (one.detector_name, dict(one.detector_params)) == (
        other.detector_name,
        dict(other.detector_params),
    )


def _pack_rows(rows: list[tuple[Floats, Floats, Floats]]) -> bytes:
    if not rows:
        return b""
    parts = [np.ascontiguousarray(np.concatenate(p)) for p in zip(*rows, strict=True)]
    return msgspec.msgpack.encode([(list(p.shape), p.tobytes()) for p in parts])


def _unpack_rows(packed: bytes) -> list[tuple[Floats, Floats, Floats]]:
    if not packed:
        return []
    outputs, embedding, inputs = (
        np.frombuffer(data, np.float32).reshape(shape)
        for shape, data in msgspec.msgpack.decode(packed)
    )
    return [(outputs, embedding, inputs)]
