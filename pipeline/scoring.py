"""Events in, answers out: every arm scores, a salted hash decides whose answer is served."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.feature_schema import FeatureError, Rows
from adapters.model_file import Prediction
from deploy.rollout import observe_assigned
from detectors.signals import Signal
from pipeline.answers import answers_of
from pipeline.codec import Decoded, dead_letter
from pipeline.core_state import ONE_ROUTE
from pipeline.join_window import CANDIDATE, FORMER, NO_MODEL, STABLE, ScoredRows
from pipeline.label_values import LabelError, label_value
from pipeline.messages import Event
from pipeline.messages import Prediction as PredictionMessage
from pipeline.records import Chunk
from pipeline.routed_answers import Brought, brought, count_routed, in_pairs
from pipeline.routing import OwnAnswers, score_tasks
from pipeline.signals import raise_signals
from pipeline.turn import Turn

MOST_EXTRA_NAMES = 1000
LONGEST_EXTRA_NAME = 256

Serving: TypeAlias = tuple[Prediction, tuple[str, ...], str]
"""A model's answers, its class names, and its version's name."""

_encode = msgspec.json.Encoder().encode


def score_events(turn: Turn, decoded: Decoded[Event], chunks: tuple[Chunk, ...]) -> list[int]:
    """Score a poll's events and remember them; return which of them have a label already.

    Repeated ids are counted (equal features) or dead-lettered (others); rows that do not fit the
    champion's schema are dead-lettered with the feature's name. A dead-lettered event's label
    counts for nothing, a repeated event's label does.
    """
    if not decoded.messages:
        return []
    fresh, repeated = _fresh(turn, decoded.messages)
    fresh = _with_usable_prediction(turn, decoded, fresh, chunks)
    schema = turn.champion(ONE_ROUTE).schema
    parsed = schema.parse_many([decoded.messages[i].features for i in fresh])
    dead, origins = turn.outcome.dead_letters, decoded.origins
    for k, error in parsed.errors.items():
        chunk, at = origins[fresh[k]]
        dead.append(dead_letter(chunks[chunk], at, "features", str(error)))
    _count_extra(turn, parsed.extra)
    kept = fresh if len(parsed.kept) == len(fresh) else [fresh[k] for k in parsed.kept]
    events = [decoded.messages[i] for i in kept]
    if events:
        _score(turn, events, parsed.rows, [decoded.times_ms[i] for i in kept])
    standing = kept + [i for i in repeated if _compare(turn, decoded, i, chunks)]
    early = turn.state.window.early
    found = ((i, decoded.messages[i]) for i in standing)
    return sorted(i for i, e in found if e.label is not None or e.id in early)


def _with_usable_prediction(
    turn: Turn, decoded: Decoded[Event], fresh: list[int], chunks: tuple[Chunk, ...]
) -> list[int]:
    """Set aside events whose upstream prediction is no label of the task."""
    if all(decoded.messages[i].prediction is None for i in fresh):
        return fresh
    usable: list[int] = []
    for i in fresh:
        said, (chunk, at) = decoded.messages[i].prediction, decoded.origins[i]
        try:
            if said is not None:
                label_value(turn, said)
        except LabelError as error:
            letter = dead_letter(chunks[chunk], at, "bad-prediction", f"prediction: {error}")
            turn.outcome.dead_letters.append(letter)
        else:
            usable.append(i)
    return usable


def _fresh(turn: Turn, events: Sequence[Event]) -> tuple[list[int], list[int]]:
    window = turn.state.window
    ids = {event.id for event in events}
    if len(ids) == len(events) and window.knows_none_of(ids):
        return list(range(len(events))), []
    known, here = window.position_of, set[str]()
    fresh: list[int] = []
    repeated: list[int] = []
    for i, event in enumerate(events):
        if event.id in here or known(event.id) is not None:
            repeated.append(i)
        else:
            here.add(event.id)
            fresh.append(i)
    return fresh, repeated


def _compare(turn: Turn, decoded: Decoded[Event], i: int, chunks: tuple[Chunk, ...]) -> bool:
    """Count a repeated event, or set it aside when its features differ from the first ones.

    Returns:
        Whether it stands: it equals the first one, or was scored because that was not usable.
    """
    event, (chunk, at) = decoded.messages[i], decoded.origins[i]
    window = turn.state.window
    position = window.position_of(event.id)
    dead = turn.outcome.dead_letters
    try:
        rows = turn.champion(ONE_ROUTE).schema.parse(event.features)
    except FeatureError as error:
        dead.append(dead_letter(chunks[chunk], at, "features", str(error)))
        return False
    if position is None:  # the first of the two was not usable: this one is the event
        if not _with_usable_prediction(turn, decoded, [i], chunks):
            return False
        _score(turn, [event], rows, [decoded.times_ms[i]])
        return True
    first, k = window.row(position)
    if rows.equal_row(0, first, k):
        turn.core.count("duplicate_events")
        return True
    message = f"event id '{event.id}' came before with other features; give each event its own id"
    dead.append(dead_letter(chunks[chunk], at, "conflicting-duplicate", message))
    return False


def _count_extra(turn: Turn, extra: dict[str, int]) -> None:
    counted = turn.core.extra_features
    for long_name, times in extra.items():
        name = long_name[:LONGEST_EXTRA_NAME]
        if name in counted or len(counted) < MOST_EXTRA_NAMES:
            counted[name] = counted.get(name, 0) + times


@dataclass(frozen=True, slots=True)
class _Table:
    """What ``ScoredRows`` will hold of n events, column by column."""

    versions: NDArray[np.int32]
    answers: NDArray[np.float64]
    served: NDArray[np.uint8]
    weights: NDArray[np.uint8]

    @classmethod
    def of(cls, answered: Brought) -> "_Table":
        n = len(answered.arms)
        return cls(
            np.full((n, 3), NO_MODEL, np.int32),
            np.full((n, 3), np.nan),
            np.where(answered.ours, STABLE, answered.arms).astype(np.uint8),
            answered.weights.copy(),
        )

    def fill(
        self, arm: int, number: int, rows: NDArray[np.bool_], answers: NDArray[np.float64]
    ) -> None:
        """Set what version ``number`` says as ``arm``, for some of the rows."""
        self.versions[rows, arm], self.answers[rows, arm] = number, answers[rows]


def _score(turn: Turn, events: list[Event], rows: Rows, times_ms: list[int]) -> None:
    core, window, route = turn.core, turn.state.window, turn.route(ONE_ROUTE)
    start = window.next
    turn.converge(ONE_ROUTE)
    answered = brought(turn, events, times_ms)
    table = _Table.of(answered)
    ours, alarms = _score_stable(turn, rows, answered, table, start)
    _take_brought(turn, events, answered, table)
    serving: dict[int, Serving] = {}
    if ours is not None:
        stable = turn.model(route.champion)
        serving[STABLE] = (ours, stable.class_names, core.versions[route.champion].name)
    own = score_tasks(turn, events, rows, start)
    candidate = _score_candidate(turn, events, rows, answered, own, table)
    if candidate is not None:
        serving[CANDIDATE] = candidate
    if route.probation is not None and route.before is not None:
        number = route.before.champion
        scored = answered.ours | in_pairs(route.probation)
        if scored.any():
            former = turn.model(number)
            table.fill(FORMER, number, scored, answers_of(turn, former, former.predict(rows)))
    window.append(
        ScoredRows(
            start,
            [e.id for e in events],
            [e.group for e in events],
            np.array(times_ms, np.int64),
            rows,
            table.versions,
            table.answers,
            table.served,
            table.weights,
            None if own is None else own.routed,
        )
    )
    core.count("events", len(events))
    raise_signals(turn, ONE_ROUTE, alarms)
    if own is None:
        monitors = turn.state.monitors[ONE_ROUTE]
        for position, event in enumerate(events, start):
            if event.task is not None:
                raise_signals(turn, ONE_ROUTE, monitors.saw_task(event.task, position))
    _publish(turn, events, table.served, serving, own)


def _score_stable(
    turn: Turn, rows: Rows, answered: Brought, table: _Table, start: int
) -> tuple[Prediction | None, list[Signal]]:
    """Fill the stable arm, but where the champion's answer came with the event.

    Returns:
        The champion's own answers, and what they and the inputs signal.
    """
    route = turn.route(ONE_ROUTE)
    pairs = in_pairs(route.rollout or route.probation)
    scored = answered.ours | (pairs & (answered.arms != STABLE))
    if not scored.any():
        return None, []
    model = turn.model(route.champion)
    prediction = model.predict(rows)
    table.fill(STABLE, route.champion, scored, answers_of(turn, model, prediction))
    monitors = turn.state.monitors[ONE_ROUTE]
    if scored.all():
        return prediction, list(monitors.scored(prediction, start))
    own = np.flatnonzero(scored)
    alarms: list[Signal] = []
    for run in np.split(own, np.flatnonzero(np.diff(own) > 1) + 1):
        low, high = int(run[0]), int(run[-1]) + 1
        alarms += monitors.scored(prediction.part(low, high), start + low)
    return prediction, alarms


def _score_candidate(
    turn: Turn,
    events: list[Event],
    rows: Rows,
    answered: Brought,
    own: OwnAnswers | None,
    table: _Table,
) -> Serving | None:
    """Fill the candidate's arm and draw whose answers are served; None: there is none."""
    route, number = turn.route(ONE_ROUTE), turn.rollout_arm(ONE_ROUTE)
    if route.rollout is None or number is None:
        return None
    count_routed(turn, answered)
    scored = answered.ours | (in_pairs(route.rollout) & (answered.arms != CANDIDATE))
    if not scored.any():
        return None
    model = turn.model(number)
    prediction = model.predict(rows)
    table.fill(CANDIDATE, number, scored, answers_of(turn, model, prediction))
    weight = turn.state.traffic(ONE_ROUTE).candidate_weight
    if not weight:
        return None
    drawn = answered.ours
    if own is not None:  # a task's own weights answer: no arm of this route does
        drawn = drawn & (own.routed.serials == 0)
    salt = f"{turn.settings.rollout.salt}/{route.rollout.id}"
    backend = turn.state.backends[ONE_ROUTE]
    to_candidate = backend.serves_candidate([e.id for e in events], salt) & drawn
    table.served[to_candidate] = CANDIDATE
    table.weights[drawn] = weight
    route.rollout = observe_assigned(
        route.rollout,
        events=int(drawn.sum()),
        by_candidate=int(to_candidate.sum()),
        weight_pct=weight,
    )
    return prediction, model.class_names, turn.version(number).name


def _take_brought(turn: Turn, events: list[Event], answered: Brought, table: _Table) -> None:
    """Fill the arms whose answers the events bring along."""
    of = {STABLE: turn.route(ONE_ROUTE).champion, CANDIDATE: turn.rollout_arm(ONE_ROUTE)}
    upstream = np.flatnonzero(~answered.ours)
    if upstream.size:
        turn.core.count("scored_upstream", int(upstream.size))
    for i in upstream:
        value, arm = events[i].prediction, int(answered.arms[i])
        number = of.get(arm)
        if value is not None and number is not None:
            table.versions[i, arm] = number
            table.answers[i, arm] = label_value(turn, value)


def _publish(
    turn: Turn,
    events: list[Event],
    served: NDArray[np.uint8],
    serving: dict[int, Serving],
    own: OwnAnswers | None,
) -> None:
    by_task = {} if own is None else own.served
    out = turn.outcome.predictions
    tables = {
        arm: (
            p.labels or p.values.tolist(),
            None if p.proba is None else np.round(p.proba.astype(np.float64), 6).tolist(),
            names,
            version,
        )
        for arm, (p, names, version) in serving.items()
    }
    for i, event in enumerate(events):
        if event.prediction is not None:
            continue
        if i in by_task:
            out.append((event.id.encode("utf-8", "surrogatepass"), _own_answer(event, by_task[i])))
            continue
        arm = int(served[i])
        answer, proba, names, version = tables[arm]
        message = PredictionMessage(
            id=event.id,
            prediction=answer[i],
            model_version=version,
            arm="candidate" if arm == CANDIDATE else "stable",
            route=ONE_ROUTE,
            proba=None if proba is None else dict(zip(names, proba[i], strict=True)),
        )
        out.append((event.id.encode("utf-8", "surrogatepass"), _encode(message)))


def _own_answer(event: Event, said: tuple[str, str, Prediction, int, tuple[str, ...]]) -> bytes:
    task, version, prediction, k, names = said
    p = prediction
    message = PredictionMessage(
        id=event.id,
        prediction=p.labels[k] if p.labels else float(p.values[k]),
        model_version=version,
        arm="stable",
        route=task,
        proba=None
        if p.proba is None
        else dict(zip(names, np.round(p.proba[k].astype(np.float64), 6).tolist(), strict=True)),
    )
    return _encode(message)
