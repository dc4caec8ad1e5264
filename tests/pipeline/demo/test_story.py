"""Every claim holds on one side of its bound and fails on the other."""

from dataclasses import replace

import pytest

from pipeline.demo import story
from pipeline.demo.story import Announced, Changes, Milestones, Opened, Outcome

QUIET = Changes()
ANSWERED = Milestones(461, 781, 801, 801, 957, 99, "maml")
PAUSED = Outcome("suspect", 0, "rejected", 129)
TOLD = Announced(canary_ms=1000, first_label_ms=1500, promoted=3570, labels=33)
OPENED = Opened(3971, 4711, support=20, recall=0.7, others=0.94, before=0.95)


def test_nothing_promoted() -> None:
    assert story.nothing_promoted(1, QUIET).held
    assert not story.nothing_promoted(1, Changes(promoted=["2-x"])).held
    assert "2-x" in story.nothing_promoted(1, Changes(promoted=["2-x"])).evidence


def test_champion_untouched() -> None:
    assert story.champion_untouched(4, QUIET).held
    assert not story.champion_untouched(4, Changes(promoted=["2-x"])).held
    assert not story.champion_untouched(4, Changes(taken_back=["1-x"])).held


def test_answered() -> None:
    assert story.answered(2, ANSWERED).held
    for name in ("detected", "adapted", "validated", "canaried", "promoted"):
        missing = story.answered(2, replace(ANSWERED, **{name: None}))
        assert not missing.held
        assert f"not {name}" in missing.evidence
    assert not story.answered(2, replace(ANSWERED, validated=960)).held  # out of order


def test_over_first_champion() -> None:
    assert story.over_first_champion(2, 0.80, 0.50).held
    assert not story.over_first_champion(2, 0.80, 0.501).held


def test_near_fitted() -> None:
    assert story.near_fitted(2, 0.90, 1.0).held
    assert not story.near_fitted(2, 0.899, 1.0).held


@pytest.mark.parametrize(
    ("accuracy", "held"),
    [
        ({"maml": 0.95, "fine_tune": 0.90, "scratch": 0.80}, True),
        ({"maml": 0.95, "fine_tune": 0.91, "scratch": 0.80}, False),
        ({"maml": 0.95, "fine_tune": 0.80, "scratch": 0.91}, False),
        ({"maml": 0.95, "fine_tune": 0.80}, False),
        ({"fine_tune": 0.80, "scratch": 0.80}, False),
        ({}, False),
    ],
)
def test_meta_learned_best(accuracy: dict[str, float], held: bool) -> None:
    assert story.meta_learned_best(2, "maml", accuracy).held is held


def test_as_good_as_before() -> None:
    assert story.as_good_as_before("3", 0.95, 0.96).held
    assert not story.as_good_as_before("3", 0.949, 0.96).held


def test_held_as_suspect() -> None:
    assert story.held_as_suspect(4, PAUSED).held
    assert not story.held_as_suspect(4, replace(PAUSED, paused=None)).held
    assert not story.held_as_suspect(4, replace(PAUSED, paused="person")).held
    assert not story.held_as_suspect(4, replace(PAUSED, weight_pct=10)).held


def test_repaired() -> None:
    assert story.repaired(4, PAUSED).held
    assert not story.repaired(4, replace(PAUSED, ended="")).held
    assert not story.repaired(4, replace(PAUSED, ended="expired")).held
    assert not story.repaired(4, replace(PAUSED, corrected=0)).held


def test_recalled() -> None:
    back = replace(ANSWERED, recipe="recalled:1-x")
    assert story.recalled(5, back).held
    assert not story.recalled(5, ANSWERED).held
    assert not story.recalled(5, replace(back, promoted=None)).held


def test_fewer_labels() -> None:
    assert story.fewer_labels(5, 75, 100).held
    assert not story.fewer_labels(5, 76, 100).held
    assert not story.fewer_labels(5, None, 100).held
    assert not story.fewer_labels(5, 10, None).held


def test_canary_before_labels() -> None:
    assert story.canary_before_labels(6, TOLD).held
    assert "0.50 s before" in story.canary_before_labels(6, TOLD).evidence
    assert not story.canary_before_labels(6, replace(TOLD, canary_ms=1500)).held
    assert "after" in story.canary_before_labels(6, replace(TOLD, canary_ms=1700)).evidence
    assert not story.canary_before_labels(6, replace(TOLD, canary_ms=None)).held


def test_fewer_stream_labels() -> None:
    assert story.fewer_stream_labels(6, TOLD, 34).held
    assert not story.fewer_stream_labels(6, TOLD, 33).held
    assert not story.fewer_stream_labels(6, replace(TOLD, promoted=None), 34).held
    assert not story.fewer_stream_labels(6, TOLD, None).held


def test_new_class_signalled() -> None:
    assert story.new_class_signalled(7, OPENED).held
    assert not story.new_class_signalled(7, replace(OPENED, signalled=None)).held


def test_few_support_labels() -> None:
    assert story.few_support_labels(7, OPENED).held
    for support in (21, 0, None):
        assert not story.few_support_labels(7, replace(OPENED, support=support)).held
    assert not story.few_support_labels(7, replace(OPENED, promoted=None)).held


def test_new_lane_recall() -> None:
    assert story.new_lane_recall(7, OPENED).held
    assert not story.new_lane_recall(7, replace(OPENED, recall=0.699)).held
    assert not story.new_lane_recall(7, replace(OPENED, recall=None)).held


def test_other_lanes_kept() -> None:
    assert story.other_lanes_kept(7, OPENED).held
    assert not story.other_lanes_kept(7, replace(OPENED, others=0.939)).held
    assert not story.other_lanes_kept(7, replace(OPENED, before=None)).held
