"""Rollouts at work, for the tests: a canary fed with labels by the plan's own weights."""

import numpy as np

from deploy.arms import arm_of
from deploy.rollout import (
    Arm,
    CanaryPlan,
    Rollout,
    admit,
    advance,
    desired_traffic,
    observe_answer,
    observe_assigned,
    observe_pair,
    start,
)


def validating(plan: CanaryPlan | None = None, now_s: float = 0.0) -> Rollout:
    """A rollout before its gate."""
    return start(
        id=3,
        route="*",
        kind="gated",
        stable="1-aaaa",
        candidate="2-bbbb",
        plan=plan or CanaryPlan(),
        now_s=now_s,
    )


def canary(plan: CanaryPlan | None = None, now_s: float = 0.0) -> Rollout:
    """A rollout at its first step (in mode recommend: before approval)."""
    return admit(validating(plan, now_s), now_s, may_enter=True, reason="gate passed")


def label(
    rollout: Rollout,
    loss_stable: float,
    loss_candidate: float,
    number: int = 0,
    *,
    name: str = "",
) -> Rollout:
    """One event scored under the traffic in force, and its label."""
    weight = desired_traffic(rollout).candidate_weight
    by_candidate = arm_of(f"event-{number}", "salt", weight)
    rollout = observe_assigned(rollout, events=1, by_candidate=int(by_candidate), weight_pct=weight)
    return observe_pair(
        rollout,
        loss_stable,
        loss_candidate,
        arm="candidate" if by_candidate else "stable",
        weight_pct=weight,
        label=name,
    )


def labels(
    rollout: Rollout, n: int, loss_stable: float, loss_candidate: float, *, name: str = ""
) -> Rollout:
    """``n`` equal labels, without a look in between."""
    for number in range(n):
        rollout = label(rollout, loss_stable, loss_candidate, number, name=name)
    return rollout


def run(
    rollout: Rollout, stable_error: float, candidate_error: float, *, seed: int, most: int = 1500
) -> Rollout:
    """Independent 0/1 losses, one look per label and second, until it ends or ``most`` labels."""
    rng = np.random.default_rng(seed)
    for number in range(most):
        if rollout.phase.terminal:
            break
        wrong = rng.random(2) < (stable_error, candidate_error)
        rollout = label(rollout, float(wrong[0]), float(wrong[1]), number + seed * most)
        rollout = advance(rollout, float(number + 1))
    return rollout


def answers(
    rollout: Rollout, stable_error: float, candidate_error: float, *, seed: int, most: int = 3000
) -> Rollout:
    """Independent 0/1 losses through a router, one look per label and second."""
    rng = np.random.default_rng(seed)
    for number in range(most):
        if rollout.phase.terminal:
            break
        weight = desired_traffic(rollout).candidate_weight
        by_candidate = bool(rng.random() < weight / 100)
        wrong = rng.random() < (candidate_error if by_candidate else stable_error)
        rollout = observe_assigned(
            rollout, events=1, by_candidate=int(by_candidate), weight_pct=weight
        )
        arm: Arm = "candidate" if by_candidate else "stable"
        rollout = observe_answer(rollout, float(wrong), arm=arm, weight_pct=weight)
        rollout = advance(rollout, float(number + 1))
    return rollout
