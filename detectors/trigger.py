"""Whether a signal may start an episode: a pure policy.

``consider(settings, signal, facts, state)`` answers ``Start``, ``Hold`` (ask again later) or
``RecordOnly`` (never), and the state to keep; only a Start of a monitor's signal spends a token.

Asked in this order: is the kind allowed to act, is it still true, does an episode or rollout run,
warm-up, cool-down, labels after the change point, budget. ``ANNOUNCED`` and ``FORCED`` signals are
somebody's word: they wait for a running episode and for nothing else, and spend nothing.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from detectors.detector_errors import DetectorError
from detectors.signals import Signal, SignalKind

_DAY_S = 86_400.0
# A token refilled by adding fractions of a day may fall short of 1 by rounding.
_WHOLE_TOKEN = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class TriggerSettings:
    """When a monitor's signal may start an episode.

    Attributes:
        error: Whether a risen loss may start an episode.
        confidence: Whether a confidence signal may; refused for regression by ``check``.
        features: Whether a features signal may.
        new_task: Whether an unseen task name may.
        warm_up_labels: Labels the champion must have been judged by since it started.
        cool_down_labels: Labels since the last episode ended.
        cool_down_s: Seconds of engine time since the last episode ended; both must be over.
        least_labels: Labels from after the change point.
        actions_per_day: Episodes that monitors may start a day: a bucket that starts full, holds
            this many and refills evenly.
    """

    error: bool = True
    confidence: bool = True
    features: bool = True
    new_task: bool = True
    warm_up_labels: int = 0
    cool_down_labels: int = 50
    cool_down_s: float = 0.0
    least_labels: int = 0
    actions_per_day: float = 24.0

    def __post_init__(self) -> None:
        for name in ("warm_up_labels", "cool_down_labels", "least_labels"):
            value: int = getattr(self, name)
            if value < 0:
                raise DetectorError(f"trigger.{name}", value, "give a number of labels, 0 or more")
        if not (math.isfinite(self.cool_down_s) and self.cool_down_s >= 0.0):
            raise DetectorError("trigger.cool_down_s", self.cool_down_s, "give seconds, 0 or more")
        if not (math.isfinite(self.actions_per_day) and self.actions_per_day >= 1.0):
            fix = "give 1 or more; to start no episode turn the kinds of signal off"
            raise DetectorError("trigger.actions_per_day", self.actions_per_day, fix)


@dataclass(frozen=True, slots=True)
class TriggerFacts:
    """What is true when a signal is considered.

    Attributes:
        now_s: Engine time, in seconds.
        labels_since_champion: First labels joined since the champion started to serve; its holdout
            does not count.
        labels_after_change: Labels of events at or after the signal's change point.
        labels_since_episode: Labels since the last episode or rollout ended; None before the first.
        episode_ended_at_s: Engine time of that end; None before the first.
        busy: Whether an episode or a rollout runs (probation is none).
        still_true: Whether the signal holds; see `detectors.error_monitor.loss_still_raised`.
    """

    now_s: float
    labels_since_champion: int
    labels_after_change: int
    labels_since_episode: int | None = None
    episode_ended_at_s: float | None = None
    busy: bool = False
    still_true: bool = True


@dataclass(frozen=True, slots=True)
class TriggerState:
    """The budget: ``tokens`` at engine time ``at_s``."""

    tokens: float
    at_s: float


@dataclass(frozen=True, slots=True)
class Start:
    """Start an episode now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Ask again later.

    Attributes:
        reason: For people.
        labels_missing: Labels that must still come, 0 where labels do not matter.
        until_s: Engine time before which asking is useless, or None.
    """

    reason: str
    labels_missing: int = 0
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class RecordOnly:
    """Write the signal down; it starts nothing."""

    reason: str


Decision: TypeAlias = Start | Hold | RecordOnly


def full_budget(settings: TriggerSettings, now_s: float) -> TriggerState:
    """The state before the first signal."""
    return TriggerState(settings.actions_per_day, now_s)


def budget_left(settings: TriggerSettings, state: TriggerState, now_s: float) -> float:
    """Tokens at ``now_s``.

    >>> settings = TriggerSettings(actions_per_day=4)
    >>> budget_left(settings, TriggerState(tokens=0.0, at_s=0.0), now_s=43_200.0)
    2.0
    """
    gained = max(now_s - state.at_s, 0.0) * settings.actions_per_day / _DAY_S
    return min(state.tokens + gained, settings.actions_per_day)


def consider(
    settings: TriggerSettings, signal: Signal, facts: TriggerFacts, state: TriggerState
) -> tuple[Decision, TriggerState]:
    """Decide about one signal; a held one is considered again with new facts."""
    refused = _refused(settings, signal.kind) or ("" if facts.still_true else "no longer true")
    if refused:
        return RecordOnly(refused), state
    if facts.busy:
        return Hold("an episode or a rollout is running"), state
    if signal.kind in (SignalKind.ANNOUNCED, SignalKind.FORCED):
        return Start(signal.kind.value), state
    held = _waiting(settings, facts)
    if held:
        return held, state
    tokens = budget_left(settings, state, facts.now_s)
    if tokens < _WHOLE_TOKEN:
        until_s = facts.now_s + (1.0 - tokens) * _DAY_S / settings.actions_per_day
        return Hold(f"budget of {settings.actions_per_day:g} a day is spent", 0, until_s), state
    spent = TriggerState(max(tokens - 1.0, 0.0), max(facts.now_s, state.at_s))
    return Start(f"{signal.kind.value} signal of {signal.detector}"), spent


def _refused(settings: TriggerSettings, kind: SignalKind) -> str:
    match kind:
        case SignalKind.ERROR:
            allowed = settings.error
        case SignalKind.CONFIDENCE:
            allowed = settings.confidence
        case SignalKind.FEATURES:
            allowed = settings.features
        case SignalKind.NEW_TASK:
            allowed = settings.new_task
        case SignalKind.NEW_CLASS | SignalKind.ANNOUNCED | SignalKind.FORCED:
            allowed = True
        case _:
            assert_never(kind)
    return "" if allowed else f"trigger.{kind.value} is off"


def _waiting(settings: TriggerSettings, facts: TriggerFacts) -> Hold | None:
    missing = settings.warm_up_labels - facts.labels_since_champion
    if missing > 0:
        return Hold("warm-up of the champion", missing)
    labels = 0
    if facts.labels_since_episode is not None:
        labels = max(settings.cool_down_labels - facts.labels_since_episode, 0)
    until_s = None
    if facts.episode_ended_at_s is not None:
        end_s = facts.episode_ended_at_s + settings.cool_down_s
        until_s = end_s if facts.now_s < end_s else None
    if labels or until_s is not None:
        return Hold("cool-down after the last episode", labels, until_s)
    missing = settings.least_labels - facts.labels_after_change
    if missing > 0:
        return Hold("too few labels since the change point", missing)
    return None
