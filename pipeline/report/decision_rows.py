"""Turns the decisions topic into the report's rows. Tolerant: an absent fact becomes null.

Kinds that are read: ``signal``; ``episode-opened``, ``bake-off``, ``task``, ``episode-ended``;
``gate``; ``rollout-begun``, ``rollout-<phase>``, ``rollout-step``, ``rollout-paused``,
``rollout-resumed``, ``promotion``, ``rollback``. Others leave no row.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from pipeline.messages import Decision
from pipeline.report.report_rows import (
    EpisodeRow,
    GateRow,
    PauseRow,
    RecipeRow,
    RolloutRow,
    SignalRow,
    WeightRow,
)

N = TypeVar("N", int, float)


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A published decision, as far as a report needs it."""

    kind: str
    position: int = 0
    labels: int = 0
    at_ms: int = 0
    reason: str = ""
    facts: dict[str, object] = {}


@dataclass(frozen=True, slots=True)
class DecisionRows:
    """The rows, each list in the order of the decisions."""

    signals: list[SignalRow]
    episodes: list[EpisodeRow]
    gates: list[GateRow]
    rollouts: list[RolloutRow]


def read_decisions(
    decisions: Iterable[Decision | Mapping[str, object]],
) -> list[DecisionRecord]:
    """Return decisions, or the objects that were published for them, as records.

    Raises:
        msgspec.ValidationError: An object is no decision.
    """
    return [
        msgspec.convert(msgspec.to_builtins(d) if isinstance(d, Decision) else d, DecisionRecord)
        for d in decisions
    ]


def rows_of_decisions(records: Iterable[DecisionRecord]) -> DecisionRows:
    """Return the report's rows."""
    signals: list[SignalRow] = []
    gates: list[GateRow] = []
    episodes: dict[int, EpisodeRow] = {}
    rollouts: dict[int, RolloutRow] = {}
    for record in records:
        match record.kind:
            case "signal":
                signals.append(_signal(record))
            case "gate":
                gates.append(_gate(record))
            case "episode-opened" | "bake-off" | "task" | "episode-ended":
                number = integer(record.facts, "episode") or 0
                episodes[number] = _episode(episodes.get(number), number, record)
            case "promotion" | "rollback":
                number = integer(record.facts, "rollout") or 0
                rollouts[number] = _champion_moved(_rollout(rollouts, number, record), record)
            case kind if kind.startswith("rollout-"):
                number = integer(record.facts, "rollout") or 0
                rollouts[number] = _moved(_rollout(rollouts, number, record), record)
    return DecisionRows(signals, list(episodes.values()), gates, list(rollouts.values()))


# ---------------------------------------------------------------- facts


def number(facts: Mapping[str, object], name: str) -> float | None:
    """Return a finite number, else None."""
    value = facts.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def integer(facts: Mapping[str, object], name: str) -> int | None:
    """Return a whole number, else None."""
    value = facts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(facts: Mapping[str, object], name: str) -> str | None:
    """Return a string, else None."""
    value = facts.get(name)
    return value if isinstance(value, str) else None


def mapping(facts: Mapping[str, object], name: str) -> dict[str, object]:
    """Return an object, else an empty one."""
    value = facts.get(name)
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def listing(facts: Mapping[str, object], name: str) -> list[object]:
    """Return a list, else an empty one."""
    value = facts.get(name)
    return list(value) if isinstance(value, list | tuple) else []


# ---------------------------------------------------------------- signals, gates, episodes


def _signal(record: DecisionRecord) -> SignalRow:
    facts = mapping(record.facts, "signal") or record.facts
    at = integer(facts, "at")
    return SignalRow(
        position=record.position,
        at=record.position if at is None else at,
        kind=text(facts, "kind") or "unknown",
        detector=text(facts, "detector") or "unknown",
        change_point=integer(facts, "change_point"),
        statistic=number(facts, "statistic"),
        threshold=number(facts, "threshold"),
        verdict=text(record.facts, "verdict") or "",
        reason=record.reason,
    )


def _gate(record: DecisionRecord) -> GateRow:
    facts = mapping(record.facts, "gate") or record.facts
    return GateRow(
        position=record.position,
        episode=integer(record.facts, "episode"),
        recipe=text(record.facts, "recipe"),
        verdict=text(record.facts, "verdict") or "",
        enters_canary=record.facts.get("enters_canary") is True,
        n=integer(facts, "n"),
        n_min=integer(facts, "n_min"),
        champion_loss=number(facts, "champion_loss"),
        candidate_loss=number(facts, "candidate_loss"),
        p_value=number(facts, "p_value"),
        reason=record.reason,
    )


def _episode(row: EpisodeRow | None, count: int, record: DecisionRecord) -> EpisodeRow:
    facts = record.facts
    if row is None:
        row = EpisodeRow(
            number=count,
            kind=text(facts, "episode_kind") or "unknown",
            opened=record.position,
            ended=None,
            change_point=integer(facts, "change_point"),
            support=None,
            query=None,
            holdout=None,
            recipes=[],
            winner=None,
            outcome=None,
            task_decision=None,
            task=None,
            labels_used=None,
            reason=record.reason,
        )
    if record.kind == "bake-off":
        parts = mapping(facts, "labels")
        sizes = {name: len(listing(parts, name)) for name in ("support", "query", "holdout")}
        return replace(row, **sizes, reason=record.reason)
    if record.kind == "task":
        decided = mapping(facts, "task")
        return replace(row, task_decision=text(decided, "kind"), task=text(decided, "task") or None)
    if record.kind == "episode-ended":
        recipes = [_recipe(r) for r in listing(facts, "recipes") if isinstance(r, dict)]
        return replace(
            row,
            ended=record.position,
            outcome=text(facts, "outcome") or "unknown",
            labels_used=integer(facts, "labels_used"),
            recipes=recipes,
            winner=next((r.name for r in recipes if r.winner), None),
            reason=record.reason,
        )
    return row


def _recipe(facts: Mapping[str, object]) -> RecipeRow:
    return RecipeRow(
        name=text(facts, "name") or "unknown",
        outcome=text(facts, "outcome") or "unknown",
        query_loss=number(facts, "query_loss"),
        holdout_loss=number(facts, "holdout_loss"),
        query=integer(facts, "n_query"),
        holdout=integer(facts, "n_holdout"),
        winner=facts.get("winner") is True,
        message=text(facts, "message") or "",
    )


# ---------------------------------------------------------------- rollouts


def _rollout(rollouts: Mapping[int, RolloutRow], count: int, record: DecisionRecord) -> RolloutRow:
    if count in rollouts:
        return rollouts[count]
    facts = record.facts
    return RolloutRow(
        number=count,
        episode=integer(facts, "episode"),
        candidate=text(facts, "candidate") or "unknown",
        stable=text(facts, "stable") or "unknown",
        recipe=text(facts, "recipe"),
        mode=text(facts, "mode"),
        begun=record.position,
        ended=None,
        promoted=None,
        rolled_back=None,
        phase="validating",
        verdict=None,
        labels=None,
        gain=None,
        risk=number(facts, "risk"),
        wrong_served=None,
        weights=[],
        pauses=[],
        reason=record.reason,
    )


_OVER = frozenset({"rejected", "rolled_back", "expired", "promoted"})


def _moved(row: RolloutRow, record: DecisionRecord) -> RolloutRow:
    """Take in a ``rollout-...`` decision; after the promotion only phase and reason move."""
    facts = record.facts
    phase = text(facts, "phase") or row.phase
    row = replace(row, phase=phase, pauses=_pauses(row, record), reason=record.reason)
    if row.promoted is not None:
        return row
    return replace(
        row,
        ended=record.position if phase in _OVER and row.ended is None else row.ended,
        verdict=text(facts, "verdict") or row.verdict,
        labels=_newer(integer(facts, "labels"), row.labels),
        gain=_newer(number(facts, "gain"), row.gain),
        risk=_newer(number(facts, "risk"), row.risk),
        wrong_served=_newer(integer(facts, "wrong_served"), row.wrong_served),
        weights=_weights(row, record),
    )


def _champion_moved(row: RolloutRow, record: DecisionRecord) -> RolloutRow:
    if record.kind == "rollback":
        return replace(row, rolled_back=record.position, phase="rolled_back", reason=record.reason)
    return replace(
        row,
        promoted=record.position,
        ended=record.position if row.ended is None else row.ended,
        labels=_newer(integer(record.facts, "labels"), row.labels),
        reason=record.reason,
    )


def _newer(new: N | None, old: N | None) -> N | None:
    return old if new is None else new


def _weights(row: RolloutRow, record: DecisionRecord) -> list[WeightRow]:
    weight = number(record.facts, "weight_pct")
    before = row.weights[-1].weight_pct if row.weights else 0.0
    if weight is None or weight == before:
        return row.weights
    labels = integer(record.facts, "labels")
    return [*row.weights, WeightRow(position=record.position, weight_pct=weight, labels=labels)]


def _pauses(row: RolloutRow, record: DecisionRecord) -> list[PauseRow]:
    cause = text(record.facts, "paused")
    if "paused" not in record.facts:
        return row.pauses
    current = row.pauses[-1] if row.pauses and row.pauses[-1].until is None else None
    if current is not None and current.cause == cause:
        return row.pauses
    done = row.pauses
    if current is not None:
        done = [*row.pauses[:-1], replace(current, until=record.position)]
    if cause is None:
        return done
    return [*done, PauseRow(position=record.position, until=None, cause=cause)]
