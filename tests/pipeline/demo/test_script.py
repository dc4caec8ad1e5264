from dataclasses import replace
from functools import cache

import msgspec
import numpy as np
import pytest

from pipeline.demo.chapters import LABEL_DELAY_S, RATE, chapters
from pipeline.demo.images import split_images
from pipeline.demo.plans import NEW_LANE, draw_plans, lane
from pipeline.demo.script import Script, write_script
from pipeline.messages import Control, Event, Label


@cache
def script(seed: int = 0) -> Script:
    return write_script(seed)


def labels(of: Script) -> list[tuple[float, Label]]:
    return [
        (m.at_s, msgspec.json.decode(m.value, type=Label))
        for m in of.messages
        if m.topic == "labels"
    ]


def test_there_are_5750_events_in_the_chapters_of_the_story() -> None:
    by_chapter: dict[int, int] = {}
    for stretch in chapters(draw_plans(0)):
        by_chapter[stretch.chapter] = by_chapter.get(stretch.chapter, 0) + stretch.events
    assert by_chapter == {1: 300, 2: 1000, 3: 500, 4: 1000, 5: 600, 6: 350, 7: 2000}
    assert len(script().ids) == len(script().truth) == len(script().pixels) == 5750


def test_events_come_at_their_rate_and_in_order() -> None:
    at_s = [m.at_s for m in script().messages if m.topic == "events"]
    assert at_s == [k / RATE for k in range(5750)]


def test_the_two_halves_never_meet() -> None:
    images = split_images(0)
    assert not set(images.learning.names) & set(images.stream.names)
    assert len(images.learning) + len(images.stream) == 1797
    groups = {
        msgspec.json.decode(m.value, type=Event).group
        for m in script().messages
        if m.topic == "events"
    }
    assert groups <= set(images.stream.names)


def test_truth_is_the_plans_in_force() -> None:
    half = split_images(0).stream
    digit = dict(zip(half.names, half.digits.tolist(), strict=True))
    events = [m for m in script().messages if m.topic == "events"]
    starts = script().starts
    for stretch, first, end in zip(script().stretches, starts, starts[1:], strict=False):
        for k in range(first, end):
            event = msgspec.json.decode(events[k].value, type=Event)
            assert script().truth[k] == lane(stretch.plan, digit[str(event.group)], stretch.opened)


def test_a_fifth_of_the_labels_comes_late_and_exactly_one_of_every_five() -> None:
    labelled = script().labelled
    assert sorted(k // 5 for k in labelled) == list(range(1150))
    assert all(at == pytest.approx(k / RATE + LABEL_DELAY_S) for k, at in labelled.items())


def test_labels_are_right_but_in_chapter_four_and_there_repaired_at_its_end() -> None:
    truth = dict(zip(script().ids, script().truth, strict=True))
    starts = script().starts
    noisy, swapped, five = starts[3], starts[4], starts[5]
    last: dict[str, str] = {}
    wrong_at: list[int] = []
    for at_s, label in labels(script()):
        if label.id not in truth:
            continue
        last[label.id] = str(label.label)
        if label.label != truth[label.id]:
            position = script().ids.index(label.id)
            wrong_at.append(position)
            assert at_s < five / RATE
    assert wrong_at
    assert noisy <= min(wrong_at) and max(wrong_at) < five
    share = sum(k < swapped for k in wrong_at) / ((swapped - noisy) / 5)
    assert 0.15 < share < 0.45  # replaced at random: half of the replaced ones stay right
    sent_swapped = sum(swapped <= k < five - LABEL_DELAY_S * RATE for k in script().labelled)
    assert sum(k >= swapped for k in wrong_at) == sent_swapped
    assert all(truth[name] == value for name, value in last.items())


def test_the_announcement_brings_two_of_every_digit_at_the_plans_first_event() -> None:
    begin_s = script().starts[6] / RATE
    half = split_images(0).stream
    digit = dict(zip(half.names, half.digits.tolist(), strict=True))
    notices = [(s, x) for s, x in labels(script()) if x.id.startswith("notice")]
    assert {s for s, _ in notices} == {begin_s}
    shown = [digit[str(x.group)] for _, x in notices]
    assert sorted(shown[:10]) == sorted(shown[10:]) == list(range(10))
    assert [x.label for _, x in notices] == [lane(script().stretches[6].plan, d) for d in shown]
    commands = [
        (m.at_s, msgspec.json.decode(m.value, type=Control))
        for m in script().messages
        if m.topic == "control"
    ]
    assert [c.verb for _, c in commands] == ["reject", "new-task"]
    assert commands[1][0] == begin_s
    assert commands[1][1].examples == [x.id for _, x in notices]
    events = [m for m in script().messages if m.topic == "events"]
    shown_as_events = {msgspec.json.decode(m.value, type=Event).group for m in events}
    assert not shown_as_events & {x.group for _, x in notices}


def test_the_new_lane_opens_in_chapter_seven_alone() -> None:
    truth, begins = script().truth, script().starts[7]
    assert NEW_LANE not in truth[:begins]
    share = truth[begins:].count(NEW_LANE) / len(truth[begins:])
    assert 0.15 < share < 0.25  # two digits of ten
    sent = [at_s for at_s, label in labels(script()) if label.label == NEW_LANE]
    assert min(sent) >= begins / RATE + LABEL_DELAY_S


def test_the_last_chapter_changes_nothing_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = (*chapters(draw_plans(0))[:-1], replace(chapters(draw_plans(0))[-1], events=5))
    monkeypatch.setattr("pipeline.demo.script.chapters", lambda plans: shorter)
    other, begins = write_script(0), script().starts[7]
    assert len(other.ids) == begins + 5
    assert np.array_equal(other.pixels[:begins], script().pixels[:begins])
    before = [[m for m in s.messages if m.key in told(s)] for s in (other, script())]
    assert before[0] == before[1]


def told(of: Script) -> set[bytes]:
    """Keys of the records that are about events before chapter 7, and of the announcement."""
    last = {name.encode() for name in of.ids[of.starts[7] :]}
    return {m.key for m in of.messages} - last


def test_the_seed_changes_images_noise_and_label_choice() -> None:
    assert script(0).messages == write_script(0).messages
    assert not np.array_equal(script(0).pixels, script(1).pixels)
    assert script(0).labelled.keys() != script(1).labelled.keys()
