"""What an experiment tracker shows of a record: params, metrics and curves, sortable by column."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from deploy.registry_records import (
    EpisodeRecord,
    RecipeRecord,
    RolloutRecord,
    Scalar,
    TrainingRecord,
)

Curves = Mapping[str, tuple[tuple[int, float], ...]]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run.

    Attributes:
        params: What was set or decided.
        metrics: Final numbers, all finite.
        curves: By name, (step, value), all finite.
    """

    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)


def episode_facts(record: EpisodeRecord) -> RunFacts:
    """Return the parent run: the decision, its inputs and its lineage."""
    signal, gate = record.signal, record.gate
    params: dict[str, Scalar | None] = {
        "model": record.model,
        "route": record.route,
        "task_type": record.task_type,
        "champion": record.champion,
        "signal.kind": signal.kind,
        "signal.detector": signal.detector,
        "winner": record.winner,
        "outcome": record.outcome,
        "gate.verdict": gate.verdict if gate else None,
        "candidate.digest": record.candidate_digest,
        "config.fingerprint": record.config_fingerprint or None,
        **{f"{split.name}.digest": split.digest for split in record.splits},
        **{
            f"offsets.{span.topic}.{span.partition}": f"{span.first}..{span.last}"
            for span in record.offsets
        },
        **{f"seed.{name}": seed for name, seed in record.seeds.items()},
        **{f"version.{name}": version for name, version in record.versions.items()},
        **{f"setting.{name}": value for name, value in record.settings.items()},
    }
    metrics: dict[str, float | None] = {
        "position": record.position,
        "labels": record.labels,
        "signal.at": signal.at,
        "signal.change_point": signal.change_point,
        "signal.statistic": signal.statistic,
        "signal.threshold": signal.threshold,
        **{f"{split.name}.rows": split.rows for split in record.splits},
    }
    if record.task:
        params |= {"task.decision": record.task.kind, "task.version": record.task.task or None}
        metrics |= {"task.alpha": record.task.alpha, "task.e_needed": record.task.needed}
        standings = {f"task.{j.name}": j for j in record.task.remembered}
        for name, standing in {"task.champion": record.task.champion, **standings}.items():
            metrics |= {
                f"{name}.labels": standing.labels,
                f"{name}.loss": standing.loss,
                f"{name}.e_explains": standing.e_explains,
                f"{name}.e_fails": standing.e_fails,
                f"{name}.inputs_p": standing.inputs_p,
            }
    for recipe in record.recipes:
        if recipe.name in {"frozen", record.winner}:
            role = "winner" if recipe.name == record.winner else "frozen"
            metrics[f"{role}.query_loss"] = recipe.query_loss
            metrics[f"{role}.holdout_loss"] = recipe.holdout_loss
    if gate:
        metrics |= {
            "gate.n": gate.n,
            "gate.n_min": gate.n_min,
            "gate.champion_loss": gate.champion_loss,
            "gate.candidate_loss": gate.candidate_loss,
            "gate.wins": gate.wins,
            "gate.losses": gate.losses,
            "gate.p_value": gate.p_value,
        }
    return RunFacts(_texts(params), dict(_finite(metrics)))


def recipe_facts(recipe: RecipeRecord) -> RunFacts:
    """Return the nested run of one recipe."""
    params: dict[str, Scalar | None] = {
        "recipe": recipe.name,
        "zero_step": recipe.zero_step,
        "outcome": recipe.outcome,
        **recipe.params,
    }
    metrics = {
        "query_loss": recipe.query_loss,
        "holdout_loss": recipe.holdout_loss,
        "accuracy": recipe.accuracy,
        "seconds": recipe.seconds,
    }
    curves = {"query_loss_by_step": recipe.curve} if recipe.curve else {}
    return RunFacts(_texts(params), dict(_finite(metrics)), _finite_curves(curves))


def training_facts(record: TrainingRecord) -> RunFacts:
    """Return a training's run."""
    metrics = dict(_finite(record.metrics))
    return RunFacts(_texts(record.params), metrics, _finite_curves(record.curves))


def rollout_facts(record: RolloutRecord) -> RunFacts:
    """Return what a rollout adds to its episode's run; no params, since those cannot change."""
    metrics = {f"rollout.{name}": value for name, value in record.metrics.items()}
    curves = {"rollout.weight": record.weights} if record.weights else {}
    return RunFacts({}, dict(_finite(metrics)), _finite_curves(curves))


def _texts(values: Mapping[str, Scalar | None]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _finite(values: Mapping[str, float | None]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if value is not None and math.isfinite(value):
            yield name, float(value)


def _finite_curves(curves: Curves) -> dict[str, tuple[tuple[int, float], ...]]:
    return {
        name: tuple((step, value) for step, value in points if math.isfinite(value))
        for name, points in curves.items()
    }
