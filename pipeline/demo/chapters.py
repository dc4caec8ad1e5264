"""The chapters: which plan, light and labelling service the stream has, and for how long."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.demo.images import DAYLIGHT, DIM, Light
from pipeline.demo.plans import Plan, Plans

RATE = 50
"""Events a second."""
LABEL_EVERY = 5
"""One label comes for every five events; which of the five is drawn."""
LABEL_DELAY_S = 1.5
REPLACED_SHARE = 0.6
"""Share of the labels that chapter 4's first half replaces by a lane drawn at random."""
ANNOUNCED_EXAMPLES = 20

Lanes: TypeAlias = tuple[Plan, frozenset[int]]
"""The digits of lane B, and those of the new lane."""
Service: TypeAlias = Literal["right", "random", "swapped"]
"""The labelling service: right, replacing a share at random, or swapping the lanes."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of the stream without a change inside.

    Attributes:
        chapter: 1 to 7.
        name: For people.
        events: How many.
        plan: In force.
        light: Of the scanner.
        service: What labels are worth.
        announced: Whether a new-task signal says so as it begins.
        opened: The digits that go to the new lane.
    """

    chapter: int
    name: str
    events: int
    plan: Plan
    light: Light = DAYLIGHT
    service: Service = "right"
    announced: bool = False
    opened: frozenset[int] = frozenset()

    @property
    def lanes(self) -> Lanes:
        """What decides every parcel's lane."""
        return self.plan, self.opened


def chapters(plans: Plans) -> tuple[Stretch, ...]:
    """Return the whole stream: 5,750 events in 8 stretches; chapter 4 has two halves."""
    first, second, third = plans.first, plans.second, plans.third
    return (
        Stretch(1, "1 steady", 300, first),
        Stretch(2, "2 a new plan, unannounced", 1000, second),
        Stretch(3, "3 another light", 500, second, DIM),
        Stretch(4, "4a labels at random", 400, second, DIM, "random"),
        Stretch(4, "4b labels swapped", 600, second, DIM, "swapped"),
        Stretch(5, "5 the first plan returns", 600, first, DIM),
        Stretch(6, "6 a third plan, announced", 350, third, DIM, announced=True),
        Stretch(7, "7 a lane that never was", 2000, third, DIM, opened=plans.opened),
    )


def starts(stretches: tuple[Stretch, ...], first: int = 0) -> tuple[int, ...]:
    """Return the position of each stretch's first event, and at last that of their end."""
    total, found = first, [first]
    for stretch in stretches:
        total += stretch.events
        found.append(total)
    return tuple(found)
