"""A made-up run in the words of the decisions topic: three regimes, one promotion, one refusal."""

import numpy as np

from pipeline.messages import Decision
from pipeline.report.assemble import Boundary, RunFacts, assemble
from pipeline.report.measures import StreamLosses
from pipeline.report.report_schema import Report

EVENTS = 3750
BOUNDARIES = (
    Boundary(300, "a new plan", oracle=0.97),
    Boundary(1300, "the light changes", oracle=0.96),
    Boundary(1800, "labels go wrong"),
    Boundary(2800, "the first plan again", oracle=0.97),
    Boundary(3400, "a third plan, announced", oracle=0.97),
)
LABELS_AT = np.arange(5, EVENTS, 5, dtype=np.int64)


def decision(kind: str, position: int, reason: str = "", **facts: object) -> Decision:
    return Decision(
        key=f"m-{kind}-{position}",
        kind=kind,
        model="lanes",
        route="*",
        position=position,
        labels=int(np.searchsorted(LABELS_AT, position, side="right")),
        at_ms=position * 20,
        reason=reason,
        facts=facts,
    )


def signal(position: int, kind: str, detector: str, verdict: str) -> Decision:
    facts = {
        "kind": kind,
        "detector": detector,
        "at": position - 40,
        "change_point": position - 60,
        "statistic": 0.6,
        "threshold": 0.2,
    }
    return decision("signal", position, f"{kind} rose", signal=facts, verdict=verdict)


def episode(
    number: int, opened: int, ended: int, winner: str, kind: str = "drift"
) -> list[Decision]:
    """An episode of 40 + 20 + 20 labels."""
    outcome = "frozen wins" if winner == "frozen" else "candidate"
    names = ("frozen", "recalled:1", "reptile", "maml", "fine_tune", "scratch")
    recipes = [
        {
            "name": name,
            "outcome": "ok",
            "message": "",
            "query_loss": 0.05 if name == winner else 0.4,
            "holdout_loss": float("nan"),
            "n_query": 20,
            "n_holdout": 20,
            "curve": [[0, 0.5], [5, 0.05]],
            "winner": name == winner,
        }
        for name in names
    ]
    labels = {"support": list(range(40)), "query": list(range(20)), "holdout": list(range(20))}
    return [
        decision(
            "episode-opened", opened, episode=number, episode_kind=kind, change_point=opened - 20
        ),
        decision("bake-off", ended - 1, episode=number, request=1, labels=labels),
        decision(
            "gate",
            ended,
            "16 of 20",
            episode=number,
            recipe=winner,
            verdict="pass",
            enters_canary=winner != "frozen",
            gate={"n": 20, "n_min": 18, "champion_loss": 0.5, "candidate_loss": 0.05},
        ),
        decision(
            "episode-ended",
            ended,
            f"episode {number}: {outcome}",
            episode=number,
            episode_kind=kind,
            outcome=outcome,
            recipes=recipes,
            labels_used=(ended - opened) // 5,
        ),
    ]


def rollout(
    number: int,
    from_episode: int,
    steps: dict[int, int],
    *,
    promoted: int | None = None,
    over: tuple[int, str] | None = None,
    paused: tuple[int, str] | None = None,
    names: tuple[str, str] = ("1-aaaa", "2-bbbb"),
) -> list[Decision]:
    stable, candidate = names

    def stand(position: int, kind: str, weight: float, phase: str, cause: str | None) -> Decision:
        return decision(
            kind,
            position,
            f"rollout {number}: {phase}",
            rollout=number,
            stable=stable,
            candidate=candidate,
            phase=phase,
            weight_pct=weight,
            labels=position // 50,
            gain=0.3,
            wrong_served=3,
            risk=0.01,
            verdict="inconclusive",
            paused=cause,
        )

    first = min(steps)
    found = [
        decision(
            "rollout-begun",
            first,
            rollout=number,
            stable=stable,
            candidate=candidate,
            episode=from_episode,
            recipe="maml",
            mode="auto",
        )
    ]
    found += [stand(at, "rollout-step", weight, "canary", None) for at, weight in steps.items()]
    if paused is not None:
        at, cause = paused
        found.append(stand(at, "rollout-paused", 0, "canary", cause))
    if promoted is not None:
        found.append(stand(promoted, "rollout-promoting", 100, "promoting", None))
        found.append(
            decision(
                "promotion",
                promoted,
                "shown better",
                rollout=number,
                champion=candidate,
                former=stable,
                labels=25,
            )
        )
    if over is not None:
        at, phase = over
        found.append(stand(at, f"rollout-{phase.replace('_', '-')}", 0, phase, None))
    return found


def sample_decisions() -> list[Decision]:
    v = ("1-aaaa", "2-bbbb", "3-cccc")
    return [
        signal(445, "error", "HDDMA", "Start"),
        *episode(1, 445, 770, "maml"),
        *rollout(1, 1, {770: 5, 830: 25, 890: 50}, promoted=930, names=(v[0], v[1])),
        signal(1420, "features", "ShiryaevRoberts", "Start"),
        *episode(2, 1420, 1610, "frozen"),
        signal(2010, "error", "HDDMA", "Start"),
        signal(2150, "confidence", "ShiryaevRoberts", "Hold"),
        *episode(3, 2010, 2350, "fine_tune"),
        *rollout(
            2,
            3,
            {2350: 5},
            paused=(2420, "labels suspect"),
            over=(2760, "rejected"),
            names=(v[1], v[2]),
        ),
        signal(2935, "error", "HDDMA", "Start"),
        *episode(4, 2935, 3060, "recalled:1"),
        *rollout(3, 4, {3060: 5, 3100: 25}, promoted=3170, names=(v[1], v[0])),
        signal(3400, "announced", "control", "Start"),
        *episode(5, 3400, 3420, "maml", kind="announced"),
        *rollout(4, 5, {3425: 5, 3480: 25}, promoted=3540, names=(v[0], "4-dddd")),
    ]


def sample_losses(seed: int = 0) -> StreamLosses:
    draw = np.random.default_rng(seed)
    position = np.arange(EVENTS, dtype=np.int64)
    frozen_error = np.full(EVENTS, 0.03)
    served_error = np.full(EVENTS, 0.03)
    for start, end, frozen, served in (
        (300, 930, 0.5, 0.5),
        (930, 2800, 0.5, 0.05),
        (2800, 3170, 0.03, 0.5),
        (3400, 3540, 0.48, 0.48),
        (3540, EVENTS, 0.48, 0.05),
    ):
        frozen_error[start:end], served_error[start:end] = frozen, served
    chance = draw.random(EVENTS)
    return StreamLosses(
        position,
        (chance < served_error).astype(np.float64),
        (chance < frozen_error).astype(np.float64),
        tuple(draw.choice(["left", "right"], EVENTS).tolist()),
    )


def sample_facts(**changed: object) -> RunFacts:
    facts: dict[str, object] = {
        "source": "digits.csv",
        "model": "lanes",
        "task_type": "classification",
        "events": EVENTS,
        "labels_at": LABELS_AT,
        "labels_needed": 80,
        "label_delay": 75,
        "dead_letters": 1,
        "seeds": {"stream": 0},
        "versions": {"metadrift": "0.1.0"},
    }
    return RunFacts(**(facts | changed))  # type: ignore[arg-type]


def sample_report() -> Report:
    return assemble(sample_facts(), sample_losses(), sample_decisions(), BOUNDARIES)
