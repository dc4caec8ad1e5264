"""How a model stands, from a glimpse at its state file."""

import os

import msgspec

from adapters.task_memory import TaskMemory
from deploy.risk_budget import RiskBudget, left, next_alpha, returns_at
from deploy.rollout import Rollout, desired_traffic
from deploy.sequential import PairedEvidence
from pipeline.core_state import Core, Episode, RaisedLoss, RouteCore, decode_core
from pipeline.messages import Decision
from pipeline.raised_loss import labels_to_look
from pipeline.records import ModelsFound, ServingSeen
from pipeline.settings import Settings
from pipeline.state_file import LEASE_S, StateError
from pipeline.state_glimpse import Glimpse
from pipeline.state_schema import FORMAT
from pipeline.status_document import (
    BusyRoute,
    EpisodeStatus,
    HistoryStatus,
    OwnerState,
    OwnerStatus,
    RiskStatus,
    RolloutStatus,
    RouteStatus,
    ServingStatus,
    Status,
    TaskRoutesStatus,
    VersionStatus,
)


def core_of(settings: Settings, seen: Glimpse) -> Core:
    """Return the small state; a new one before the first commit.

    Raises:
        StateError: The file is another model's, or of a format that this release does not read.
    """
    if seen.meta.get("format") != str(FORMAT):
        raise StateError(
            f"the state file has format {seen.meta.get('format')}, this release reads {FORMAT}: "
            "use the release that wrote it"
        )
    if seen.meta.get("model") != settings.model.name:
        raise StateError(
            f"the state file belongs to model '{seen.meta.get('model')}', not "
            f"'{settings.model.name}': correct model.name or state_dir"
        )
    return Core() if seen.core is None else decode_core(seen.core)


def status_of(
    settings: Settings, seen: Glimpse, waiting: ModelsFound, now_s: float, host: str
) -> Status:
    """Return how the model stands.

    Args:
        settings: The configuration.
        seen: The state file.
        waiting: Models that the next start takes.
        now_s: The host's clock, seconds since the epoch.
        host: This host's name.

    Raises:
        StateError: The file is another model's or of another format.
    """
    core = core_of(settings, seen)
    labelled = core.counts.get("served_labelled", 0)
    return Status(
        model=settings.model.name,
        task_type=settings.model.task_type,
        owner=owner_status(seen, now_s, host),
        engine_time_ms=core.time_ms,
        events=core.next,
        labels=core.labels,
        served_loss=core.served_loss / labelled if labelled else None,
        counts=dict(sorted(core.counts.items())),
        ignored_features=dict(sorted(core.extra_features.items())),
        positions=dict(sorted(core.positions.items())),
        routes={
            name: _route(settings, core, route, seen.memories.get(name, b""))
            for name, route in core.routes.items()
        },
        task_routes=_task_routes(core, seen),
        serving=_serving(core.serving),
        versions=[
            VersionStatus(name=v.name, recipe=v.recipe, episode=v.episode, registered=v.registered)
            for v in core.versions.values()
        ],
        meta_init=core.meta_init,
        waiting_champion="" if core.versions else waiting.champion,
        waiting_meta_init=waiting.meta_init if waiting.meta_init != core.meta_init else "",
        risk=risk_status(settings, core),
        outbox=seen.outbox,
        decisions=[msgspec.json.decode(d, type=Decision) for d in seen.decisions],
    )


def _task_routes(core: Core, seen: Glimpse) -> TaskRoutesStatus | None:
    if core.routing is None:
        return None
    return TaskRoutesStatus(
        tasks=seen.tasks,
        open=core.routing.open,
        waiting=len(core.routing.waiting),
        busiest=[BusyRoute(task=t, labels=n, open=o) for t, n, o in seen.busiest],
    )


def owner_status(seen: Glimpse, now_s: float, host: str) -> OwnerStatus:
    """Return whether the owner lives."""
    if seen.owner is None:
        return OwnerStatus(state="never started")
    epoch, its_host, pid, heard_s = seen.owner
    state: OwnerState = "running"
    if pid == 0:
        state = "stopped"
    elif its_host == host and not _exists(pid):
        state = "gone"
    elif now_s - heard_s > LEASE_S:
        state = "silent"
    return OwnerStatus(
        state=state, host=its_host, pid=pid, heard_s_ago=max(0.0, now_s - heard_s), epoch=epoch
    )


def risk_status(settings: Settings, core: Core) -> RiskStatus:
    """Return what is left of the wrong-promotion budget."""
    rollout, now_s = settings.rollout, core.time_ms / 1000
    # As pipeline.rollouts begins it; that module imports torch, which takes seconds.
    budget = core.risk or RiskBudget(
        risk=rollout.wrong_promotions_per_30_days,
        lag_s=rollout.longest_wait_s or 0.0,
        most=rollout.risk_per_rollout,
    )
    return RiskStatus(
        per_30_days=budget.risk,
        left=left(budget, now_s),
        next_rollout=next_alpha(budget, now_s),
        returns_at_s=returns_at(budget, now_s),
    )


def _route(settings: Settings, core: Core, route: RouteCore, memory: bytes) -> RouteStatus:
    waiting = route.waiting
    return RouteStatus(
        champion=core.versions[route.champion].name if route.champion else None,
        earlier=[core.versions[number].name for number in route.earlier],
        remembered=[task.name for task in TaskMemory.unpack(memory).tasks],
        labels_since_champion=core.labels - route.champion_since_label,
        episode=_episode(settings, core, route.episode) if route.episode else None,
        rollout=_rollout(core, route.rollout) if route.rollout else None,
        probation=_rollout(core, route.probation) if route.probation else None,
        ended=_rollout(core, route.ended) if route.ended else None,
        waiting=f"{waiting.kind.value} ({waiting.detector}) at {waiting.at}" if waiting else None,
        raised=_raised(settings, route.raised) if route.raised else None,
    )


def _raised(settings: Settings, raised: RaisedLoss) -> str:
    to_look = labels_to_look(settings, raised)
    return (
        f"the loss since {raised.change_point} ({raised.detector}); look {raised.looks + 1} "
        f"at {to_look} labels, {raised.labels} came"
    )


def _serving(seen: ServingSeen | None) -> ServingStatus | None:
    if seen is None:
        return None
    traffic = seen.traffic
    return ServingStatus(
        stable=None if traffic is None else traffic.stable,
        candidate=None if traffic is None else traffic.candidate,
        weight_pct=0 if traffic is None else traffic.candidate_weight,
        failures={version: f.count for version, f in seen.failures.items()},
        problem=seen.problem,
    )


def _episode(settings: Settings, core: Core, episode: Episode) -> EpisodeStatus:
    since, deadline = core.labels - episode.opened_label, settings.episode.deadline_labels
    return EpisodeStatus(
        number=episode.number,
        kind=episode.kind,
        phase=episode.phase,
        change_point=episode.change_point,
        labels_since_opening=since,
        labels_to_deadline=None if deadline is None else max(0, deadline - since),
        task=episode.task,
        winner=episode.winner,
        decision=": ".join(str(episode.decision[k]) for k in ("kind", "reason"))
        if episode.decision
        else "",
        signal=f"{episode.signal.kind.value} ({episode.signal.detector}): {episode.signal.detail}",
    )


def _rollout(core: Core, rollout: Rollout) -> RolloutStatus:
    evidence, pause = rollout.evidence, rollout.pause
    made_by = next(v.episode for v in core.versions.values() if v.name == rollout.candidate)
    return RolloutStatus(
        id=rollout.id,
        candidate=rollout.candidate,
        stable=rollout.stable,
        phase=rollout.phase.value,
        mode=rollout.plan.mode,
        step=rollout.step + 1,
        steps=len(rollout.plan.weights),
        weights=list(rollout.plan.weights),
        weight_pct=desired_traffic(rollout).candidate_weight,
        labels=evidence.n,
        step_labels=rollout.step_labels,
        gain=evidence.gain,
        evidence=rollout.plan.evidence,
        wins=evidence.wins if isinstance(evidence, PairedEvidence) else None,
        losses=evidence.losses if isinstance(evidence, PairedEvidence) else None,
        e_better=evidence.better.e_value(),
        e_needed=1.0 / rollout.plan.risk,
        e_worse=evidence.worse.e_value(),
        wrong_served=rollout.wrong_served,
        paused=None if pause is None else f"{pause.cause}: {pause.reason}",
        packet=core.packets.get(made_by or 0, "")[:8],
        reason=rollout.reason,
        history=[
            HistoryStatus(at_s=h.at_s, phase=h.phase.value, step=h.step + 1, reason=h.reason)
            for h in rollout.history
        ],
    )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
