"""A person takes back what happened: ``retry`` a candidate, ``undo`` a promotion."""

from deploy.risk_budget import left, spend
from deploy.rollout import Phase, VerbError, apply_verb
from deploy.rollout_retry import retry as retried
from pipeline.episodes import end_episode
from pipeline.recording import register
from pipeline.rollouts import abort_rollout, enter, new_budget, plan_of, probation_moved, written
from pipeline.turn import Turn


def retry(turn: Turn, name: str, who: str, reason: str) -> None:
    """Start the last ended rollout's candidate again, with a fresh share of the risk.

    An episode in progress makes way for it.

    Raises:
        VerbError: A rollout is in progress, or the last one did not end by roll back or expiry.
    """
    core, route = turn.core, turn.route(name)
    if route.rollout is not None:
        raise VerbError(f"retry: rollout {route.rollout.id} is in progress; abort it first")
    if route.ended is None:
        raise VerbError(f"retry: no rollout has ended on route {name} since the last promotion")
    budget = core.risk or new_budget(turn.settings.rollout)
    alpha, spent = spend(budget, turn.now_s)
    rollout = retried(
        route.ended,
        id=core.rollouts + 1,
        stable=turn.version(route.champion).name,
        plan=plan_of(turn.settings.rollout, alpha, guards=turn.settings.reads_servers),
        who=who,
        now_s=turn.now_s,
        reason=reason,
    )
    core.risk, core.rollouts = spent, rollout.id
    _make_way(turn, name, f"retry by {who}")
    version = turn.version_named(rollout.candidate)
    route.rollout_candidate = version.number
    route.rollout_from = turn.state.window.next
    register(turn, version, "candidate", rollout.reason)
    turn.decide(
        "rollout-begun",
        name,
        f"{rollout.candidate} against {rollout.stable} again: {rollout.reason}",
        rollout=rollout.id,
        retry_of=route.ended.id,
        candidate=rollout.candidate,
        stable=rollout.stable,
        risk=alpha,
        risk_left=left(spent, turn.now_s),
        mode=rollout.plan.mode,
    )
    enter(turn, name, rollout, rollout.reason)


def undo(turn: Turn, name: str, who: str, reason: str) -> None:
    """Make the champion before this one the champion again.

    In probation everything goes back together, as regret would take it back. Later only the weights
    do: detectors get a fresh reference, the examples stay.

    Raises:
        VerbError: There is no earlier champion.
    """
    core, route = turn.core, turn.route(name)
    if route.probation is not None:
        said = apply_verb(route.probation, "undo", who, turn.now_s, reason)
        probation_moved(turn, name, route.probation, said)
        return
    if not route.earlier:
        raise VerbError("undo: the champion is the first one; there is nothing to go back to")
    words = f"undo by {who}" + (f": {reason}" if reason else "")
    if route.rollout is not None:
        abort_rollout(turn, name, who, "its stable version was undone")
    _make_way(turn, name, words)
    former, champion = turn.version(route.champion), turn.version(route.earlier[0])
    route.champion, route.earlier = champion.number, list(route.earlier[1:])
    route.champion_since_label, route.champion_since_position = core.labels, turn.state.window.next
    route.action_label, route.action_ms = core.labels, core.time_ms
    route.new_class_tried, route.raised = {}, None
    turn.state.monitors[name].champion_changed(turn.champion(name), champion.losses)
    turn.converge(name)
    ended = route.ended
    if ended is not None and ended.phase is Phase.PROMOTED and ended.candidate == former.name:
        route.ended = apply_verb(ended, "undo", who, turn.now_s, reason)
        written(turn, route.ended)
    turn.effect("alias", f"undo-{core.decisions}", alias="champion", number=champion.number)
    turn.decide(
        "rollback",
        name,
        f"{champion.name} is champion again: {words}",
        champion=champion.name,
        former=former.name,
    )


def _make_way(turn: Turn, name: str, why: str) -> None:
    route = turn.route(name)
    if route.episode is not None:
        end_episode(turn, name, "interrupted", f"episode {route.episode.number}: {why}")
    route.waiting = None
