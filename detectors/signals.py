"""What a monitor says: one value, whatever the monitor.

Positions (``at``, ``change_point``) are event sequence numbers, given by the caller.
"""

import enum
from dataclasses import dataclass


class SignalKind(enum.Enum):
    """What moved."""

    ERROR = "error"
    CONFIDENCE = "confidence"
    FEATURES = "features"
    NEW_CLASS = "new_class"
    NEW_TASK = "new_task"
    ANNOUNCED = "announced"
    FORCED = "forced"


@dataclass(frozen=True, slots=True)
class Signal:
    """One alarm, announcement or command.

    Attributes:
        kind: What moved.
        detector: Name of the monitor or command that says so.
        at: Event at which it was raised.
        change_point: Estimate of the first event of the new regime; never after ``at``.
        statistic: The deciding number at ``at``.
        threshold: What ``statistic`` had to exceed.
        detail: One sentence for people.
    """

    kind: SignalKind
    detector: str
    at: int
    change_point: int
    statistic: float
    threshold: float
    detail: str
