"""Values in, signals out: drift detectors, monitors and the trigger policy.

No I/O and no clock. Names load on first use, so that importing the package imports no River.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectors.change_point import rise_start, shift_start
    from detectors.detector_errors import DetectorError, DetectorSnapshotError
    from detectors.error_monitor import ErrorMonitor, default_detector, loss_still_raised
    from detectors.label_free import LabelFreeMonitor, LabelFreeSettings
    from detectors.label_free_columns import Column, LabelFreeReference
    from detectors.novelty import NoveltyMonitor
    from detectors.river_catalog import (
        Detector,
        default_params,
        detector_names,
        make_detector,
        restore_detector,
    )
    from detectors.shiryaev_roberts import ShiryaevRoberts
    from detectors.signals import Signal, SignalKind
    from detectors.trigger import (
        Decision,
        Hold,
        RecordOnly,
        Start,
        TriggerFacts,
        TriggerSettings,
        TriggerState,
        budget_left,
        consider,
        full_budget,
    )

_HOMES = {
    "change_point": ("rise_start", "shift_start"),
    "detector_errors": ("DetectorError", "DetectorSnapshotError"),
    "error_monitor": ("ErrorMonitor", "default_detector", "loss_still_raised"),
    "label_free": ("LabelFreeMonitor", "LabelFreeSettings"),
    "label_free_columns": ("Column", "LabelFreeReference"),
    "novelty": ("NoveltyMonitor",),
    "river_catalog": (
        "Detector",
        "default_params",
        "detector_names",
        "make_detector",
        "restore_detector",
    ),
    "shiryaev_roberts": ("ShiryaevRoberts",),
    "signals": ("Signal", "SignalKind"),
    "trigger": (
        "Decision",
        "Hold",
        "RecordOnly",
        "Start",
        "TriggerFacts",
        "TriggerSettings",
        "TriggerState",
        "budget_left",
        "consider",
        "full_budget",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Column",
    "Decision",
    "Detector",
    "DetectorError",
    "DetectorSnapshotError",
    "ErrorMonitor",
    "Hold",
    "LabelFreeMonitor",
    "LabelFreeReference",
    "LabelFreeSettings",
    "NoveltyMonitor",
    "RecordOnly",
    "ShiryaevRoberts",
    "Signal",
    "SignalKind",
    "Start",
    "TriggerFacts",
    "TriggerSettings",
    "TriggerState",
    "budget_left",
    "consider",
    "default_detector",
    "default_params",
    "detector_names",
    "full_budget",
    "loss_still_raised",
    "make_detector",
    "restore_detector",
    "rise_start",
    "shift_start",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
