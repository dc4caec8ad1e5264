"""Answers that events bring along: whose they are, and with what chance the router chose them.

A service asks the router with one request an event. The answer names the version that gave it
(``meta.tags.model_version``), and the service sends it on as the event's ``prediction`` and
``model_version``. So the arm is read from the answer, never guessed from the weights.

The chance is known only while one split is in force: an answer counts for it when its record is
stamped at least ``rollout.settle_s`` after the split was seen. Others are left out by that rule,
which looks at no loss and so leaves the tests as they are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.rollout import Rollout, observe_assigned
from pipeline.core_state import ONE_ROUTE
from pipeline.join_window import ANOTHER, CANDIDATE, STABLE, UNSETTLED
from pipeline.messages import Event
from pipeline.turn import Turn

OURS = 254
"""The event brings no answer: it is scored here."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What n events bring along.

    Attributes:
        arms: Who answered, (n,) uint8: ``STABLE``, ``CANDIDATE``, ``ANOTHER`` version, or ``OURS``.
        weights: Percent with which the router sends events to the candidate, (n,) uint8;
            ``UNSETTLED`` where that is not known, 0 where nothing was drawn.
    """

    arms: NDArray[np.uint8]
    weights: NDArray[np.uint8]

    @property
    def ours(self) -> NDArray[np.bool_]:
        """Which events are scored here, (n,)."""
        ours: NDArray[np.bool_] = self.arms == OURS
        return ours


def in_pairs(rollout: Rollout | None) -> bool:
    """Whether every event is scored by both versions; else only by the one that answered it."""
    return rollout is None or rollout.plan.evidence == "paired"


def brought(turn: Turn, events: list[Event], times_ms: list[int]) -> Brought:
    """Return whose answers the events bring.

    An answer without a ``model_version`` stands for the champion's. So does one of a version that
    is none of ours, unless servers of ours stand beside the daemon: then it is of another one.
    """
    n = len(events)
    arms, weights = np.full(n, OURS, np.uint8), np.zeros(n, np.uint8)
    if all(event.prediction is None for event in events):
        return Brought(arms, weights)
    known = {version.name for version in turn.core.versions.values()}
    of = {turn.version(turn.route(ONE_ROUTE).champion).name: STABLE}
    candidate = turn.rollout_arm(ONE_ROUTE)
    if candidate is not None:
        of[turn.version(candidate).name] = CANDIDATE
    beside = turn.core.serving is not None
    for i, event in enumerate(events):
        if event.prediction is None:
            continue
        name = event.model_version
        if name is None or (name not in known and not beside):
            arms[i] = STABLE
            continue
        arms[i] = of.get(name, ANOTHER)
        weights[i] = _weight(turn, int(arms[i]), times_ms[i])
    another = int((arms == ANOTHER).sum())
    if another:
        turn.core.count("answered_by_another", another)
    return Brought(arms, weights)


def _weight(turn: Turn, arm: int, time_ms: int) -> int:
    route, traffic = turn.route(ONE_ROUTE), turn.state.traffic(ONE_ROUTE)
    if not traffic.candidate_weight:
        return 0 if arm == STABLE else UNSETTLED
    seen = route.split_since_ms
    same = route.split == (traffic.candidate, traffic.candidate_weight) and seen >= 0
    late_enough = time_ms >= seen + turn.settings.rollout.settle_s * 1000
    if arm == ANOTHER or turn.core.serving is None or not (same and late_enough):
        return UNSETTLED
    return traffic.candidate_weight


def note_split(turn: Turn, name: str) -> None:
    """Remember since when the router was seen to split as the state calls for now."""
    route, traffic, serving = turn.route(name), turn.state.traffic(name), turn.core.serving
    if serving is None or not turn.converge(name):
        route.split, route.split_since_ms = ("", 0), -1
        return
    split = (traffic.candidate or "", traffic.candidate_weight)
    if route.split_since_ms < 0 or route.split != split:
        route.split, route.split_since_ms = split, serving.at_ms or turn.core.time_ms


def count_routed(turn: Turn, answers: Brought) -> None:
    """Count the answers of known chance, for the tests of the share of each arm."""
    rollout = turn.route(ONE_ROUTE).rollout
    settled = ~answers.ours & (answers.weights > 0) & (answers.weights != UNSETTLED)
    if rollout is None or not settled.any():
        return
    turn.route(ONE_ROUTE).rollout = observe_assigned(
        rollout,
        events=int(settled.sum()),
        by_candidate=int((answers.arms[settled] == CANDIDATE).sum()),
        weight_pct=int(answers.weights[settled][0]),
    )
