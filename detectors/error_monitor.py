"""Watches the champion's losses and signals when they have risen.

One detector of the catalog decides *that* something changed; this monitor adds what every detector
lacks: a reference from the model's own holdout, silence when the loss falls, the least effect worth
a signal, and an estimate of where the change began.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from detectors.change_point import rise_start
from detectors.detector_errors import DetectorError, DetectorSnapshotError
from detectors.river_catalog import ZERO_ONE_ONLY, make_detector, restore_detector
from detectors.signals import Signal, SignalKind
from detectors.snapshot_format import (
    pack_floats,
    pack_integers,
    seal,
    unpack_floats,
    unpack_integers,
    unseal,
)

TaskType = Literal["classification", "regression"]

KEPT = 512
REFERENCE_LEAST = 30
_KIND = "error_monitor"
_VERSION = "1"
_GOLDEN = 0.618033988749895


class _State(msgspec.Struct, frozen=True):
    task_type: TaskType
    least_effect: float
    detector: bytes
    reference_sum: float
    reference_count: int
    prior_sum: float
    prior_count: int
    signalled: int | None
    losses: bytes
    positions: bytes


_decoder = msgspec.msgpack.Decoder(_State)


def default_detector(task_type: TaskType) -> str:
    """HDDMA for 0/1 losses, ADWIN (testing at each label) for graded ones.

    After m primed losses HDDMA can see a rise of at least ``sqrt(ln(2 / drift_confidence) / 2m)``,
    however many labels follow: .19 for 100, .09 for 500. For smaller rises prime with more, or
    choose ShiryaevRoberts.
    """
    return "HDDMA" if task_type == "classification" else "ADWIN"


class ErrorMonitor:
    """Signals a rise of the loss, once per alarm of its detector.

    A signal needs three things: the detector alarms; the most likely single change among the last
    512 losses is a rise that began after the last one signalled; and the mean since then exceeds
    both the reference and the mean before by ``least_effect``. After an alarm the losses since the
    change are the detector's new normal: a lasting high loss is not signalled again before it rises
    further (or the detector errs), and a further rise is, however soon it follows. Whether a signal
    is still true is asked with `loss_still_raised`.

    Args:
        detector: Name in the catalog; None is the default of the task type.
        params: Parameters of the detector, as the catalog's defaults otherwise.
        task_type: ``classification`` (losses 0 or 1) or ``regression`` (graded).
        least_effect: Least rise of the mean loss over the reference worth a signal.

    Raises:
        DetectorError: names the setting and its fix.
    """

    def __init__(
        self,
        detector: str | None = None,
        params: Mapping[str, object] | None = None,
        task_type: TaskType = "classification",
        least_effect: float = 0.05,
    ) -> None:
        if task_type not in ("classification", "regression"):
            raise DetectorError("task_type", task_type, "give classification or regression")
        if not 0.0 <= least_effect < 1.0:
            raise DetectorError("least_effect", least_effect, "give a loss in [0, 1), as 0.05")
        name = default_detector(task_type) if detector is None else detector
        if task_type == "regression" and name in ZERO_ONE_ONLY:
            raise DetectorError("detector", name, "it counts losses of 1; regression wants ADWIN")
        self.task_type: TaskType = task_type
        self.least_effect = least_effect
        self._detector = make_detector(name, params)
        self._clear()

    def _clear(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=KEPT)
        self._reference_sum = 0.0
        self._reference_count = 0
        self._prior_sum = 0.0
        self._prior_count = 0
        self._signalled: int | None = None
        self._bind()

    def _bind(self) -> None:
        self._take = self._detector.update
        self._keep = self._recent.append
        self._learning = self._reference_count < REFERENCE_LEAST

    @property
    def detector_name(self) -> str:
        """Name of the detector in the catalog."""
        return self._detector.name

    @property
    def detector_params(self) -> Mapping[str, object]:
        """Its parameters, defaults included."""
        return self._detector.params

    @property
    def reference_loss(self) -> float | None:
        """Mean of the primed losses (of the first 30 labels where fewer were primed), or None."""
        return self._reference_sum / self._reference_count if self._reference_count else None

    @property
    def warning(self) -> bool:
        """Whether the detector is in its warning zone."""
        return self._detector.warning_detected

    def prime(self, losses: Sequence[float]) -> None:
        """Take the model's holdout losses: the reference, and the detector's normal.

        They have no order, so they are fed evenly mixed and their order never matters.

        Args:
            losses: Each in [0, 1].

        Raises:
            DetectorError: a loss is outside [0, 1].
        """
        values = sorted(float(loss) for loss in losses)
        for value in values:
            _check(value)
        mixed = [values[i] for i in _mixed_order(len(values))]
        self._detector.prime(mixed)
        total = sum(values)
        self._reference_sum += total
        self._reference_count += len(values)
        self._prior_sum += total
        self._prior_count += len(values)
        self._bind()

    def reset(self, losses: Sequence[float] = ()) -> None:
        """Forget everything and prime with another model's holdout losses.

        Raises:
            DetectorError: a loss is outside [0, 1].
        """
        self._detector = make_detector(self._detector.name, self._detector.params)
        self._clear()
        self.prime(losses)

    def update(self, loss: float, position: int) -> Signal | None:
        """Take the loss of one labelled event, in label arrival order.

        Args:
            loss: In [0, 1].
            position: Sequence number of that event.

        Returns:
            A signal with ``at`` = ``position``, or None.

        Raises:
            DetectorError: the loss is outside [0, 1] or not a number.
        """
        if not 0.0 <= loss <= 1.0:
            _check(loss)
        self._keep((loss, position))
        if self._learning:
            self._reference_sum += loss
            self._reference_count += 1
            self._learning = self._reference_count < REFERENCE_LEAST
        if self._take(loss):
            return self._judge(position)
        return None

    def _judge(self, at: int) -> Signal | None:
        """Whether the detector's alarm is a rise worth a signal; if so start the next regime."""
        # Labels may come out of order; the change happened in the order of the events.
        pairs = sorted(self._recent, key=_position)
        losses = [loss for loss, _ in pairs]
        start = rise_start(losses, self._prior_sum, self._prior_count)
        reference = self.reference_loss
        if start is None or reference is None:
            return None
        since = losses[start:]
        before = (self._prior_sum + sum(losses[:start])) / (self._prior_count + start)
        if not loss_still_raised(max(reference, before), since, self.least_effect):
            return None
        if self._signalled is not None and pairs[start][1] <= self._signalled:
            return None
        self._signalled = pairs[start][1]
        self._recent = deque(pairs[start:], maxlen=KEPT)
        self._prior_sum, self._prior_count = 0.0, 0
        self._detector = make_detector(self._detector.name, self._detector.params)
        self._detector.prime(since)
        self._bind()
        mean = sum(since) / len(since)
        change_point = min(pairs[start][1], at)
        return Signal(
            kind=SignalKind.ERROR,
            detector=self._detector.name,
            at=at,
            change_point=change_point,
            statistic=mean - reference,
            threshold=self.least_effect,
            detail=(
                f"loss rose from {reference:.3f} to {mean:.3f} "
                f"over {len(since)} labels since event {change_point}"
            ),
        )

    def snapshot(self) -> bytes:
        """Canonical bytes of the whole state."""
        pairs = list(self._recent)
        state = _State(
            task_type=self.task_type,
            least_effect=self.least_effect,
            detector=self._detector.snapshot(),
            reference_sum=self._reference_sum,
            reference_count=self._reference_count,
            prior_sum=self._prior_sum,
            prior_count=self._prior_count,
            signalled=self._signalled,
            losses=pack_floats(np.array([loss for loss, _ in pairs], dtype=np.float64)),
            positions=pack_integers(np.array([at for _, at in pairs], dtype=np.int64)),
        )
        return seal(_KIND, _VERSION, msgspec.structs.asdict(state))

    @classmethod
    def restore(cls, packed: bytes) -> "ErrorMonitor":
        """The monitor that `snapshot` packed, continuing identically.

        Raises:
            DetectorSnapshotError: damaged bytes or another River version; make a new monitor and
                prime it instead.
        """
        try:
            state = _decoder.decode(unseal(packed, _KIND, _VERSION))
        except msgspec.MsgspecError as error:
            raise DetectorSnapshotError(f"snapshot of {_KIND}: {error}") from error
        detector = restore_detector(state.detector)
        made = cls(detector.name, detector.params, state.task_type, state.least_effect)
        made._detector = detector
        losses = [float(loss) for loss in unpack_floats(state.losses)]
        positions = [int(position) for position in unpack_integers(state.positions)]
        if len(losses) != len(positions):
            raise DetectorSnapshotError(f"{len(losses)} losses for {len(positions)} positions")
        made._recent = deque(zip(losses, positions, strict=True), maxlen=KEPT)
        made._reference_sum, made._reference_count = state.reference_sum, state.reference_count
        made._prior_sum, made._prior_count = state.prior_sum, state.prior_count
        made._signalled = state.signalled
        made._bind()
        return made


def loss_still_raised(reference_loss: float, losses: Sequence[float], least_effect: float) -> bool:
    """Whether a signal is still true: the mean loss exceeds the reference by the least effect.

    Args:
        reference_loss: `ErrorMonitor.reference_loss` when the signal came.
        losses: The serving model's losses since the signal's change point; none is not true.
        least_effect: `ErrorMonitor.least_effect`.

    >>> loss_still_raised(0.03, [1.0, 0.0, 1.0, 0.0], 0.05)
    True
    >>> loss_still_raised(0.03, [], 0.05)
    False
    """
    return bool(losses) and sum(losses) / len(losses) > reference_loss + least_effect


def _check(loss: float) -> None:
    if not 0.0 <= loss <= 1.0:
        raise DetectorError("loss", loss, "give a finite number in [0, 1]")


def _position(pair: tuple[float, int]) -> int:
    return pair[1]


def _mixed_order(n: int) -> list[int]:
    return sorted(range(n), key=lambda i: (i + 1) * _GOLDEN % 1.0)
