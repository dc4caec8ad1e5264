"""Shiryaev-Roberts e-detector on a loss in [0, 1]: channel B of the detection design.

For each alternative mean ``q`` above the reference mean ``p0`` the factor
``e = x q / p0 + (1 - x)(1 - q) / (1 - p0)`` is an e-value for "the mean loss is at most p0" (for
0/1 losses it is the likelihood ratio), and ``M <- (M + 1) e`` is an e-detector: under the null its
mean grows by at most one a label, so the mean time to a false alarm at threshold ``c`` is at least
``c`` labels (for a known ``p0``). The alarm statistic is the mean of ``M`` over the alternatives.

``p0 = (k + 1/2) / (m + 1) + margin`` over the losses it was primed with and the labels older than
the last ``lag``, so that a new regime does not flow into its own reference at once. There is no
evidence before the reference holds 20 losses, as at the start of an unprimed detector.

Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection",
New England Journal of Statistics in Data Science 2023.
"""

import math
from collections import deque
from collections.abc import Sequence

import msgspec

from detectors.detector_errors import DetectorError, DetectorSnapshotError
from detectors.snapshot_format import seal, unseal

_ALTERNATIVES = (0.15, 0.3, 0.5, 0.8)
_LARGEST = 1e300
_HIGHEST = 0.95
LEAST_REFERENCE = 20
_VERSION = "own-1"
NAME = "ShiryaevRoberts"


class _State(msgspec.Struct, frozen=True):
    log_threshold: float
    margin: float
    lag: int
    raised: float
    seen: int
    wealth: list[float]
    lagging: list[float]
    width: int
    drift: bool


_decoder = msgspec.msgpack.Decoder(_State)


class ShiryaevRoberts:
    """Alarms when the mean loss has risen above its reference.

    Args:
        log_threshold: Alarm above this natural logarithm; 5.5 is about one alarm in 245 labels at
            the very worst, and in practice at 5 % error about one in 10,000.
        margin: Added to the reference mean, in loss; rises within it count as no rise.
        lag: Labels that wait before they join the reference.

    >>> detector = ShiryaevRoberts()
    >>> detector.prime([0.0] * 97 + [1.0] * 3)
    >>> [detector.update(1.0) for _ in range(5)]
    [False, False, True, False, False]
    """

    name = NAME

    def __init__(self, log_threshold: float = 5.5, margin: float = 0.03, lag: int = 20) -> None:
        if not (math.isfinite(log_threshold) and log_threshold > 0.0):
            raise DetectorError("log_threshold", log_threshold, "give a number above 0, as 5.5")
        if not 0.0 <= margin < 0.5:
            raise DetectorError("margin", margin, "give a loss in [0, 0.5), as 0.03")
        if not 0 <= lag <= 1000:
            raise DetectorError("lag", lag, "give a number of labels from 0 to 1000, as 20")
        self.log_threshold = log_threshold
        self.margin = margin
        self.lag = lag
        self._limit = math.exp(log_threshold) * len(_ALTERNATIVES)
        self._sum = 0.0
        self._count = 0
        self._wealth = [0.0] * len(_ALTERNATIVES)
        self._lagging: deque[float] = deque()
        self._width = 0
        self._drift = False
        self._refresh()

    @property
    def params(self) -> dict[str, float | int]:
        """The parameters it was made with."""
        return {"log_threshold": self.log_threshold, "margin": self.margin, "lag": self.lag}

    @property
    def drift_detected(self) -> bool:
        """Whether the last update raised the alarm."""
        return self._drift

    @property
    def warning_detected(self) -> bool:
        """Never: it has no warning level."""
        return False

    @property
    def width(self) -> int:
        """Labels seen since it was primed or last alarmed."""
        return self._width

    @property
    def p0(self) -> float:
        """The reference mean, margin included."""
        return self._p0

    def prime(self, losses: Sequence[float]) -> None:
        """Add losses known to be of the reference regime."""
        for loss in losses:
            self._sum += loss
        self._count += len(losses)
        self._refresh()

    def update(self, loss: float) -> bool:
        """Take one loss in [0, 1]; whether it raises the alarm. After an alarm it starts anew."""
        total = 0.0
        wealth = self._wealth
        rest = 1.0 - loss
        for i, (on_error, on_success) in enumerate(self._factors):
            value = (wealth[i] + 1.0) * (loss * on_error + rest * on_success)
            wealth[i] = value if value < _LARGEST else _LARGEST
            total += value
        self._width += 1
        self._drift = total > self._limit
        self._lagging.append(loss)
        if self._drift:
            self._wealth = [0.0] * len(_ALTERNATIVES)
            self._lagging.clear()
            self._width = 0
            self._sum = 0.0
            self._count = 0
            self._refresh()
        elif len(self._lagging) > self.lag:
            self._sum += self._lagging.popleft()
            self._count += 1
            self._refresh()
        return self._drift

    def _refresh(self) -> None:
        p0 = (self._sum + 0.5) / (self._count + 1.0) + self.margin
        self._p0 = p0
        if self._count < LEAST_REFERENCE or p0 > _HIGHEST:
            # Against an unknown reference, or one with no room above it, nothing is evidence.
            self._factors = [(0.0, 0.0)] * len(_ALTERNATIVES)
            return
        least = p0 + 0.1 * (1.0 - p0)
        self._factors = [
            (q / p0, (1.0 - q) / (1.0 - p0)) for q in (max(a, least) for a in _ALTERNATIVES)
        ]

    def snapshot(self) -> bytes:
        """Canonical bytes of the whole state."""
        state = _State(
            self.log_threshold,
            self.margin,
            self.lag,
            self._sum,
            self._count,
            list(self._wealth),
            list(self._lagging),
            self._width,
            self._drift,
        )
        return seal(NAME, _VERSION, msgspec.structs.asdict(state))

    @classmethod
    def restore(cls, packed: bytes) -> "ShiryaevRoberts":
        """The detector that `snapshot` packed.

        Raises:
            DetectorSnapshotError: the bytes are damaged or of another version.
        """
        try:
            state = _decoder.decode(unseal(packed, NAME, _VERSION))
        except msgspec.MsgspecError as error:
            raise DetectorSnapshotError(f"snapshot of {NAME}: {error}") from error
        made = cls(state.log_threshold, state.margin, state.lag)
        made._sum, made._count = state.raised, state.seen
        made._wealth, made._lagging = list(state.wealth), deque(state.lagging)
        made._width, made._drift = state.width, state.drift
        made._refresh()
        return made
