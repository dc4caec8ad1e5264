"""Whether the labels look permuted (DESIGN section 5): asked before every move of a rollout."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.label_permutation import suspect
from deploy.rollout import Phase
from detectors.signals import SignalKind
from pipeline.core_state import RouteCore
from pipeline.turn import Turn

RENAMED_MARGIN = 0.15
"""Accuracy by which a candidate shows that its labels are no renaming of the champion's answers."""

INPUTS_MOVED_WITHIN = 100
"""Events around a change point within which a label-free signal says that the inputs moved."""


class _Question(NamedTuple):
    """Whose answers are compared with the labels, since when, and how good they were before."""

    version: int
    since: int
    reference_loss: float


def suspicion(turn: Turn, name: str) -> str | None:
    """Return why the labels look permuted, if they do."""
    asked = _question(turn, name)
    if asked is None:
        return None
    confusion = _confusion(turn, name, asked)
    if len(confusion) < 2:
        return None
    route = turn.route(name)
    moved = route.inputs_moved_at >= max(0, asked.since - INPUTS_MOVED_WITHIN)
    found = suspect(confusion, reference_accuracy=1.0 - asked.reference_loss, inputs_moved=moved)
    if not found.holds or _clearly_beaten(route, found.accuracy_permuted):
        return None
    return found.reason


def _question(turn: Turn, name: str) -> _Question | None:
    route = turn.route(name)
    rollout = route.rollout
    if turn.settings.model.task_type == "regression":
        return None
    if rollout is not None and rollout.kind == "announced":
        return None  # somebody has said that the rules change
    if rollout is not None and rollout.phase is not Phase.PROMOTING:
        since = route.rollout_change_point
        if route.waiting is not None and route.waiting.kind is SignalKind.ERROR:
            # The losses rose once more on the way here: what the labels say since then counts.
            since = max(since, route.waiting.change_point)
        reference = turn.state.monitors[name].reference_loss
        return None if reference is None else _Question(route.champion, since, reference)
    losses = turn.version(route.champion).losses
    if route.probation is None or not losses:
        return None
    return _Question(route.champion, route.probation_from, float(np.mean(losses)))


def _confusion(turn: Turn, name: str, asked: _Question) -> NDArray[np.int64]:
    """Return how often an answer (row) met a label (column), over the classes in play.

    Thousands of classes that some broken producer once named would cost gigabytes.
    """
    seen = [
        (int(e.answer), int(e.label))
        for e in turn.state.buffers[name].since(asked.since)
        if e.version == asked.version and e.answer == e.answer
    ]
    known = (turn.class_number(c) for c in turn.model(asked.version).class_names)
    rank = {c: i for i, c in enumerate(sorted({*known, *(c for pair in seen for c in pair)}))}
    confusion = np.zeros((len(rank), len(rank)), np.int64)
    for answer, label in seen:
        confusion[rank[answer], rank[label]] += 1
    return confusion


def _clearly_beaten(route: RouteCore, renamed: float) -> bool:
    """Whether the candidate is far better than the renamed champion.

    Then a renaming is not what happened: a champion near chance fits many renamings as well.
    """
    # A recalled version's own losses are of another time; those on this holdout count.
    if route.rollout is None or route.rollout_holdout is None:
        return False
    return 1.0 - route.rollout_holdout > renamed + RENAMED_MARGIN
