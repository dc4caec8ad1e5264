"""What becomes of a signal: recorded always, acted on by the trigger policy."""

from collections.abc import Iterable, Sequence

from detectors.error_monitor import loss_still_raised
from detectors.signals import Signal, SignalKind
from detectors.trigger import (
    Hold,
    RecordOnly,
    Start,
    TriggerFacts,
    TriggerSettings,
    consider,
    full_budget,
)
from pipeline.episodes import open_episode, recut
from pipeline.label_values import loss_of
from pipeline.new_class_episode import new_classes_due
from pipeline.raised_loss import alarmed, look
from pipeline.settings import Settings
from pipeline.turn import Turn

RECENT = 50
"""Labels that say whether a signal is still true; older ones may be of a world that has passed."""

LABEL_FREE = (SignalKind.CONFIDENCE, SignalKind.FEATURES)


def policy(settings: Settings) -> TriggerSettings:
    """Return the trigger policy's settings."""
    t = settings.trigger
    return TriggerSettings(
        confidence=settings.detect.confidence,
        features=settings.detect.features,
        warm_up_labels=t.warm_up_labels,
        cool_down_labels=t.cool_down_labels,
        cool_down_s=t.cool_down_s,
        least_labels=t.least_labels,
        actions_per_day=t.actions_per_day,
    )


def raise_signals(turn: Turn, name: str, signals: Iterable[Signal]) -> None:
    """Record signals and let each one act, wait, or stay a record."""
    for signal in signals:
        route = turn.route(name)
        if signal.kind in LABEL_FREE:
            route.inputs_moved_at = signal.change_point
        if signal.kind is SignalKind.ERROR:
            alarmed(turn, name, signal)
        verdict = _consider(turn, name, signal)
        turn.core.count(f"signals_{signal.kind.value}")
        turn.decide(
            "signal",
            name,
            f"{signal.kind.value} ({signal.detector}): {signal.detail}; {verdict.reason}",
            signal=signal_facts(signal),
            verdict=type(verdict).__name__,
        )
        _act(turn, name, signal, verdict)


def reconsider(turn: Turn, name: str) -> None:
    """Look again at signals that could not act when they came; a new class goes first.

    Then at the champion's losses, where an alarm about them is unanswered.
    """
    route = turn.route(name)
    if route.episode is not None or route.rollout is not None:
        return
    signal = next(iter(new_classes_due(turn, name).values()), None) or route.waiting
    if signal is None:
        signal = route.waiting = look(turn, name)
    if signal is None:
        return
    verdict = _consider(turn, name, signal)
    if isinstance(verdict, Hold):
        return
    if signal is route.waiting:
        route.waiting = None
    turn.decide(
        "signal-reconsidered",
        name,
        f"the signal of position {signal.at}: {signal.detail}; {verdict.reason}",
        signal=signal_facts(signal),
        verdict=type(verdict).__name__,
    )
    _act(turn, name, signal, verdict)


def _act(turn: Turn, name: str, signal: Signal, verdict: Start | Hold | RecordOnly) -> None:
    route = turn.route(name)
    held = isinstance(verdict, Hold)
    if held and signal.kind is SignalKind.ERROR and recut(turn, name, signal):
        return
    match verdict:
        case Start():
            new = signal.kind is SignalKind.NEW_CLASS
            open_episode(turn, name, "new_class" if new else "drift", signal)
        case Hold() if signal.kind is SignalKind.NEW_CLASS:
            pass  # the monitor remembers the class: see new_classes_due
        case Hold():
            if route.waiting is None or signal.kind is SignalKind.ERROR:
                route.waiting = signal
        case RecordOnly():
            pass


def _consider(turn: Turn, name: str, signal: Signal) -> Start | Hold | RecordOnly:
    route, core = turn.route(name), turn.core
    examples = turn.state.buffers[name].since(signal.change_point)
    facts = TriggerFacts(
        now_s=turn.now_s,
        labels_since_champion=core.labels - route.champion_since_label,
        labels_after_change=len(examples),
        labels_since_episode=None if route.action_label < 0 else core.labels - route.action_label,
        episode_ended_at_s=None if route.action_label < 0 else route.action_ms / 1000,
        busy=route.episode is not None or route.rollout is not None,
        still_true=_still_true(turn, name, signal),
    )
    settings = policy(turn.settings)
    budget = route.trigger or full_budget(settings, turn.now_s)
    if signal.kind is SignalKind.NEW_CLASS and signal not in new_classes_due(turn, name).values():
        return Hold("too few labels of the class")
    verdict, route.trigger = consider(settings, signal, facts, budget)
    return verdict


def _still_true(turn: Turn, name: str, signal: Signal) -> bool:
    """Whether the serving model's loss since the change point is still raised.

    A label-free signal is not about the loss: it holds until an episode has looked into it.
    """
    if signal.kind is not SignalKind.ERROR:
        return True
    monitors = turn.state.monitors[name]
    reference = monitors.reference_loss
    if reference is None:
        return True
    losses = champion_losses(turn, name, signal.change_point)
    return loss_still_raised(reference, losses[-RECENT:], monitors.least_effect)


def champion_losses(turn: Turn, name: str, position: int) -> Sequence[float]:
    """Return the serving champion's losses on labelled events at ``position`` and later."""
    champion, number = turn.champion(name), turn.route(name).champion
    return [
        loss_of(turn, champion.loss_scale, e.answer, e.label)
        for e in turn.state.buffers[name].since(position)
        if e.version == number
    ]


def signal_facts(signal: Signal) -> dict[str, object]:
    """Return a signal as JSON-able facts."""
    return {
        "kind": signal.kind.value,
        "detector": signal.detector,
        "at": signal.at,
        "change_point": signal.change_point,
        "statistic": signal.statistic,
        "threshold": signal.threshold,
        "detail": signal.detail,
    }
