"""What is produced when: every message of the demo, fixed by the seed before the first is sent."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from pipeline.demo.chapters import (
    ANNOUNCED_EXAMPLES,
    LABEL_DELAY_S,
    LABEL_EVERY,
    RATE,
    REPLACED_SHARE,
    Stretch,
    chapters,
    starts,
)
from pipeline.demo.images import Half, Pixels, scanned, split_images
from pipeline.demo.learning import FEATURE, plan_name
from pipeline.demo.plans import DIGITS, LANES, Plan, draw_plans, lane, swapped
from pipeline.messages import Control, Event, Label

Topic: TypeAlias = Literal["events", "labels", "control"]
PERSON = "shift-lead"
PLANNER = "planning-office"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        at_s: When it is sent, seconds after the first event.
        topic: Where to.
        key: Of the record.
        value: JSON.
    """

    at_s: float
    topic: Topic
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """The demo's whole stream, and the truth about it.

    Attributes:
        stretches: In order.
        messages: By time.
        ids: Event ids by position.
        pixels: ``(n, 64)`` as sent.
        truth: Right lane by position.
        labelled: Position -> when its label is sent.
    """

    stretches: tuple[Stretch, ...]
    messages: tuple[Message, ...]
    ids: tuple[str, ...]
    pixels: Pixels
    truth: tuple[str, ...]
    labelled: dict[int, float]

    @property
    def starts(self) -> tuple[int, ...]:
        """Position of each stretch's first event, and of the end."""
        return starts(self.stretches)

    @property
    def ends_s(self) -> float:
        """When the last message is sent."""
        return self.messages[-1].at_s


def write_script(seed: int) -> Script:
    """Return the demo of a seed."""
    half, stretches = split_images(seed).stream, chapters(draw_plans(seed))
    rng = np.random.default_rng([seed, 5])
    shown = _sheets(half, rng)
    # Chapter 7 draws from a generator of its own: the chapters before it are the same without it.
    before = _play(half, stretches[:-1], 0, shown, rng)
    last = _play(half, stretches[-1:], len(before.ids), shown, np.random.default_rng([seed, 6]))
    return Script(
        stretches,
        tuple(sorted(before.messages + last.messages, key=attrgetter("at_s"))),
        before.ids + last.ids,
        np.concatenate([before.pixels, last.pixels]),
        before.truth + last.truth,
        before.labelled | last.labelled,
    )


def _play(
    half: Half, stretches: tuple[Stretch, ...], at: int, shown: list[int], rng: np.random.Generator
) -> Script:
    """Return part of the stream; its first event has position ``at``."""
    chosen = _draw_images(len(half), shown, sum(s.events for s in stretches), rng)
    messages: list[Message] = []
    ids: list[str] = []
    truth: list[str] = []
    pixels: list[Pixels] = []
    for stretch, first in zip(stretches, starts(stretches, at)[:-1], strict=True):
        images = chosen[first - at : first - at + stretch.events]
        seen = scanned(half.pixels[images], stretch.light, rng)
        if stretch.announced:
            messages += _announcement(stretch, half, shown, first / RATE, rng)
        for k, image in enumerate(images.tolist(), start=first):
            ids.append(f"parcel-{k:05d}")
            truth.append(lane(stretch.plan, int(half.digits[image]), stretch.opened))
            messages.append(_event(ids[-1], k / RATE, half.names[image], seen[k - first]))
        pixels.append(seen)
    labelled = _labelled(at, len(ids), rng)
    messages += _labels(stretches, at, ids, truth, labelled, rng)
    return Script(
        stretches, tuple(messages), tuple(ids), np.concatenate(pixels), tuple(truth), labelled
    )


def _sheets(half: Half, rng: np.random.Generator) -> list[int]:
    """Return images of every digit, sheet by sheet, for the announcement; no event shows them."""
    sheets = ANNOUNCED_EXAMPLES // DIGITS
    by_digit = [
        rng.choice(np.flatnonzero(half.digits == digit), sheets, replace=False).tolist()
        for digit in range(DIGITS)
    ]
    return [
        int(by_digit[digit][sheet])
        for sheet in range(sheets)
        for digit in rng.permutation(DIGITS).tolist()
    ]


def _draw_images(
    n: int, left_out: list[int], events: int, rng: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return which image each event shows: one shuffled pass over the half after another."""
    pool = np.setdiff1d(np.arange(n), left_out)
    passes = -(-events // len(pool))
    drawn = np.concatenate([rng.permutation(pool) for _ in range(passes)])
    return drawn[:events].astype(np.intp)


def _event(name: str, at_s: float, group: str, pixels: Pixels) -> Message:
    event = Event(id=name, features={FEATURE: pixels.tolist()}, group=group)
    return Message(at_s, "events", name.encode(), _encode(event))


def _labelled(at: int, events: int, rng: np.random.Generator) -> dict[int, float]:
    """Return for one event of every five, from position ``at`` on, when its label is sent."""
    chosen = [
        at + first + int(rng.integers(min(LABEL_EVERY, events - first)))
        for first in range(0, events, LABEL_EVERY)
    ]
    return {k: k / RATE + LABEL_DELAY_S for k in chosen}


def _label(name: str, value: str, at_s: float) -> Message:
    return Message(at_s, "labels", name.encode(), _encode(Label(id=name, label=value)))


def _labels(
    stretches: tuple[Stretch, ...],
    first_position: int,
    ids: list[str],
    truth: list[str],
    labelled: dict[int, float],
    rng: np.random.Generator,
) -> list[Message]:
    """Return the labels as the service sends them, and what the person does about wrong ones.

    At the end of the last stretch whose service was wrong the person repairs it: the wrong labels
    are sent again, corrected, those on their way go out right, and the candidate that was made
    from the wrong ones is rejected.
    """
    at = starts(stretches, first_position)
    repaired_s = max(
        (end / RATE for s, end in zip(stretches, at[1:], strict=True) if s.service != "right"),
        default=0.0,
    )
    found: list[Message] = []
    for stretch, first, end in zip(stretches, at, at[1:], strict=False):
        for k in range(first, end):
            if k not in labelled:
                continue
            name, right = ids[k - first_position], truth[k - first_position]
            value = _service_says(stretch, right, rng)
            if labelled[k] < repaired_s and value != right:
                found.append(_label(name, value, labelled[k]))
                found.append(_label(name, right, repaired_s))
            else:
                found.append(_label(name, right, labelled[k]))
    if repaired_s:
        found.append(_rejection(repaired_s))
    return found


def _service_says(stretch: Stretch, truth: str, rng: np.random.Generator) -> str:
    replaced, drawn = rng.random() < REPLACED_SHARE, LANES[int(rng.integers(2))]
    match stretch.service:
        case "right":
            return truth
        case "random":
            return drawn if replaced else truth
        case "swapped":
            return swapped(truth)


def _rejection(at_s: float) -> Message:
    command = Control(
        verb="reject",
        id="repaired",
        by=PERSON,
        reason="the labelling service had swapped the lanes; its labels are repaired",
    )
    return Message(at_s, "control", b"*", _encode(command))


def _announcement(
    stretch: Stretch, half: Half, shown: list[int], at_s: float, rng: np.random.Generator
) -> list[Message]:
    """Return the new-task signal and its labelled examples, which bring their features along."""
    plan: Plan = stretch.plan
    names = [f"notice-{i:02d}" for i in range(len(shown))]
    seen = scanned(half.pixels[shown], stretch.light, rng)
    examples = [
        Message(
            at_s,
            "labels",
            name.encode(),
            _encode(
                Label(
                    id=name,
                    label=lane(plan, int(half.digits[image])),
                    features={FEATURE: row.tolist()},
                    group=half.names[image],
                )
            ),
        )
        for name, image, row in zip(names, shown, seen, strict=True)
    ]
    signal = Control(
        verb="new-task",
        id="announced",
        by=PLANNER,
        reason="takes force now",
        task=plan_name(plan),
        life="replace",
        examples=names,
    )
    return [*examples, Message(at_s, "control", b"*", _encode(signal))]
