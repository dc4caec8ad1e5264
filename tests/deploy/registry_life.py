"""What the registry is told over the life of two rollouts, and a process to be killed over it.

The effects are in the order of an outbox: one that has not succeeded is told again before the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import mlflow.pyfunc  # noqa: F401 - so that a process which is forked has it already

from deploy.mlflow_registry import MlflowRegistry
from deploy.registry_records import EpisodeRecord, ModelVersionRecord, RolloutRecord
from deploy.rollout import Rollout, apply_verb, desired_traffic
from tests.deploy.canaries import canary, labels
from tests.deploy.episodes import AT_MS, episode, model_folder, version_record


@dataclass(frozen=True, slots=True)
class Version:
    """Have a model folder registered."""

    name: str
    folder: Path
    record: ModelVersionRecord


@dataclass(frozen=True, slots=True)
class Alias:
    """Point an alias at the version of a name; without one, clear it."""

    alias: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Write how a rollout stands."""

    rollout: Rollout
    record: RolloutRecord


Effect = Version | Alias | Standing | EpisodeRecord


def life(folder: Path) -> tuple[list[Effect], list[Rollout]]:
    """Return the effects of a promotion that is undone, and the rollout as it went."""
    record = episode()
    record = replace(record, recipes=record.recipes[1:2])  # the winner alone
    made: list[Effect] = []
    for name, key, of in (("1-aaaa", "v/1", None), ("2-bbbb", "v/2", record)):
        path, digest = model_folder(folder / name, f'{{"name": "{name}"}}'.encode())
        made.append(Version(name, path, version_record(key, digest, episode_record=of)))
    first, second = made
    serving = apply_verb(labels(canary(), 20, 1.0, 0.0), "promote_full", "ann", 20.0)
    undone = apply_verb(serving, "undo", "ann", 30.0)
    stages = [canary(), serving, undone]
    effects: list[Effect] = [first, Alias("champion", "1-aaaa"), record, second]
    effects.append(Alias("candidate", "2-bbbb"))
    for at, rollout in enumerate(stages):
        effects.append(Alias("champion", desired_traffic(rollout).stable))
        if rollout is not stages[0]:
            effects.append(Alias("candidate", None))
        effects.append(Standing(rollout, standing(rollout, record.key, at)))
    return effects, stages


def standing(rollout: Rollout, key: str, at: int) -> RolloutRecord:
    """Return a rollout's record; its version is filled in when it is told."""
    phase = rollout.phase.value
    metrics = {"labels": float(rollout.evidence.n)}
    return RolloutRecord(key, "", AT_MS + at, phase, "", rollout.reason, metrics)


def tell(registry: MlflowRegistry, effect: Effect, registered: dict[str, str]) -> None:
    """Carry out one effect; ``registered`` is the registry's number by version's name."""
    match effect:
        case Version(name, folder, record):
            registered[name] = registry.register_version(folder, record)
        case Alias(alias, None):
            registry.clear_alias(alias)
        case Alias(alias, str(name)):
            registry.set_alias(alias, registered[name])
        case Standing(rollout, record):
            registry.record_rollout(replace(record, version=registered[rollout.candidate]))
        case EpisodeRecord():
            registry.record_episode(effect)


def tell_until_killed(
    pipe: Connection,
    address: str,
    model: str,
    effects: Sequence[Effect],
    registered: dict[str, str],
) -> None:
    """Tell effects in order and say of each that it is done."""
    registry = MlflowRegistry(address, model=model)
    for effect in effects:
        tell(registry, effect, registered)
        pipe.send(registered)
