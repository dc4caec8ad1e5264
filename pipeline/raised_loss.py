"""A loss that an alarm found raised stays a question while the same champion serves.

Detectors take what follows their alarm for normal, and an episode may judge too early: on labels of
two worlds, or on too few. So whatever came of it, the champion's losses after it are held to the
champion's own reference again. The wait doubles from look to look, and between two looks at most
``RETRIES`` episodes follow refused candidates: a loss that nothing can lower opens at most
``(1 + RETRIES) * (1 + log2(1 + labels / least))`` episodes per alarm (ADR 18).
"""

from detectors.change_point import rise_start
from detectors.error_monitor import REFERENCE_LEAST, loss_still_raised
from detectors.signals import Signal, SignalKind
from pipeline.core_state import RaisedLoss
from pipeline.label_values import loss_of
from pipeline.settings import Settings
from pipeline.turn import Turn

RETRIES = 2
"""Episodes after a refused candidate that wait for the cool-down alone."""


def alarmed(turn: Turn, name: str, signal: Signal) -> None:
    """Take an alarm about the losses: what was asked before is part of it."""
    turn.route(name).raised = RaisedLoss(signal.detector, signal.change_point)


def judged(turn: Turn, name: str, loss: float) -> None:
    """Take the champion's loss on a labelled event."""
    raised = turn.route(name).raised
    if raised is not None:
        raised.labels += 1
        raised.loss += loss


def put_off(raised: RaisedLoss | None, since: int = 0) -> None:
    """Count labels anew, from the end of an episode or rollout that left the champion in force.

    Args:
        raised: The question, if there is one.
        since: Position of the first event that may teach a candidate; an earlier one changes
            nothing.
    """
    if raised is not None:
        raised.change_point = max(raised.change_point, since)
        raised.labels, raised.loss = 0, 0.0


def may_retry(raised: RaisedLoss | None) -> bool:
    """Return whether another episode may follow at once where one led to nothing; it counts."""
    if raised is None:
        return True
    raised.retries += 1
    return raised.retries <= RETRIES


def labels_to_look(settings: Settings, raised: RaisedLoss) -> int:
    """Return how many labels of the champion's the next look needs.

    The first needs so many that the next bake-off chooses and gates on labels that the last one
    never saw.
    """
    least: int = max(
        settings.trigger.cool_down_labels, settings.episode.query + settings.episode.holdout
    )
    return least << raised.looks


def look(turn: Turn, name: str) -> Signal | None:
    """Return a signal when enough labels came and the champion loses more on them than it should.

    Every look doubles the labels that the next one needs, whatever it found.
    """
    raised, monitors = turn.route(name).raised, turn.state.monitors[name]
    if raised is None or raised.labels < labels_to_look(turn.settings, raised):
        return None
    n, mean, reference = raised.labels, raised.loss / raised.labels, monitors.reference_loss
    raised.looks, raised.retries = raised.looks + 1, 0
    put_off(raised)
    if reference is None:
        return None
    found = f"{mean:.3f} over {n} labels where {reference:.3f} is usual"
    if not loss_still_raised(reference, [mean], monitors.least_effect):
        turn.decide(
            "signal-reconsidered",
            name,
            f"the loss is {found} (look {raised.looks} since the alarm): no longer true",
            verdict="RecordOnly",
            look=raised.looks,
        )
        return None
    return Signal(
        kind=SignalKind.ERROR,
        detector=raised.detector,
        at=turn.state.window.next,
        change_point=_change_point(turn, name, raised.change_point, reference),
        statistic=mean - reference,
        threshold=monitors.least_effect,
        detail=f"the loss is still {found} (look {raised.looks} since the alarm)",
    )


def _change_point(turn: Turn, name: str, since: int, reference: float) -> int:
    """Return where the rise began, by all labels that came since: at the alarm they were few."""
    number, scale = turn.route(name).champion, turn.champion(name).loss_scale
    answered = [e for e in turn.state.buffers[name].since(since) if e.version == number]
    answered.sort(key=lambda e: e.position)
    losses = [loss_of(turn, scale, e.answer, e.label) for e in answered]
    primed = max(len(turn.version(number).losses), REFERENCE_LEAST)
    start = rise_start(losses, reference * primed, primed)
    return since if start is None else answered[start].position
