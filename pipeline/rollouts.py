"""A candidate's rollout inside the engine: begin, look, promote, take back.

``deploy.rollout`` decides; this module feeds it, carries its decisions into the route (champion,
monitors, buffer) and asks for the aliases that go with them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from adapters.model_file import lineage_key
from deploy.risk_budget import RiskBudget, left, spend
from deploy.rollout import (
    CanaryPlan,
    Kind,
    Phase,
    Rollout,
    Verb,
    VerbError,
    Verdict,
    admit,
    advance,
    apply_verb,
    begin_step_anew,
    desired_traffic,
    end_probation,
    start,
)
from detectors.signals import SignalKind
from pipeline.core_state import Before, Candidate, Episode, RouteCore
from pipeline.episode_holdout import evidence_by_class
from pipeline.label_suspicion import suspicion
from pipeline.label_values import loss_of
from pipeline.raised_loss import may_retry, put_off
from pipeline.recording import record_rollout, register
from pipeline.remembered_tasks import forget_promotion, remember_champion, settle_promotion
from pipeline.rollout_settings import RolloutSettings
from pipeline.routed_answers import note_split
from pipeline.server_readings import reading_of
from pipeline.task_decisions import decide_at_promotion
from pipeline.turn import Turn

EARLIER_CHAMPIONS = 20
"""How far ``undo`` goes back; the models of those before may leave the shelf."""

if TYPE_CHECKING:
    from deploy.gate import GateResult


def plan_of(settings: RolloutSettings, risk: float, *, guards: bool) -> CanaryPlan:
    """Return the plan that a rollout follows, fixed when it begins.

    Args:
        settings: The configuration.
        risk: Of this rollout.
        guards: Whether the candidate's server is read.
    """
    return CanaryPlan(
        weights=settings.steps,
        least_labels=settings.least_labels,
        dwell_s=settings.dwell_s,
        dwell_labels=settings.dwell_labels,
        longest_wait_s=settings.longest_wait_s,
        longest_wait_labels=settings.longest_wait_labels,
        longest_approval_wait_s=settings.longest_approval_wait_s,
        least_gain=settings.least_gain,
        acceptable_harm=settings.acceptable_harm,
        risk=risk,
        probation_labels=settings.probation_labels,
        probation_s=settings.probation_s,
        longest_promotion_s=settings.longest_unserved_s,
        mode=settings.mode,
        label_permutation=settings.label_permutation,
        evidence=settings.evidence,
        least_labels_per_arm=settings.least_labels_per_arm,
        least_label_coverage=settings.least_label_coverage,
        most_error_rate=settings.most_error_rate if guards else None,
        longest_latency_ms=settings.longest_latency_ms if guards else None,
        guard_requests=settings.guard_requests,
    )


def new_budget(settings: RolloutSettings) -> RiskBudget:
    """Return the wrong-promotion budget before anything was spent."""
    return RiskBudget(
        risk=settings.wrong_promotions_per_30_days,
        lag_s=settings.longest_wait_s or 0.0,
        most=settings.risk_per_rollout,
    )


def begin_rollout(
    turn: Turn,
    name: str,
    episode: Episode,
    candidate: Candidate,
    gate: "GateResult",
    losses: list[float],
) -> None:
    """Send an ended episode's candidate on its way to traffic.

    Args:
        turn: In progress.
        name: Route.
        episode: Ended, with this candidate.
        candidate: What won the bake-off.
        gate: What the holdout said.
        losses: The candidate's holdout losses, which prime its error detectors.
    """
    core, route = turn.core, turn.route(name)
    budget = core.risk or new_budget(turn.settings.rollout)
    alpha, core.risk = spend(budget, turn.now_s)
    version = turn.add_version(candidate, episode.number, losses)
    core.rollouts += 1
    kind: Kind = "announced" if episode.kind == "announced" else "gated"
    if kind == "gated" and gate.verdict is not Verdict.PASS:
        kind = "inconclusive_gate"
    rollout = start(
        id=core.rollouts,
        route=name,
        kind=kind,
        stable=turn.version(route.champion).name,
        candidate=version.name,
        plan=plan_of(turn.settings.rollout, alpha, guards=turn.settings.reads_servers),
        now_s=turn.now_s,
        reason=f"{candidate.recipe} of episode {episode.number}",
        classes=evidence_by_class(turn, name, episode, candidate),
    )
    route.rollout_signal = episode.signal if episode.kind == "drift" else None
    route.rollout_change_point = episode.change_point
    route.rollout_episode = episode
    route.rollout_candidate = version.number
    route.rollout_holdout = sum(losses) / len(losses) if losses else None
    route.rollout_from = turn.state.window.next
    register(turn, version, "candidate", gate.reason, candidate)
    turn.decide(
        "rollout-begun",
        name,
        f"{version.name} ({candidate.recipe}) against {rollout.stable}: {gate.reason}",
        rollout=rollout.id,
        episode=episode.number,
        candidate=version.name,
        stable=rollout.stable,
        recipe=candidate.recipe,
        risk=alpha,
        risk_left=left(core.risk, turn.now_s),
        mode=rollout.plan.mode,
    )
    enter(turn, name, rollout, gate.reason)


def enter(turn: Turn, name: str, rollout: Rollout, reason: str) -> None:
    """Let a rollout that was just made into its canary, or before its reviewer."""
    route = turn.route(name)
    route.rollout, route.ended = rollout, None
    admitted = admit(
        rollout, turn.now_s, may_enter=True, reason=reason, suspect=suspicion(turn, name)
    )
    _moved(turn, name, rollout, admitted)


def advance_rollouts(turn: Turn, name: str) -> None:
    """Look at the rollout and the probation of a route once."""
    route = turn.route(name)
    if route.probation is not None:
        live = turn.converge(name)
        guard = reading_of(turn, route.probation)
        held = suspicion(turn, name)
        now = advance(route.probation, turn.now_s, suspect=held, guard=guard, live=live)
        probation_moved(turn, name, route.probation, now)
    _watch_traffic(turn, name)
    while route.rollout is not None and _moves(turn, name, route.rollout):
        pass
    note_split(turn, name)


def _moves(turn: Turn, name: str, rollout: Rollout) -> bool:
    """Make the rollout's next move, if there is one now."""
    held, live = suspicion(turn, name), turn.converge(name)
    guard = reading_of(turn, rollout)
    seen = advance(rollout, turn.now_s, suspect=held, guard=guard, live=live)
    if seen is not rollout:
        _moved(turn, name, rollout, seen)
    return seen is not rollout


def _watch_traffic(turn: Turn, name: str) -> None:
    """Begin a canary's step once its traffic is seen; roll back what is not seen for too long."""
    route, longest = turn.route(name), turn.settings.rollout.longest_unserved_s
    rollout = route.rollout
    if rollout is None or rollout.phase is not Phase.CANARY or turn.converge(name):
        if rollout is not None and route.unserved_since_ms >= 0:
            route.rollout = begin_step_anew(rollout, turn.now_s)
        route.unserved_since_ms = -1
        return
    if route.unserved_since_ms < 0:
        route.unserved_since_ms = turn.core.time_ms
    waited_s = turn.now_s - route.unserved_since_ms / 1000
    if longest is not None and waited_s > longest:
        why = f"its traffic was not seen for {waited_s:.0f} s (> {longest:g})"
        abort_rollout(turn, name, "serving", why)


_INSTEAD: Mapping[Verb, str] = {
    "abort": "is taken back by undo",
    "promote": "ends its probation by itself",
}
"""What becomes of the promotion before, where a verb came too late for the rollout meant."""


def command(turn: Turn, name: str, verb: Verb, who: str, reason: str) -> None:
    """Carry out a person's verb on the rollout in progress (else on the probation).

    Raises:
        VerbError: It makes no sense where the rollout stands, or none is in progress.
    """
    route = turn.route(name)
    target = route.rollout or route.probation
    if target is None:
        raise VerbError(f"{verb}: no rollout is in progress on route {name}")
    ended = route.ended
    if verb in _INSTEAD and ended is not None and ended.id > target.id:
        # It may have been meant, and was quicker.
        raise VerbError(
            f"{verb}: rollout {ended.id} has ended ({ended.phase.value}); the promotion of rollout "
            f"{target.id} before it, in probation, {_INSTEAD[verb]}"
        )
    said = apply_verb(target, verb, who, turn.now_s, reason)
    if route.rollout is not None:
        _moved(turn, name, target, said)
    else:
        probation_moved(turn, name, target, said)


def abort_rollout(turn: Turn, name: str, who: str, reason: str) -> None:
    """Abort the rollout in progress, if any."""
    rollout = turn.route(name).rollout
    if rollout is not None:
        _moved(turn, name, rollout, apply_verb(rollout, "abort", who, turn.now_s, reason))


def abort_probation(turn: Turn, name: str, who: str, reason: str) -> None:
    """Take the last promotion back, if the old champion can still return."""
    probation = turn.route(name).probation
    if probation is not None:
        taken_back = apply_verb(probation, "abort", who, turn.now_s, reason)
        probation_moved(turn, name, probation, taken_back)


# ---------------------------------------------------------------- what a move means


def _moved(turn: Turn, name: str, before: Rollout, after: Rollout) -> None:
    route = turn.route(name)
    route.rollout = after
    if after is before:
        return
    _record(turn, name, before, after)
    if after.phase is Phase.PROMOTING and before.phase is not Phase.PROMOTING:
        _promote(turn, name, after)
        return
    if after.phase.terminal:
        route.rollout, route.ended = None, after
        put_off(route.raised)
        again = route.rollout_signal if after.phase in (Phase.ROLLED_BACK, Phase.EXPIRED) else None
        if again is not None and again.kind is SignalKind.ERROR and route.waiting is None:
            route.waiting = again if may_retry(route.raised) else None
        if after.phase is Phase.REJECTED and (before.suspect or route.waiting is None):
            route.raised = None  # a person's word is not asked for again
        if before.suspect and after.phase is Phase.REJECTED:
            # A person says that the labels were wrong: what was learned from them is void.
            turn.state.monitors[name].forget_losses(_trusted_losses(turn, name))
            route.waiting = None
        route.action_label, route.action_ms = turn.core.labels, turn.core.time_ms
        turn.effect("alias", f"rollout-{after.id}-no-candidate", alias="candidate", number=0)
        written(turn, after)


def _trusted_losses(turn: Turn, name: str) -> list[float]:
    """Return the champion's own holdout losses, and those on labels from before suspicion began.

    Labels that the person has corrected by then count as corrected.
    """
    route = turn.route(name)
    number, scale = route.champion, turn.champion(name).loss_scale
    return list(turn.version(number).losses) + [
        loss_of(turn, scale, e.answer, e.label)
        for e in turn.state.buffers[name].since(route.champion_since_position)
        if e.version == number and e.position < route.rollout_change_point
    ]


def _promote(turn: Turn, name: str, rollout: Rollout) -> None:
    """Make the candidate the champion; the old one stays at hand until probation is over."""
    core, route = turn.core, turn.route(name)
    confirmed = route.probation is None
    if route.probation is not None:
        over = end_probation(route.probation, turn.now_s, f"rollout {rollout.id} takes its place")
        probation_moved(turn, name, route.probation, over)
    monitors, old, new = turn.state.monitors[name], route.champion, route.rollout_candidate
    route.before = Before(
        champion=old,
        earlier=list(route.earlier),
        champion_since_label=route.champion_since_label,
        champion_since_position=route.champion_since_position,
        monitors=monitors.snapshots(),
        buffer_from=route.buffer_from,
        raised=route.raised,
    )
    decide_at_promotion(turn, name)
    remember_champion(turn, name, route.rollout_change_point, confirmed=confirmed)
    route.champion = new
    before = [old, *(v for v in route.earlier if v not in (old, new))]
    route.earlier = before[:EARLIER_CHAMPIONS]
    route.champion_since_label, route.champion_since_position = core.labels, turn.state.window.next
    route.buffer_from = route.rollout_change_point
    route.probation_from = turn.state.window.next
    route.rollout = None
    route.waiting = route.raised = None
    route.action_label, route.action_ms = core.labels, core.time_ms
    route.new_class_tried = {}
    monitors.champion_changed(turn.champion(name), turn.version(new).losses)
    _recalibrate(turn, name, route)
    route.probation = rollout
    live = advance(rollout, turn.now_s, live=turn.converge(name))
    route.probation = live
    turn.effect("alias", f"rollout-{rollout.id}-champion", alias="champion", number=new)
    turn.effect("alias", f"rollout-{rollout.id}-promoted", alias="candidate", number=0)
    turn.decide(
        "promotion",
        name,
        f"{rollout.candidate} is champion: {rollout.reason}",
        rollout=rollout.id,
        champion=rollout.candidate,
        former=rollout.stable,
        labels=rollout.evidence.n,
    )
    written(turn, live)


def probation_moved(turn: Turn, name: str, before: Rollout, after: Rollout) -> None:
    """Carry a probation's move into the route."""
    route = turn.route(name)
    route.probation = after
    if after is before:
        return
    _record(turn, name, before, after)
    if not after.phase.terminal:
        return
    route.probation = None
    if after.phase is Phase.ROLLED_BACK or route.ended is None:
        route.ended = after
    if after.phase is Phase.ROLLED_BACK and route.before is not None:
        _take_back(turn, name, after, route.before)
    else:
        settle_promotion(turn, name)
    route.before = None
    written(turn, after)


def _take_back(turn: Turn, name: str, rollout: Rollout, before: Before) -> None:
    """Bring champion, monitors, task memory and buffer pointer back together."""
    route = turn.route(name)
    if route.rollout is not None:
        reason = f"its stable version {rollout.candidate} was rolled back"
        abort_rollout(turn, name, "probation", reason)
    route.champion, route.earlier = before.champion, list(before.earlier)
    route.champion_since_label = before.champion_since_label
    route.champion_since_position = before.champion_since_position
    route.buffer_from = before.buffer_from
    route.waiting, route.raised = None, before.raised
    put_off(route.raised)
    route.action_label, route.action_ms = turn.core.labels, turn.core.time_ms
    forget_promotion(turn, name)
    monitors = turn.state.monitors[name]
    for part, snapshot in before.monitors.items():
        monitors.restore(part, snapshot)
    turn.effect(
        "alias", f"rollout-{rollout.id}-taken-back", alias="champion", number=before.champion
    )
    turn.decide(
        "rollback",
        name,
        f"{rollout.stable} is champion again: {rollout.reason}",
        rollout=rollout.id,
        champion=rollout.stable,
        former=rollout.candidate,
    )


def _record(turn: Turn, name: str, before: Rollout, after: Rollout) -> None:
    kind = "rollout-step" if after.phase is before.phase else f"rollout-{after.phase.value}"
    if after.pause is not before.pause and after.pause is not None:
        kind = "rollout-paused"
    elif before.pause is not None and after.pause is None and after.phase is before.phase:
        kind = "rollout-resumed"
    turn.decide(
        kind.replace("_", "-"),
        name,
        f"rollout {after.id} of {after.candidate}: {after.reason}",
        **rollout_facts(after),
    )


def rollout_facts(rollout: Rollout) -> dict[str, object]:
    """Return how a rollout stands, as JSON-able facts."""
    return {
        "rollout": rollout.id,
        "candidate": rollout.candidate,
        "stable": rollout.stable,
        "phase": rollout.phase.value,
        "step": rollout.step,
        "weight_pct": desired_traffic(rollout).candidate_weight,
        "evidence": rollout.plan.evidence,
        **rollout.evidence.numbers(),
        **({} if rollout.classes is None else rollout.classes.numbers()),
        "risk": rollout.plan.risk,
        "wrong_served": rollout.wrong_served,
        "verdict": None if rollout.verdict is None else rollout.verdict.value,
        "paused": None if rollout.pause is None else rollout.pause.cause,
    }


def written(turn: Turn, rollout: Rollout) -> None:
    """Have the registry told how a rollout stands."""
    version = turn.version_named(rollout.candidate)
    record_rollout(turn, version.episode, rollout, version.number)


def _recalibrate(turn: Turn, name: str, route: RouteCore) -> None:
    """Give the label-free monitors the promoted task's own rows, its training rows left out."""
    champion, monitors = turn.champion(name), turn.state.monitors[name]
    for run in turn.state.window.since(route.rollout_change_point):
        keys = [lineage_key(g or i) for g, i in zip(run.groups, run.ids, strict=True)]
        fresh = np.nonzero(~np.isin(np.array(keys, np.uint64), champion.trained_on))[0]
        if fresh.size:
            monitors.refer(champion.predict(run.rows.take(fresh)))
    monitors.settle()
