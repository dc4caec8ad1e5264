"""Thousands of canaries at once: the judge's formulas and rules on arrays, one look per event.

The numbers are those of ``deploy.verdict.judge`` and ``deploy.rollout.advance``;
tests/deploy/test_canary_simulation.py holds the two to each other, canary by canary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.rollout import CanaryPlan
from deploy.sample_ratio import ODDS_RATIOS
from deploy.sequential import BETS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PASS, FAIL, UNDECIDED = 1, -1, 0
_STAKES = np.array(BETS)
_ODDS = np.array(ODDS_RATIOS)
_NORM = 1.0 - np.arange(101)[:, None] / 100.0 + np.arange(101)[:, None] / 100.0 * _ODDS
_RATIOS = np.stack([-np.log(_NORM), np.log(_ODDS) - np.log(_NORM)], axis=1)
"""By weight, whether the candidate answered, and odds ratio."""


def always(error: float) -> Callable[[int], float]:
    """Return an error rate that stays."""
    return lambda _: error


@dataclass(frozen=True, slots=True)
class World:
    """What happens to a canary.

    Attributes:
        stable: Error rate of the stable version by the event's number.
        candidate: The same of the candidate; both err independently.
        delay: Events until an event's label comes.
        arrival: Chance that the label comes at all, by (arm, wrong): ``[stable, candidate]`` x
            ``[right, wrong]``.
        turns: The router takes turns in the step's proportion; else it draws.
    """

    stable: Callable[[int], float]
    candidate: Callable[[int], float]
    delay: int = 0
    arrival: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 1.0), (1.0, 1.0))
    turns: bool = False


@dataclass(frozen=True, slots=True)
class Events:
    """One event of every canary: arrays ``(canaries,)``.

    Attributes:
        by_candidate: Who answers.
        stable: Loss of the stable version, 0 or 1.
        candidate: Loss of the candidate.
        labelled: Whether a label will come.
    """

    by_candidate: Bools
    stable: Floats
    candidate: Floats
    labelled: Bools


@dataclass(frozen=True, slots=True)
class Ends:
    """How the canaries ended: arrays ``(canaries,)``.

    Attributes:
        verdict: ``PASS``, ``FAIL`` or ``UNDECIDED``.
        labels: Labels seen by then.
        step: Step at the end, from 0.
        skewed: Whether a count was found skewed at the end.
    """

    verdict: Ints
    labels: Ints
    step: Ints
    skewed: Bools


def draw(rng: np.random.Generator, canaries: int) -> Floats:
    """Return the chances behind one event of every canary ``(4, canaries)``."""
    return rng.random((4, canaries))


def happen(world: World, number: int, chances: Floats, weight_pct: Ints) -> Events:
    """Return event ``number`` under each canary's weight."""
    if world.turns:
        by_candidate = (number + 1) * weight_pct // 100 > number * weight_pct // 100
    else:
        by_candidate = chances[0] < weight_pct / 100.0
    stable = (chances[1] < world.stable(number)).astype(np.float64)
    candidate = (chances[2] < world.candidate(number)).astype(np.float64)
    served = np.where(by_candidate, candidate, stable).astype(np.int64)
    arrival = np.array(world.arrival)[by_candidate.astype(np.int64), served]
    return Events(by_candidate, stable, candidate, chances[3] < arrival)


class Judges:
    """The state of every canary that is still open, and the moves it makes."""

    def __init__(self, plan: CanaryPlan, canaries: int) -> None:
        self.plan = plan
        self.ids = np.arange(canaries)
        self.step = np.zeros(canaries, np.int64)
        self.labels = np.zeros(canaries, np.int64)
        self.step_labels = np.zeros(canaries, np.int64)
        self.wealth = np.zeros((canaries, 3, len(BETS)))
        self.assigned = np.zeros((canaries, len(ODDS_RATIOS)))
        self.labelled = np.zeros((canaries, len(ODDS_RATIOS)))
        self.answers = np.zeros((canaries, 2), np.int64)  # events by arm
        self.n = np.zeros((canaries, 2), np.int64)  # labels by arm
        self.loss = np.zeros((canaries, 2))  # losses by arm
        self._margins = np.array([plan.least_gain, plan.acceptable_harm, -plan.acceptable_harm])
        pairs = np.array([[d, -d, d] for d in (-1.0, 0.0, 1.0)]) - self._margins
        self._of_pair = np.log1p(_STAKES * (pairs / (1.0 + self._margins))[:, :, None])

    @property
    def weights(self) -> Ints:
        """Weight in force, percent."""
        return np.array(self.plan.weights)[self.step]

    def assign(self, events: Events, weight_pct: Ints) -> None:
        """Count events by arm."""
        arm = events.by_candidate.astype(np.int64)
        self.answers[np.arange(len(arm)), arm] += 1
        self.assigned += _ratio(weight_pct, events.by_candidate)

    def learn(self, events: Events, weight_pct: Ints) -> None:
        """Take the labels of events that were answered under these weights, where they came."""
        came = np.flatnonzero(events.labelled)
        by_candidate, p = events.by_candidate[came], weight_pct[came] / 100.0
        served = np.where(by_candidate, events.candidate[came], events.stable[came])
        if self.plan.evidence == "paired":
            d = events.stable[came] - events.candidate[came]
            factors = self._of_pair[d.astype(np.int64) + 1]
        else:
            factors = self._of_answer(came, p, by_candidate, served)
        if len(came) == len(self.ids):
            self.wealth += factors
        else:
            self.wealth[came] += factors
        self.labelled[came] += _ratio(weight_pct[came], by_candidate)
        arm = by_candidate.astype(np.int64)
        self.n[came, arm] += 1
        self.loss[came, arm] += served
        self.labels[came] += 1
        self.step_labels[came] += 1

    def _of_answer(self, came: Ints, p: Floats, by_candidate: Bools, served: Floats) -> Floats:
        centre = self._centre(came, p)
        d = (served - centre) * np.where(by_candidate, -1.0 / p, 1.0 / (1.0 - p))
        lowest = np.maximum((1.0 - centre) / p, centre / (1.0 - p))
        highest = np.maximum((1.0 - centre) / (1.0 - p), centre / p)
        x = np.stack([d, -d, d], axis=1) - self._margins
        room = np.stack([lowest, highest, lowest], axis=1) + self._margins
        return np.asarray(np.log1p(_STAKES * (x / room)[:, :, None]))

    def _centre(self, came: Ints, p: Floats) -> Floats:
        means = (self.loss[came] + 0.5) / (self.n[came] + 1)
        return np.asarray((1.0 - p) * means[:, 0] + p * means[:, 1])

    def look(self) -> tuple[Ints, Bools]:
        """Take the steps that are due; return each canary's verdict, and which have ended."""
        plan = self.plan
        skewed = self.skewed()
        sound = ~skewed & (self.labels > 0)
        failed = sound & _rejects(self.wealth[:, 1], plan.fail_risk)
        ready = sound & self._per_arm()
        ready &= self.step_labels >= max(plan.least_labels, plan.dwell_labels)
        passed = ready & _rejects(self.wealth[:, 0], plan.risk)
        last = self.step + 1 == len(plan.weights)
        promoted = ~failed & passed & (last | plan.promote_on_pass)
        safe = ready & _rejects(self.wealth[:, 2], plan.step_risk)
        stepping = ~failed & ~promoted & ~last & (passed | safe)
        self.step += stepping
        self.step_labels[stepping] = 0
        late = np.zeros(len(self.step), bool)
        if plan.longest_wait_labels is not None:
            late = ~failed & ~promoted & ~stepping & (self.labels >= plan.longest_wait_labels)
        verdict = np.where(failed, FAIL, np.where(promoted, PASS, UNDECIDED))
        return verdict, failed | promoted | late

    def skewed(self) -> Bools:
        """Whether assignment or label arrival is skewed."""
        risk = self.plan.skew_risk
        return _rejects(self.assigned, risk) | _rejects(self.labelled, risk)

    def _per_arm(self) -> Bools:
        covered = self.n >= self.plan.least_label_coverage * self.answers
        enough = self.plan.evidence == "paired" or self.n >= self.plan.least_labels_per_arm
        return np.asarray((enough & covered).all(axis=1))

    def keep(self, which: Bools) -> None:
        """Forget the canaries that are not kept."""
        for name in ("ids", "step", "labels", "step_labels", "wealth"):
            setattr(self, name, getattr(self, name)[which])
        for name in ("assigned", "labelled", "answers", "n", "loss"):
            setattr(self, name, getattr(self, name)[which])


def simulate(world: World, plan: CanaryPlan, canaries: int, seed: int, most: int) -> Ends:
    """Run canaries until each has ended or ``most`` events have come."""
    rng = np.random.default_rng(seed)
    judges = Judges(plan, canaries)
    ends = Ends(
        np.zeros(canaries, np.int64),
        np.zeros(canaries, np.int64),
        np.zeros(canaries, np.int64),
        np.zeros(canaries, bool),
    )
    waiting: list[tuple[Ints, Events, Ints]] = []  # who was open then, what happened, their weights
    for number in range(most):
        if not len(judges.ids):
            break
        weights = judges.weights
        chances = draw(rng, canaries)[:, judges.ids]
        events = happen(world, number, chances, weights)
        judges.assign(events, weights)
        waiting.append((judges.ids, events, weights))
        if len(waiting) > world.delay:
            judges.learn(*_still_open(judges.ids, *waiting.pop(0)))
        verdict, ended = judges.look()
        if ended.any() or number + 1 == most:
            over = ended if number + 1 < most else np.ones(len(ended), bool)
            ids, skewed = judges.ids[over], judges.skewed()
            ends.verdict[ids], ends.labels[ids] = verdict[over], judges.labels[over]
            ends.step[ids], ends.skewed[ids] = judges.step[over], skewed[over]
            judges.keep(~over)
    return ends


def _still_open(ids: Ints, then: Ints, events: Events, weights: Ints) -> tuple[Events, Ints]:
    if len(ids) == len(then):
        return events, weights
    at = np.searchsorted(then, ids)
    parts = (events.by_candidate, events.stable, events.candidate, events.labelled)
    return Events(*(part[at] for part in parts)), weights[at]


def _ratio(weight_pct: Ints, by_candidate: Bools) -> Floats:
    """Return what an event adds to the logarithms of ``deploy.sample_ratio``."""
    return np.asarray(_RATIOS[weight_pct, by_candidate.astype(np.int64)])


def _rejects(logs: Floats, risk: float) -> Bools:
    """Whether the mean over the last axis of exp(logs) is at least 1 / risk."""
    least = -math.log(risk)
    found = np.asarray(logs.max(axis=1) >= least)  # a mean is at most the maximum
    close = np.flatnonzero(found)
    if len(close):
        top = logs[close].max(axis=1)
        mean = np.exp(logs[close] - top[:, None]).mean(axis=1)
        found[close] = top + np.log(mean) >= least
    return found
