"""Tasks with weights of their own: who answers, what their labels say, when they are tried.

A route opens, and changes its weights, only when they lose less than what its task is served now,
and no more than the fall-back, on held-back labels. While it serves, every label gives a pair of
losses, its own and the fall-back's; evidence of harm closes it. A detector on its own losses has it
tried anew. What no route serves, the route ``*`` does, as if there were no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from adapters.feature_schema import Rows
from adapters.model_file import Prediction, lineage_key
from deploy.sequential import BettingTest
from pipeline.answers import answers_of
from pipeline.core_state import ONE_ROUTE, RouteRequest, Routing
from pipeline.example_buffer import Example
from pipeline.join_window import Joined, Routed
from pipeline.messages import Event
from pipeline.records import RouteAdapted
from pipeline.route_answer import FINE_TUNE, RouteAnswer, decode_answer
from pipeline.task_routes import LiveRoute, fresh_monitor
from pipeline.turn import Turn, version_name

MOST_WAITING = 64
"""Requests that wait for the worker; a task that finds no place asks again with its next label."""
MOST_ANNOUNCED = 500
"""Announced examples whose task is remembered; the oldest are forgotten first."""


@dataclass(slots=True)
class OwnAnswers:
    """What tasks' own weights say of a poll's events.

    Attributes:
        routed: Per event, for the window.
        served: Index of the event -> (task, version name, prediction, index within, classes).
    """

    routed: Routed
    served: dict[int, tuple[str, str, Prediction, int, tuple[str, ...]]] = field(
        default_factory=dict
    )


def score_tasks(turn: Turn, events: Sequence[Event], rows: Rows, start: int) -> OwnAnswers | None:
    """Let each task's own weights answer its events; None without ``model.route_by``."""
    if turn.core.routing is None:
        return None
    n, routes = len(events), turn.state.task_routes
    tasks = [event.task for event in events]
    found = OwnAnswers(Routed(tasks, np.zeros(n, np.int32), np.full(n, np.nan)))
    by_task: dict[str, list[int]] = {}
    for i, event in enumerate(events):
        if event.task is not None and event.prediction is None:
            by_task.setdefault(event.task, []).append(i)
    for task, indices in by_task.items():
        live = routes.get(task)
        if live is None:
            _meet(turn, task, start + indices[0], len(indices))
            continue
        if not live.core.answer:
            continue
        model, at = turn.own_models(live.core.answer), np.array(indices, np.intp)
        prediction = model.predict(rows.take(at))
        found.routed.serials[at] = live.core.serial
        found.routed.answers[at] = answers_of(turn, model, prediction)
        name = version_name(live.core.serial, live.core.answer)
        for k, i in enumerate(indices):
            found.served[i] = (task, name, prediction, k, model.class_names)
    if found.served:
        turn.core.count("events_by_routes", len(found.served))
    return found


def _meet(turn: Turn, task: str, position: int, events: int) -> LiveRoute | None:
    """Make the route of a task that never came before, or count that there is no room for it."""
    routes, s = turn.state.task_routes, turn.settings.routes
    if not routes.may_open(task):
        turn.core.count("events_beyond_routes", events)
        return None
    turn.core.count("signals_new_task")
    turn.decide(
        "signal",
        task,
        f"new_task: task {task!r} first came at {position}; own weights are tried at "
        f"{s.support + s.holdout} labels",
        signal={"kind": "new_task", "at": position},
        verdict="OwnRoute",
    )
    return routes.add(task)


def announce_beside(turn: Turn, task: str, ids: Sequence[str], at: int) -> bool:
    """Send the examples of an announced task to its route; return whether it has one.

    Labels that have joined without a task by now are taken along; the others go to the route when
    they come.
    """
    routing, live = turn.core.routing, turn.state.task_routes.get(task)
    live = live or _meet(turn, task, at, 0)
    if routing is None or live is None:
        return False
    routing.announced.update(dict.fromkeys(ids, task))
    found = [e for e in (turn.state.buffers[ONE_ROUTE].find(i) for i in ids) if e is not None]
    newest = max((e.number for e in live.buffer.all()), default=-1)
    for example in sorted(found, key=lambda e: e.number):
        if example.number > newest:  # examples are kept in the order of their numbers
            _keep(turn, live, example)
    for oldest in list(routing.announced)[:-MOST_ANNOUNCED]:
        del routing.announced[oldest]
    _consider(turn, live)
    return True


def announced_task(turn: Turn, event_id: str) -> str | None:
    """Return the task for which an example was announced, or None."""
    routing = turn.core.routing
    return None if routing is None else routing.announced.get(event_id)


def take_example(turn: Turn, task: str | None, example: Example) -> None:
    """Give a labelled example to its task's route, if it has one, and see whether to try."""
    live = None if task is None else turn.state.task_routes.get(task)
    if live is not None:
        _keep(turn, live, example)
        _consider(turn, live)


def _keep(turn: Turn, live: LiveRoute, example: Example) -> None:
    live.buffer.add(example)
    live.core.labels += 1
    turn.state.task_routes.changed(live)


def correct_example(turn: Turn, task: str | None, event_id: str, value: float) -> None:
    """Replace the label of an example that a task's route keeps."""
    live = None if task is None else turn.state.task_routes.get(task)
    if live is not None and live.buffer.correct(event_id, value):
        turn.state.task_routes.changed(live)


def judge_route(turn: Turn, joined: Joined, own: float, fall_back: float) -> None:
    """Take a pair of losses on an event that a task's own weights answered."""
    live = None if joined.task is None else turn.state.task_routes.get(joined.task)
    if live is None or not live.core.answer or joined.serial != live.core.serial:
        return
    core = live.core
    turn.state.task_routes.changed(live)
    signal = live.monitor.update(own, joined.position)
    live.monitor_changed = True
    core.harm = (core.harm or BettingTest.start(0.0)).observe(own - fall_back)
    if core.harm.rejects(turn.settings.rollout.risk_per_rollout):
        reason = f"the fall-back loses less, e-value {core.harm.e_value():.1f} of {core.harm.n}"
        _close(turn, live, reason, labels=core.harm.n)
        return
    if signal is not None:
        core.cut, core.try_at = signal.change_point, core.labels
        turn.core.count("signals_error")
        turn.decide(
            "signal",
            core.task,
            f"error ({signal.detector}): {signal.detail}; own weights are tried anew",
            signal={"kind": "error", "at": signal.at, "change_point": signal.change_point},
            verdict="OwnRoute",
        )


def _consider(turn: Turn, live: LiveRoute) -> None:
    """Ask for own weights where there are labels enough for a try."""
    core, routing, s = live.core, turn.core.routing, turn.settings.routes
    if routing is None or core.request or core.labels < core.try_at:
        return
    if len(routing.waiting) >= MOST_WAITING:
        return
    support, holdout = _split(turn, live)
    if len(support) < s.support or len(holdout) < s.holdout:
        return
    recommended = turn.core.recommended if turn.core.meta_init else ""
    routing.asked += 1
    request = RouteRequest(
        number=routing.asked,
        task=core.task,
        recipe=recommended or FINE_TUNE,
        support=[e.number for e in support],
        holdout=[e.number for e in holdout],
        own=core.answer,
    )
    routing.waiting.append(request)
    core.request = request.number
    turn.state.task_routes.changed(live)


def _split(turn: Turn, live: LiveRoute) -> tuple[list[Example], list[Example]]:
    """Return (support, holdout): the newest labels that nothing was trained on are held back.

    A group is never in both, and neither the champion nor the task's weights know the holdout.
    """
    core, least = live.core, turn.settings.routes.holdout
    known = turn.champion(ONE_ROUTE).trained_on
    if core.answer:
        known = np.union1d(known, turn.own_models(core.answer).trained_on)
    holdout: dict[str, list[Example]] = {}
    support: list[Example] = []
    held = 0
    for example in reversed(live.buffer.all()):
        if example.position < core.cut:
            continue
        group = example.group or example.id
        if group not in holdout:
            fresh = not np.isin(np.uint64(lineage_key(group)), known)
            if held >= least or not fresh:
                support.append(example)
                continue
        holdout.setdefault(group, []).append(example)
        held += 1
    support = [e for e in support if (e.group or e.id) not in holdout]
    newest = sorted((e for part in holdout.values() for e in part), key=lambda e: e.number)
    return support[::-1], newest


def route_adapted(turn: Turn, done: RouteAdapted) -> None:
    """Take the worker's answer about a task; one that nobody waits for is counted and dropped."""
    routing = turn.core.routing
    request = (
        next((r for r in routing.waiting if r.number == done.number), None) if routing else None
    )
    live = None if request is None else turn.state.task_routes.get(request.task)
    if routing is None or request is None or live is None:
        turn.core.count("stale_bake_offs")
        return
    routing.waiting.remove(request)
    turn.core.count("route_tries")
    core = turn.state.task_routes.changed(live).core
    core.request, core.try_at = 0, max(2 * core.labels, core.labels + 1)
    if done.error:
        turn.decide("route-kept", core.task, f"no own weights: {done.error}", task=core.task)
        return
    _settle(turn, routing, live, request, done.digest)


def _settle(
    turn: Turn, routing: Routing, live: LiveRoute, request: RouteRequest, digest: str
) -> None:
    """Serve the candidate, or go on, or fall back: by the losses on the holdout."""
    core, answer = live.core, decode_answer(turn.results(digest))
    served = answer.own if core.answer and answer.own else answer.fall_back
    facts = _facts(answer, request)
    better = bool(answer.candidate) and sum(answer.candidate) < sum(served)
    if better and sum(answer.candidate) <= sum(answer.fall_back):
        if not core.answer:
            routing.open += 1
        core.answer, core.serial, core.recipe = digest, core.serial + 1, answer.recipe
        core.losses, core.harm = answer.candidate, None
        live.monitor = fresh_monitor(turn.settings, core.losses)
        live.monitor_changed = True
        turn.core.count("routes_opened" if core.serial == 1 else "routes_renewed")
        name = version_name(core.serial, digest)
        reason = f"task {core.task!r} is served by its own weights {name} ({answer.recipe})"
        turn.decide("route-opened", core.task, f"{reason}: {_words(answer)}", **facts)
    elif core.answer and answer.own and sum(answer.fall_back) < sum(answer.own):
        _close(turn, live, f"own weights lost: {_words(answer)}", **facts)
    else:
        turn.core.count("route_tries_lost")
        reason = f"no better weights for task {core.task!r}: {_words(answer)}"
        turn.decide("route-kept", core.task, reason, **facts)


def _close(turn: Turn, live: LiveRoute, reason: str, **facts: object) -> None:
    core, routing = live.core, turn.core.routing
    core.answer, core.harm = "", None
    core.try_at = max(2 * core.labels, core.labels + 1)
    if routing is not None:
        routing.open -= 1
    turn.core.count("routes_closed")
    turn.decide("route-closed", core.task, f"task {core.task!r} falls back: {reason}", **facts)


def _facts(answer: RouteAnswer, request: RouteRequest) -> dict[str, object]:
    return {
        "recipe": answer.recipe,
        "support": len(request.support),
        "holdout": len(answer.fall_back),
        "fall_back_losses": sum(answer.fall_back),
        "own_losses": sum(answer.own) if answer.own else None,
        "candidate_losses": sum(answer.candidate) if answer.candidate else None,
        "message": answer.message,
    }


def _words(answer: RouteAnswer) -> str:
    n = len(answer.fall_back)
    said = [f"fall-back {sum(answer.fall_back):g}"]
    if answer.own:
        said.append(f"own {sum(answer.own):g}")
    said.append(
        f"{answer.recipe} {sum(answer.candidate):g}"
        if answer.candidate
        else f"{answer.recipe} has none ({answer.message})"
    )
    return ", ".join(said) + f" of {n} holdout labels lost"
