"""What the registry is told about episodes, versions and rollouts, through the outbox."""

from importlib.metadata import version as installed
from typing import TYPE_CHECKING

import msgspec

from deploy.registry_records import (
    EpisodeRecord,
    GateRecord,
    ModelVersionRecord,
    OffsetRange,
    RecipeRecord,
    RolloutRecord,
    SignalRecord,
    SplitRecord,
    TaskRecord,
)
from deploy.review_packet import packet_digest, packet_html
from deploy.rollout import Rollout
from pipeline.core_state import Candidate, Episode, OffsetMark, Version
from pipeline.turn import Turn

if TYPE_CHECKING:
    from deploy.gate import GateResult

PACKETS_REMEMBERED = 20
MARK_EVERY = 256
MOST_MARKS = 400
LIBRARIES = ("metadrift", "torch", "river", "numpy", "scikit-learn")


def mark_offsets(turn: Turn) -> None:
    """Remember now and then where the partitions stand, so that lineage can name offset ranges."""
    core, position = turn.core, turn.state.window.next
    if not core.marks or position - core.marks[-1].position >= MARK_EVERY:
        core.marks.append(OffsetMark(position, dict(core.positions)))
        del core.marks[:-MOST_MARKS]


def offsets_since(turn: Turn, position: int) -> tuple[OffsetRange, ...]:
    """Return the records from which the examples at ``position`` and later came."""
    earlier = [m for m in turn.core.marks if m.position <= position]
    first = earlier[-1].positions if earlier else {}
    ranges = []
    for name, after in sorted(turn.core.positions.items()):
        topic, _, partition = name.rpartition("/")
        low = first.get(name, 0)
        if after > low:
            ranges.append(OffsetRange(topic, int(partition), low, after - 1))
    return tuple(ranges)


def episode_key(turn: Turn, number: int) -> str:
    """Return the key under which the registry knows an episode."""
    return f"{turn.settings.model.name}/{turn.core.state_id}/episode-{number}"


def record_episode(
    turn: Turn,
    route: str,
    episode: Episode,
    outcome: str,
    reason: str,
    gate: "GateResult | None" = None,
) -> None:
    """Have an ended episode written down."""
    core, settings = turn.core, turn.settings
    signal = episode.signal
    record = EpisodeRecord(
        key=episode_key(turn, episode.number),
        model=settings.model.name,
        route=route,
        at_ms=core.time_ms,
        position=turn.state.window.next,
        labels=core.labels,
        task_type=settings.model.task_type,
        champion=turn.version(turn.route(route).champion).name,
        signal=SignalRecord(
            signal.kind.value,
            signal.detector,
            signal.at,
            signal.change_point,
            signal.statistic,
            signal.threshold,
            signal.detail,
        ),
        offsets=offsets_since(turn, episode.change_point),
        splits=tuple(SplitRecord(n, rows, d) for n, (rows, d) in episode.splits.items()),
        recipes=tuple(msgspec.convert(r, RecipeRecord) for r in episode.recipes),
        winner=episode.winner,
        outcome=outcome,
        reason=reason,
        gate=None if gate is None else gate_record(gate),
        candidate_digest=None if episode.candidate is None else episode.candidate.digest,
        seeds={"bake_off": settings.episode.seed + episode.number},
        versions={name: installed(name) for name in LIBRARIES},
        settings={
            "support": settings.episode.support,
            "query": settings.episode.query,
            "holdout": settings.episode.holdout,
            "mode": settings.rollout.mode,
        },
        config_fingerprint=settings.fingerprint(),
        task=msgspec.convert(episode.decision, TaskRecord) if episode.decision else None,
    )
    core.packets[episode.number] = packet_digest(packet_html(record))
    for old in sorted(core.packets)[:-PACKETS_REMEMBERED]:
        del core.packets[old]
    turn.effect(
        "episode",
        f"episode-{episode.number}",
        number=episode.number,
        record=msgspec.to_builtins(record),
    )


def gate_record(gate: "GateResult") -> GateRecord:
    """Return a gate's result as the registry takes it."""
    return GateRecord(
        gate.verdict.value,
        gate.n,
        gate.n_min,
        gate.champion_mean,
        gate.candidate_mean,
        gate.wins,
        gate.losses,
        gate.p_value,
        gate.reason,
    )


def register(
    turn: Turn, version: Version, alias: str, reason: str, candidate: Candidate | None = None
) -> None:
    """Have a version registered, unless it was, and an alias pointed at it."""
    core = turn.core
    key = f"{turn.settings.model.name}/{core.state_id}/version-{version.number}"
    if candidate is None or version.episode is None:
        run_key = f"{key}/made"
    else:
        run_key = f"{episode_key(turn, version.episode)}/{version.recipe}"
    if not version.asked:
        version.asked = True
        record = ModelVersionRecord(
            key=key,
            run_key=run_key,
            at_ms=core.time_ms,
            digest=version.digest,
            recipe=version.recipe,
            reason=reason[:400],
            packet_digest=core.packets.get(version.episode or 0),
            facts={"metadrift_version": version.name},
        )
        turn.effect(
            "version",
            f"version-{version.number}",
            number=version.number,
            episode=version.episode or 0,
            record=msgspec.to_builtins(record),
        )
    turn.effect("alias", f"alias-{core.decisions}-{alias}", alias=alias, number=version.number)


def record_rollout(turn: Turn, episode: int | None, rollout: Rollout, number: int) -> None:
    """Have a rollout's standing written beside its episode and on its version."""
    if episode is None:
        return
    numbers = rollout.evidence.numbers()
    if rollout.classes is not None:
        numbers |= rollout.classes.numbers()
    record = RolloutRecord(
        episode_key=episode_key(turn, episode),
        version=str(number),
        at_ms=turn.core.time_ms,
        phase=rollout.phase.value,
        verdict="" if rollout.verdict is None else rollout.verdict.value,
        reason=rollout.reason,
        metrics={
            **{name: float(value) for name, value in numbers.items()},
            "wrong_served": float(rollout.wrong_served),
        },
    )
    turn.effect(
        "rollout",
        f"rollout-{rollout.id}-{rollout.phase.value}",
        number=number,
        record=msgspec.to_builtins(record),
    )
