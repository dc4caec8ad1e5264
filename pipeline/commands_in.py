"""Commands from the control topic, and a person's word from the registry."""

import msgspec

from deploy.rollout import Verb as RolloutVerb
from deploy.rollout import VerbError
from detectors.signals import Signal, SignalKind
from pipeline.core_state import RouteCore
from pipeline.episodes import end_episode, open_episode
from pipeline.messages import Control
from pipeline.records import RegistryNews
from pipeline.rollout_again import retry, undo
from pipeline.rollouts import command
from pipeline.routing import MOST_ANNOUNCED, announce_beside
from pipeline.turn import Turn

COMMANDS_REMEMBERED = 200

ROLLOUT_VERBS: dict[str, RolloutVerb] = {
    "pause": "pause",
    "resume": "resume",
    "approve": "approve",
    "reject": "reject",
    "abort": "abort",
    "promote": "promote",
    "promote-full": "promote_full",
}


def carry_out(turn: Turn, control: Control, time_ms: int) -> None:
    """Do what a command says, once; one that makes no sense is refused with the reason."""
    core = turn.core
    if control.id in core.commands:
        core.count("repeated_commands")
        return
    core.commands.append(control.id)
    del core.commands[:-COMMANDS_REMEMBERED]
    route = core.routes.get(control.route)
    if route is None:
        _refuse(turn, control, f"no route '{control.route}'; there are {sorted(core.routes)}")
        return
    said = f"{control.verb} by {control.by}: {control.reason or 'no reason given'}"
    turn.decide("command", control.route, said, **_facts(control))
    try:
        match control.verb:
            case "new-task":
                _announce(turn, control, route, time_ms)
            case "force":
                _force(turn, control, route)
            case "retry":
                retry(turn, control.route, control.by, control.reason)
            case "undo":
                undo(turn, control.route, control.by, control.reason)
            case _:
                _same_candidate(turn, control, route)
                verb = ROLLOUT_VERBS[control.verb]
                command(turn, control.route, verb, control.by, control.reason)
    except VerbError as error:
        _refuse(turn, control, str(error))


def _same_candidate(turn: Turn, control: Control, route: RouteCore) -> None:
    """Refuse a review of another candidate than the one that waits now."""
    if not control.digest or route.rollout is None:
        return
    episode = turn.version(route.rollout_candidate).episode
    packet = turn.core.packets.get(episode or 0, "")
    if not packet.startswith(control.digest):
        raise VerbError(
            f"{control.verb}: the candidate's review packet is {packet[:8] or 'not known'}, not "
            f"{control.digest}; read that one first"
        )


def _facts(control: Control) -> dict[str, object]:
    return {"command": control.id, "verb": control.verb, "by": control.by}


def _refuse(turn: Turn, control: Control, why: str) -> None:
    turn.core.count("refused_commands")
    why = why.removeprefix(f"{ROLLOUT_VERBS.get(control.verb, control.verb)}: ")
    turn.decide("command-refused", "*", f"{control.verb} by {control.by}: {why}", **_facts(control))


def _announce(turn: Turn, control: Control, route: RouteCore, time_ms: int) -> None:
    """Open an episode for an announced task; its change point is the signal's."""
    if not control.task or not control.examples:
        raise VerbError("new-task: give `task` and the ids of its labelled `examples`")
    if len(set(control.examples)) != len(control.examples):
        raise VerbError("new-task: an example id is given twice; name each once")
    if turn.core.routing is not None and control.life == "beside":
        _announce_beside(turn, control, control.task, control.examples)
        return
    if control.life == "beside" and (route.episode is not None or route.rollout is not None):
        raise VerbError(
            "new-task: the old task lives on (beside) and an episode or rollout for it is in "
            "progress: announce again when it has ended, or abort it"
        )
    kept = turn.settings.episode.buffer_examples
    if len(control.examples) > kept:
        raise VerbError(
            f"new-task: {len(control.examples)} examples; episode.buffer_examples keeps {kept}"
        )
    position = turn.state.window.position_at(time_ms)
    signal = Signal(
        kind=SignalKind.ANNOUNCED,
        detector=control.by,
        at=turn.state.window.next,
        change_point=position,
        statistic=float(len(control.examples)),
        threshold=0.0,
        detail=f"task '{control.task}' ({control.life}) with {len(control.examples)} examples",
    )
    _interrupt(turn, control, route)
    turn.core.count("signals_announced")
    turn.state.monitors[control.route].announced_task(control.task)
    episode = open_episode(turn, control.route, "announced", signal)
    episode.task, episode.life = control.task, control.life
    episode.example_ids = list(control.examples)


def _announce_beside(turn: Turn, control: Control, task: str, examples: list[str]) -> None:
    """Let a task that lives beside the others have its own route; nothing is interrupted."""
    most = min(turn.settings.routes.examples, MOST_ANNOUNCED)
    if len(examples) > most:
        raise VerbError(
            f"new-task: {len(examples)} examples; routes.examples keeps {most} of a task"
        )
    if not announce_beside(turn, task, examples, turn.state.window.next):
        raise VerbError(
            f"new-task: no route for task {task[:40]!r}: its name is empty, '*' or too long, or "
            f"routes.most ({turn.settings.routes.most}) tasks have one"
        )
    turn.core.count("signals_announced")


def _force(turn: Turn, control: Control, route: RouteCore) -> None:
    """Open an episode on a person's word, from the start of the champion's buffer on."""
    if route.episode is not None or route.rollout is not None:
        raise VerbError("force: an episode or rollout is in progress; abort it first")
    signal = Signal(
        kind=SignalKind.FORCED,
        detector=control.by,
        at=turn.state.window.next,
        change_point=route.buffer_from,
        statistic=0.0,
        threshold=0.0,
        detail=control.reason or "no reason given",
    )
    open_episode(turn, control.route, "forced", signal)


def _interrupt(turn: Turn, control: Control, route: RouteCore) -> None:
    """An announced task that replaces the old one ends what was being tried for the old one."""
    why = f"task '{control.task}' was announced"
    if route.episode is not None:
        end_episode(turn, control.route, "interrupted", f"episode {route.episode.number}: {why}")
    if route.rollout is not None:
        command(turn, control.route, "abort", control.by, why)
    route.waiting = None


def review(turn: Turn, news: RegistryNews) -> None:
    """Take what was seen in the registry."""
    core = turn.core
    version = core.versions.get(news.number)
    match news.kind:
        case "registered":
            if version is not None:
                version.registered = news.registered
        case "alias":
            turn.decide(
                "alias-moved",
                "*",
                f"alias champion was found on registry version {news.registered}"
                + (f" ({version.name})" if version else ", which is none of ours")
                + "; nothing is reverted, a person decides",
                registered=news.registered,
            )
        case "review":
            _answer(turn, news)


def _answer(turn: Turn, news: RegistryNews) -> None:
    key = f"review-{news.registered}-{news.tag}"
    if key in turn.core.commands:
        return
    turn.core.commands.append(key)
    del turn.core.commands[:-COMMANDS_REMEMBERED]
    outcome = "done"
    if news.verb:
        try:
            turn.decide(
                "review",
                "*",
                f"{news.verb} by {news.by}: {news.reason or 'no reason given'}",
                version=news.number,
                verb=news.verb,
                by=news.by,
            )
            name = next(
                (
                    n
                    for n, r in turn.core.routes.items()
                    if r.rollout is not None and r.rollout_candidate == news.number
                ),
                None,
            )
            if name is None:
                raise VerbError(f"{news.verb}: no rollout of this version is in progress")
            command(turn, name, news.verb, news.by, news.reason)
        except VerbError as error:
            outcome = f"refused: {error}"
            turn.decide("review-refused", "*", str(error), version=news.number)
    turn.effect("review-answer", key, news=msgspec.to_builtins(news), outcome=outcome)
