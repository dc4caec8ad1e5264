"""The simulation behind docs/results/canaries.md is the product: same draws, same ends."""

import numpy as np
import pytest

from benchmarks.canary_simulation import (
    FAIL,
    PASS,
    UNDECIDED,
    Judges,
    World,
    always,
    draw,
    happen,
    simulate,
)
from deploy.rollout import (
    CanaryPlan,
    Phase,
    advance,
    desired_traffic,
    observe_answer,
    observe_assigned,
    observe_pair,
)
from deploy.sequential import BettingTest
from tests.deploy.canaries import canary

CANARIES, MOST = 24, 240
PAIRED = CanaryPlan(weights=(5, 25, 50), longest_wait_labels=150)
SINGLE = CanaryPlan(
    weights=(25, 60), evidence="unpaired", longest_wait_labels=200, least_label_coverage=0.3
)
WORLDS = {
    "equal": World(always(0.3), always(0.3)),
    "better": World(always(0.4), always(0.1)),
    "worse": World(always(0.1), always(0.5)),
    "late": World(always(0.4), always(0.1), delay=30),
    "skewed": World(always(0.4), always(0.1), arrival=((1.0, 1.0), (0.2, 0.2))),
    "turns": World(always(0.4), always(0.1), turns=True),
}


def product_ends(world, plan, seed):
    """The same canaries, one by one, through ``deploy.rollout``."""
    rng = np.random.default_rng(seed)
    chances = [draw(rng, CANARIES) for _ in range(MOST)]
    ends = []
    for number in range(CANARIES):
        rollout, waiting = canary(plan), []
        for t in range(MOST):
            weight = desired_traffic(rollout).candidate_weight
            seen = happen(world, t, chances[t][:, [number]], np.array([weight]))
            by_candidate = bool(seen.by_candidate[0])
            rollout = observe_assigned(
                rollout, events=1, by_candidate=int(by_candidate), weight_pct=weight
            )
            waiting.append((seen, weight))
            if len(waiting) > world.delay:
                rollout = label(rollout, *waiting.pop(0))
            rollout = advance(rollout, float(t))
            if rollout.phase is not Phase.CANARY:
                break
        ends.append(rollout)
    return ends


def label(rollout, seen, weight):
    if not seen.labelled[0]:
        return rollout
    arm = "candidate" if seen.by_candidate[0] else "stable"
    losses = float(seen.stable[0]), float(seen.candidate[0])
    if rollout.plan.evidence == "paired":
        return observe_pair(rollout, *losses, arm=arm, weight_pct=weight)
    return observe_answer(rollout, losses[int(seen.by_candidate[0])], arm=arm, weight_pct=weight)


@pytest.mark.parametrize("plan", [PAIRED, SINGLE], ids=["paired", "unpaired"])
@pytest.mark.parametrize("world", list(WORLDS))
def test_every_simulated_canary_ends_as_the_products(plan, world):
    ends = simulate(WORLDS[world], plan, CANARIES, 7, MOST)
    verdicts = {Phase.PROMOTING: PASS, Phase.ROLLED_BACK: FAIL}
    for number, rollout in enumerate(product_ends(WORLDS[world], plan, 7)):
        assert ends.verdict[number] == verdicts.get(rollout.phase, UNDECIDED)
        assert ends.labels[number] == rollout.evidence.n
        assert ends.step[number] == rollout.step


@pytest.mark.parametrize("plan", [PAIRED, SINGLE], ids=["paired", "unpaired"])
def test_the_e_values_are_the_products(plan):
    judges, rollout, rng = Judges(plan, 1), canary(plan), np.random.default_rng(3)
    for t in range(120):
        weights = judges.weights
        seen = happen(WORLDS["equal"], t, draw(rng, 1), weights)
        judges.assign(seen, weights)
        judges.learn(seen, weights)
        rollout = observe_assigned(
            rollout, events=1, by_candidate=int(seen.by_candidate[0]), weight_pct=int(weights[0])
        )
        rollout = label(rollout, seen, int(weights[0]))
        tests = (rollout.evidence.better, rollout.evidence.worse, rollout.evidence.safe)
        for test, wealth in zip(tests, judges.wealth[0], strict=True):
            assert isinstance(test, BettingTest)
            assert test.log_wealth == pytest.approx(wealth.tolist(), rel=1e-9, abs=1e-12)
        for counts, logs in (
            (rollout.assigned, judges.assigned),
            (rollout.labelled, judges.labelled),
        ):
            mean = np.log(np.exp(logs[0]).mean())
            assert counts.log_e() == pytest.approx(float(mean), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("plan", [PAIRED, SINGLE], ids=["paired", "unpaired"])
@pytest.mark.parametrize("turns", [False, True], ids=["drawn", "in turns"])
def test_wrong_promotions_with_a_look_after_every_label(plan, turns):
    ends = simulate(World(always(0.3), always(0.3), turns=turns), plan, 2000, 11, 400)
    rate = (ends.verdict == PASS).mean()
    assert rate <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert (ends.labels > 0).all()
