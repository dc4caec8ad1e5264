"""Labels in: joined to what was answered then, and handed to everything that learns from them."""

import numpy as np

from adapters.feature_schema import FeatureError
from deploy.rollout import Arm, Rollout, observe_answer, observe_pair
from pipeline.codec import Decoded, dead_letter
from pipeline.core_state import ONE_ROUTE
from pipeline.example_buffer import Example
from pipeline.join_window import (
    ANOTHER,
    CANDIDATE,
    FORMER,
    NO_MODEL,
    STABLE,
    UNSETTLED,
    Joined,
)
from pipeline.label_values import LabelError, label_value, loss_of
from pipeline.messages import Event, Label
from pipeline.raised_loss import judged
from pipeline.records import Chunk
from pipeline.routed_answers import in_pairs
from pipeline.routing import (
    announced_task,
    correct_example,
    judge_route,
    take_example,
)
from pipeline.signals import raise_signals
from pipeline.turn import Turn


def join_labels(turn: Turn, decoded: Decoded[Label], chunks: tuple[Chunk, ...]) -> None:
    """Join a poll's labels; what cannot be used is dead-lettered."""
    dead = turn.outcome.dead_letters
    for label, (chunk, at) in zip(decoded.messages, decoded.origins, strict=True):
        try:
            _take(turn, label)
        except LabelError as error:
            dead.append(dead_letter(chunks[chunk], at, "bad-label", str(error)))
        except FeatureError as error:
            dead.append(dead_letter(chunks[chunk], at, "features", str(error)))


def join_waiting(
    turn: Turn, decoded: Decoded[Event], labelled: list[int], chunks: tuple[Chunk, ...]
) -> None:
    """Join labels that came inside their event or before it."""
    for i in labelled:
        event, (chunk, at) = decoded.messages[i], decoded.origins[i]
        early = turn.state.window.take_early(event.id)
        if early is not None:
            _arrive(turn, event.id, early)
        if event.label is None:
            continue
        try:
            _arrive(turn, event.id, label_value(turn, event.label))
        except LabelError as error:
            message = dead_letter(chunks[chunk], at, "bad-label", str(error))
            turn.outcome.dead_letters.append(message)


def _take(turn: Turn, label: Label) -> None:
    value = label_value(turn, label.label)
    window = turn.state.window
    if window.position_of(label.id) is not None:
        _arrive(turn, label.id, value)
    elif label.features is not None:
        _own_features(turn, label, value)
    elif turn.state.buffers[ONE_ROUTE].find(label.id) is not None:
        _correct(turn, label.id, value)
    else:
        _hold_early(turn, label.id, value)


def _hold_early(turn: Turn, event_id: str, value: float) -> None:
    """Keep a label until its event comes; a different one takes its place, nothing is judged."""
    window = turn.state.window
    waiting = window.early.get(event_id)
    if waiting == value:
        turn.core.count("duplicate_labels")
        return
    turn.core.count("early_labels" if waiting is None else "corrected_labels")
    window.hold_early(event_id, value)


def _arrive(turn: Turn, event_id: str, value: float) -> None:
    window = turn.state.window
    position = window.position_of(event_id)
    if position is None:
        raise KeyError(event_id)
    if window.label_at(position) is None:
        _first_label(turn, window.join(position, value))
    else:
        _correct(turn, event_id, value)


def _correct(turn: Turn, event_id: str, value: float) -> None:
    """Count a repeated label; a different one replaces the first in the buffer, nothing more."""
    buffer = turn.state.buffers[ONE_ROUTE]
    known = buffer.find(event_id)
    if known is None:
        position = turn.state.window.position_of(event_id)
        first = None if position is None else turn.state.window.label_at(position)
    else:
        first = known.label
    if first == value:
        turn.core.count("duplicate_labels")
        return
    turn.core.count("corrected_labels")
    buffer.correct(event_id, value)
    if turn.core.routing is not None:
        correct_example(turn, _task_of(turn, event_id), event_id, value)


def _task_of(turn: Turn, event_id: str) -> str | None:
    position = turn.state.window.position_of(event_id)
    task = None if position is None else turn.state.window.task_at(position)
    return task or announced_task(turn, event_id)


def _own_features(turn: Turn, label: Label, value: float) -> None:
    """Take an example that was never an event into the buffer; it judges no arm."""
    buffer = turn.state.buffers[ONE_ROUTE]
    if buffer.find(label.id) is not None:
        _correct(turn, label.id, value)
        return
    rows = turn.champion(ONE_ROUTE).schema.parse(label.features or {})
    example = Example(
        number=turn.core.labels,
        position=turn.state.window.next,
        id=label.id,
        group=label.group,
        label=value,
        numbers=rows.numbers[0],
        categories=rows.categories[0] if rows.categories else (),
        version=NO_MODEL,
        answer=float("nan"),
        own_features=True,
    )
    buffer.add(example)
    take_example(turn, announced_task(turn, label.id), example)
    turn.core.labels += 1
    turn.core.count("labels_with_features")


def _first_label(turn: Turn, joined: Joined) -> None:
    core, route = turn.core, turn.route(ONE_ROUTE)
    rows, i = turn.state.window.row(joined.position)
    example = Example(
        number=core.labels,
        position=joined.position,
        id=joined.id,
        group=joined.group,
        label=joined.label,
        numbers=np.array(rows.numbers[i]),
        categories=rows.categories[i] if rows.categories else (),
        version=joined.versions[STABLE],
        answer=joined.answers[STABLE],
        own_features=False,
    )
    if not joined.serial:
        turn.state.buffers[ONE_ROUTE].add(example)
    core.labels += 1
    core.count("labels")
    scale = turn.champion(ONE_ROUTE).loss_scale
    losses = [loss_of(turn, scale, answer, joined.label) for answer in joined.answers]
    if joined.serial:
        own = loss_of(turn, scale, joined.own, joined.label)
        core.count("served_labelled")
        core.served_loss += own
        judge_route(turn, joined, own, losses[STABLE])
    if core.routing is not None:
        take_example(turn, joined.task or announced_task(turn, joined.id), example)
    if joined.serial:
        return  # the fall-back is watched where it serves
    if joined.served != ANOTHER:
        core.count("served_labelled")
        core.served_loss += losses[joined.served]
    if joined.served == CANDIDATE and losses[CANDIDATE] > 0.5:
        core.count("wrong_by_candidates")
    _judge_arms(turn, joined, losses)
    monitors = turn.state.monitors[ONE_ROUTE]
    if joined.versions[STABLE] == route.champion:
        judged(turn, ONE_ROUTE, losses[STABLE])
        raise_signals(turn, ONE_ROUTE, monitors.judged(losses[STABLE], joined.position))
    if turn.settings.model.task_type == "classification":
        name = core.classes[int(joined.label)]
        raise_signals(turn, ONE_ROUTE, monitors.saw_class(name, joined.position))


def _judge_arms(turn: Turn, joined: Joined, losses: list[float]) -> None:
    """Give the losses to the rollout and to the probation."""
    route = turn.route(ONE_ROUTE)
    candidate, before = turn.rollout_arm(ONE_ROUTE), route.before
    rollout, probation = route.rollout, route.probation
    if rollout is not None and candidate is not None and joined.position >= route.rollout_from:
        arms = (STABLE, route.champion), (CANDIDATE, candidate)
        route.rollout = _learn(rollout, joined, losses, arms, _class_of(turn, joined))
    if probation is not None and before is not None and joined.position >= route.probation_from:
        arms = (FORMER, before.champion), (STABLE, route.champion)
        route.probation = _learn(probation, joined, losses, arms, _class_of(turn, joined))


Arms = tuple[tuple[int, int], tuple[int, int]]
"""Column and version number of the rollout's stable version and of its candidate."""


def _class_of(turn: Turn, joined: Joined) -> str:
    """Return the name of the label's class; empty for a regression."""
    if turn.settings.model.task_type == "regression":
        return ""
    return turn.core.classes[int(joined.label)]


def _learn(
    rollout: Rollout, joined: Joined, losses: list[float], arms: Arms, label: str
) -> Rollout:
    """Return the rollout after a label, if its arms answered: both, or with single answers one."""
    old, new = arms
    drawn = joined.weight_pct != UNSETTLED
    arm: Arm = "candidate" if drawn and joined.served == CANDIDATE else "stable"
    weight = joined.weight_pct if drawn and new[0] == CANDIDATE else 0
    if in_pairs(rollout):
        if any(joined.versions[column] != number for column, number in arms):
            return rollout
        return observe_pair(
            rollout, losses[old[0]], losses[new[0]], arm=arm, weight_pct=weight, label=label
        )
    column, number = new if joined.served == new[0] else old
    if not drawn or joined.served != column or joined.versions[column] != number:
        return rollout
    return observe_answer(rollout, losses[column], arm=arm, weight_pct=weight)
