"""Lane plans: which digits a sorting centre sends to lane B.

A plan sends 3 to 5 of the 10 digits to lane B and the others to lane A. Plans that follow each
other differ in 4 to 6 digits: fewer is hardly a change, more is nearly a swap of the lanes.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

DIGITS = 10
LANES = ("A", "B")
NEW_LANE = "C"
"""It opens in chapter 7; no model has ever heard of it."""
META_PLANS = 40
LEAST_DIFFERENCE, MOST_DIFFERENCE = 4, 6

Plan = frozenset[int]
"""The digits that go to lane B."""


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans of one demo.

    Attributes:
        meta: The plans of meta-training; none of the others, and no lane swap of one, is in it.
        first: In force in chapters 1 and 5; the first champion is fitted to it.
        second: In force in chapters 2 to 4.
        third: In force in chapters 6 and 7.
        opened: The digits for which the new lane opens in chapter 7, one from each lane.
    """

    meta: tuple[Plan, ...]
    first: Plan
    second: Plan
    third: Plan
    opened: frozenset[int]


def every_plan() -> list[Plan]:
    """Return all plans in a fixed order.

    >>> len(every_plan())
    582
    """
    return [frozenset(chosen) for n in (3, 4, 5) for chosen in combinations(range(DIGITS), n)]


def lane(plan: Plan, digit: int, opened: frozenset[int] = frozenset()) -> str:
    """Return the lane of a digit; those that the new lane is opened for leave their own.

    >>> lane(frozenset({1, 2, 3}), 2), lane(frozenset({1, 2, 3}), 7)
    ('B', 'A')
    >>> lane(frozenset({1, 2, 3}), 2, opened=frozenset({2, 7}))
    'C'
    """
    return NEW_LANE if digit in opened else LANES[digit in plan]


def swapped(name: str) -> str:
    """Return the other lane.

    >>> swapped("A")
    'B'
    """
    return LANES[1 - LANES.index(name)]


def difference(one: Plan, other: Plan) -> int:
    """Return how many digits two plans send to different lanes.

    >>> difference(frozenset({1, 2, 3}), frozenset({2, 3, 4, 5}))
    3
    """
    return len(one ^ other)


def draw_plans(seed: int, meta: int = META_PLANS) -> Plans:
    """Return the plans of a demo.

    Args:
        seed: Decides them.
        meta: How many serve meta-training.
    """
    every = every_plan()
    places: list[int] = np.random.default_rng([seed, 1]).permutation(len(every)).tolist()
    order = [every[i] for i in places]
    first = order.pop(0)

    def follower() -> Plan:
        for plan in order:
            if LEAST_DIFFERENCE <= difference(first, plan) <= MOST_DIFFERENCE:
                order.remove(plan)
                return plan
        raise AssertionError("some of 582 plans differ in 4 to 6 digits from any other")

    second, third = follower(), follower()
    told = {first, second, third}
    told |= {frozenset(range(DIGITS)) - plan for plan in told}
    rng = np.random.default_rng([seed, 7])
    lanes = (sorted(third), sorted(frozenset(range(DIGITS)) - third))
    opened = frozenset(int(rng.choice(digits)) for digits in lanes)
    kept = tuple([plan for plan in order if plan not in told][:meta])
    return Plans(kept, first, second, third, opened)
