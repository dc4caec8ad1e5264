"""Every drift detector by name: River's, behind one contract, and our own.

The only file that imports River. Each detector takes a loss in [0, 1], larger is worse.

River 0.26 facts that this file hides: FHDDM alarms when its mean *falls*, so it gets ``1 - loss``;
a detector that has alarmed resets itself at its next update; ADWIN tests only at every 32nd value
(our default is each one: labels are few); KSWIN and DummyDriftDetector draw at random, so their
seed defaults to 0; PageHinkley looks both ways (our default is ``up``).

State is packed from the detector's own fields, without pickle, into canonical bytes that carry
River's version and a sha256; another version or digest is refused.
"""

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar, cast

import msgspec
from river import drift, stats
from river.drift import binary

from detectors import shiryaev_roberts
from detectors.detector_errors import DetectorError, DetectorSnapshotError
from detectors.river_state import fields_of, fill, pack_field
from detectors.snapshot_format import seal, unseal

Parameter: TypeAlias = bool | int | float | str | None

_VERSION: Final = f"river-{importlib.metadata.version('river')}"
_KIND: Final = "river"
_T = TypeVar("_T")


class Detector(Protocol):
    """What every detector of the catalog does."""

    @property
    def name(self) -> str:
        """Its name in the catalog."""

    @property
    def params(self) -> Mapping[str, Parameter]:
        """The parameters it was made with, defaults included."""

    @property
    def drift_detected(self) -> bool:
        """Whether the last update raised the alarm."""

    @property
    def warning_detected(self) -> bool:
        """Whether the last update left it in its warning zone; False where it has none."""

    @property
    def width(self) -> int | None:
        """Losses in its current window, or None where it keeps none."""

    def prime(self, losses: Sequence[float]) -> None:
        """Take losses known to be of the reference regime; alarms among them mean nothing."""

    def update(self, loss: float) -> bool:
        """Take one loss in [0, 1]; whether it raises the alarm."""

    def snapshot(self) -> bytes:
        """Canonical bytes of the whole state; `restore_detector` continues identically."""


class _River(Protocol):
    @property
    def drift_detected(self) -> bool: ...

    def update(self, x: float) -> object: ...


class _Mean(stats.Mean):
    """A running mean that is copied by assignment.

    HDDMA copies its means at most updates while the loss is steady, and River's own ``clone``
    looks at the class's signature each time: most of the detector's cost.
    """

    def clone(
        self, new_params: dict[str, object] | None = None, include_attributes: bool = False
    ) -> "_Mean":
        twin = _Mean()
        if include_attributes:
            twin.n, twin._mean = self.n, self._mean
        return twin


class _HDDMA(binary.HDDMA):
    """River's HDDMA on means that are cheap to copy; the same alarms."""

    def _reset(self) -> None:
        cast("Callable[[], None]", super()._reset)()
        self._x_min, self._x_max, self._z = _Mean(), _Mean(), _Mean()


_RIVER: Final[dict[str, Callable[..., _River]]] = {
    "ADWIN": drift.ADWIN,
    "DDM": binary.DDM,
    "EDDM": binary.EDDM,
    "FHDDM": binary.FHDDM,
    "HDDMA": _HDDMA,
    "HDDMW": binary.HDDMW,
    "KSWIN": drift.KSWIN,
    "NoDrift": drift.NoDrift,
    "PageHinkley": drift.PageHinkley,
    "DummyDriftDetector": drift.DummyDriftDetector,
}
_OUR_DEFAULTS: Final[dict[str, dict[str, Parameter]]] = {
    "ADWIN": {"clock": 1},
    "KSWIN": {"seed": 0},
    "PageHinkley": {"mode": "up"},
    "DummyDriftDetector": {"seed": 0},
}
_NOT_SETTINGS: Final = frozenset({"window", "dynamic_cloning"})
# EDDM counts only losses of exactly 1, so it is blind to graded ones.
ZERO_ONE_ONLY: Final = frozenset({"EDDM"})


def detector_names() -> tuple[str, ...]:
    """Names for `make_detector`, sorted; ``NoDrift`` and ``DummyDriftDetector`` are baselines."""
    return tuple(sorted((*_RIVER, shiryaev_roberts.NAME)))


def default_params(name: str) -> dict[str, Parameter]:
    """Parameters of a detector with their defaults here.

    Raises:
        DetectorError: there is no such detector.
    """
    if name == shiryaev_roberts.NAME:
        return dict(shiryaev_roberts.ShiryaevRoberts().params)
    if name not in _RIVER:
        raise DetectorError("detector", name, f"choose one of {', '.join(detector_names())}")
    signature = inspect.signature(_RIVER[name])
    defaults: dict[str, Parameter] = {
        key: parameter.default
        for key, parameter in signature.parameters.items()
        if key not in _NOT_SETTINGS
    }
    return defaults | _OUR_DEFAULTS.get(name, {})


def make_detector(name: str, params: Mapping[str, object] | None = None) -> Detector:
    """A fresh detector.

    Args:
        name: One of `detector_names`.
        params: Changes to its `default_params`.

    Raises:
        DetectorError: unknown name or parameter, or a value of the wrong type or range.

    >>> detector = make_detector("HDDMA", {"drift_confidence": 0.01})
    >>> any(detector.update(0.0) for _ in range(100))
    False
    >>> [detector.update(1.0) for _ in range(8)].index(True)
    2
    """
    given = _checked(name, params or {})
    if name == shiryaev_roberts.NAME:
        return _made(name, given, shiryaev_roberts.ShiryaevRoberts)
    detector = _RiverDetector(name, given, _made(name, given, _RIVER[name]))
    try:
        # Some of River's range errors (a sqrt of a negative bound) show only with the first values.
        probe = _RiverDetector(name, given, _made(name, given, _RIVER[name]))
        probe.prime([0.0, 1.0, 0.0])
    except (ValueError, ArithmeticError, TypeError, IndexError) as error:
        raise DetectorError(f"detector {name}", given, f"River refuses it: {error}") from error
    return detector


def restore_detector(packed: bytes) -> Detector:
    """The detector that `Detector.snapshot` packed, continuing identically.

    Raises:
        DetectorSnapshotError: damaged bytes, or another River version: restart it in warm-up.
    """
    try:
        return shiryaev_roberts.ShiryaevRoberts.restore(packed)
    except DetectorSnapshotError:
        return _RiverDetector.restore(packed)


def _checked(name: str, params: Mapping[str, object]) -> dict[str, Parameter]:
    defaults = default_params(name)
    for key, value in params.items():
        where = f"detector {name}, parameter {key!r}"
        if key not in defaults:
            names = ", ".join(sorted(defaults)) or "none"
            raise DetectorError(where, value, f"it has the parameters {names}")
        default = defaults[key]
        expected: tuple[type, ...] = (int, float)
        if isinstance(default, bool | str):
            expected = (type(default),)
        elif isinstance(default, int) and not isinstance(value, int):
            expected = (int,)
        nothing = default is None and value is None
        flag = isinstance(value, bool) and bool not in expected
        if not nothing and (flag or not isinstance(value, expected)):
            kinds = " or ".join(kind.__name__ for kind in expected)
            raise DetectorError(where, value, f"give a {kinds}, as {default!r}")
        # An int where a float is meant would make other snapshot bytes for the same detector.
        parameter = cast("Parameter", value)
        defaults[key] = float(parameter or 0.0) if isinstance(default, float) else parameter
    return defaults


def _made(name: str, params: dict[str, Parameter], make: Callable[..., _T]) -> _T:
    try:
        return make(**params)
    except DetectorError as error:
        where = f"detector {name}, parameter {error.key!r}"
        raise DetectorError(where, params[error.key], error.fix) from error
    except (ValueError, ArithmeticError, TypeError) as error:
        raise DetectorError(f"detector {name}", params, f"River refuses it: {error}") from error


class _State(msgspec.Struct, frozen=True):
    name: str
    params: dict[str, bool | int | float | str | None]
    fields: dict[str, object]


_decoder = msgspec.msgpack.Decoder(_State)


class _RiverDetector:
    """One River detector behind the contract."""

    def __init__(self, name: str, params: dict[str, Parameter], inner: _River) -> None:
        self.name = name
        self.params = params
        self._inner = inner
        self._take = inner.update
        self._flip = name == "FHDDM"

    @property
    def drift_detected(self) -> bool:
        return bool(self._inner.drift_detected)

    @property
    def warning_detected(self) -> bool:
        return bool(getattr(self._inner, "warning_detected", False))

    @property
    def width(self) -> int | None:
        width = getattr(self._inner, "width", None)
        return None if width is None else int(width)

    def prime(self, losses: Sequence[float]) -> None:
        for loss in losses:
            self.update(loss)

    def update(self, loss: float) -> bool:
        self._take(1.0 - loss if self._flip else loss)
        return bool(self._inner.drift_detected)

    def snapshot(self) -> bytes:
        fields = {key: pack_field(value) for key, value in fields_of(self._inner).items()}
        return seal(_KIND, _VERSION, {"name": self.name, "params": self.params, "fields": fields})

    @classmethod
    def restore(cls, packed: bytes) -> "_RiverDetector":
        try:
            state = _decoder.decode(unseal(packed, _KIND, _VERSION))
            params = _checked(state.name, state.params)
            inner = _made(state.name, params, _RIVER[state.name])
            fill(inner, state.fields)
        except (DetectorError, msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            raise DetectorSnapshotError(f"snapshot of a River detector: {error}") from error
        return cls(state.name, params, inner)
