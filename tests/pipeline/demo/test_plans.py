from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.demo.plans import (
    DIGITS,
    LANES,
    META_PLANS,
    NEW_LANE,
    difference,
    draw_plans,
    every_plan,
    lane,
    swapped,
)

SEEDS = st.integers(0, 10_000)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_plans_that_follow_each_other_differ_in_four_to_six_digits(seed: int) -> None:
    plans = draw_plans(seed)
    in_order = [plans.first, plans.second, plans.first, plans.third]
    for before, after in pairwise(in_order):
        assert 4 <= difference(before, after) <= 6


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_the_streams_plans_and_their_swaps_are_in_no_meta_training_set(seed: int) -> None:
    plans = draw_plans(seed)
    assert len(set(plans.meta)) == META_PLANS
    for plan in (plans.first, plans.second, plans.third):
        assert plan not in plans.meta
        assert frozenset(range(DIGITS)) - plan not in plans.meta


def test_another_seed_has_other_plans_and_the_same_seed_the_same() -> None:
    assert draw_plans(3) == draw_plans(3)
    assert len({draw_plans(seed).second for seed in range(20)}) > 10


def test_every_plan_uses_both_lanes() -> None:
    for plan in every_plan():
        assert {lane(plan, digit) for digit in range(DIGITS)} == set(LANES)


def test_swapping_twice_changes_nothing() -> None:
    assert [swapped(swapped(name)) for name in LANES] == list(LANES)
    assert all(swapped(name) != name for name in LANES)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_the_new_lane_takes_one_digit_from_each_lane(seed: int) -> None:
    plans = draw_plans(seed)
    assert sorted(lane(plans.third, digit) for digit in plans.opened) == list(LANES)
    lanes = [lane(plans.third, digit, plans.opened) for digit in range(DIGITS)]
    assert lanes.count(NEW_LANE) == 2
    assert set(LANES) < set(lanes)
