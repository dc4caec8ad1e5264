from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import (
    DetectorError,
    Hold,
    RecordOnly,
    Signal,
    SignalKind,
    Start,
    TriggerFacts,
    TriggerSettings,
    TriggerState,
    budget_left,
    consider,
    full_budget,
)

SETTINGS = TriggerSettings(
    warm_up_labels=20, cool_down_labels=30, cool_down_s=60.0, least_labels=5, actions_per_day=2
)
READY = TriggerFacts(
    now_s=1_000.0,
    labels_since_champion=20,
    labels_after_change=5,
    labels_since_episode=30,
    episode_ended_at_s=940.0,
)
FULL = full_budget(SETTINGS, 0.0)


def signal(kind: SignalKind = SignalKind.ERROR) -> Signal:
    return Signal(kind, "test", at=10, change_point=5, statistic=1.0, threshold=0.5, detail="")


def test_a_signal_starts_when_every_condition_holds_and_spends_a_token() -> None:
    decision, state = consider(SETTINGS, signal(), READY, FULL)
    assert decision == Start("error signal of test")
    assert state == TriggerState(tokens=1.0, at_s=1_000.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"busy": True}, Hold("an episode or a rollout is running")),
        ({"labels_since_champion": 12}, Hold("warm-up of the champion", 8)),
        ({"labels_since_episode": 29}, Hold("cool-down after the last episode", 1)),
        ({"now_s": 999.0}, Hold("cool-down after the last episode", 0, 1_000.0)),
        ({"labels_after_change": 2}, Hold("too few labels since the change point", 3)),
    ],
)
def test_each_missing_condition_holds_the_signal(
    changes: dict[str, float | bool], expected: Hold
) -> None:
    assert consider(SETTINGS, signal(), replace(READY, **changes), FULL) == (expected, FULL)


def test_before_the_first_episode_there_is_no_cool_down() -> None:
    facts = replace(READY, labels_since_episode=None, episode_ended_at_s=None)
    assert isinstance(consider(SETTINGS, signal(), facts, FULL)[0], Start)


def test_a_signal_that_no_longer_holds_is_only_recorded() -> None:
    decision, state = consider(SETTINGS, signal(), replace(READY, still_true=False), FULL)
    assert (decision, state) == (RecordOnly("no longer true"), FULL)


def test_a_new_class_starts_an_episode_and_spends_a_token() -> None:
    decision, state = consider(SETTINGS, signal(SignalKind.NEW_CLASS), READY, FULL)
    assert isinstance(decision, Start)
    assert state.tokens == FULL.tokens - 1


@pytest.mark.parametrize("name", ["error", "confidence", "features", "new_task"])
def test_a_kind_that_is_off_is_only_recorded(name: str) -> None:
    off = replace(SETTINGS, **{name: False})
    decision, _ = consider(off, signal(SignalKind(name)), READY, FULL)
    assert decision == RecordOnly(f"trigger.{name} is off")
    assert isinstance(consider(SETTINGS, signal(SignalKind(name)), READY, FULL)[0], Start)


@pytest.mark.parametrize("kind", [SignalKind.ANNOUNCED, SignalKind.FORCED])
def test_somebodys_word_waits_only_for_a_running_episode(kind: SignalKind) -> None:
    nothing = TriggerFacts(now_s=0.0, labels_since_champion=0, labels_after_change=0)
    spent = TriggerState(0.0, 0.0)
    assert consider(SETTINGS, signal(kind), nothing, spent) == (Start(kind.value), spent)
    busy = replace(nothing, busy=True)
    assert isinstance(consider(SETTINGS, signal(kind), busy, spent)[0], Hold)


def test_a_spent_budget_names_the_time_of_the_next_token() -> None:
    decision, _ = consider(SETTINGS, signal(), READY, TriggerState(0.5, READY.now_s))
    assert decision == Hold("budget of 2 a day is spent", 0, READY.now_s + 21_600.0)
    later = replace(READY, now_s=READY.now_s + 21_600.0)
    assert isinstance(consider(SETTINGS, signal(), later, TriggerState(0.5, READY.now_s))[0], Start)


@given(st.lists(st.floats(0.0, 200_000.0), min_size=1, max_size=60), st.integers(1, 10))
def test_no_day_sees_more_than_twice_the_budget(times: list[float], per_day: int) -> None:
    settings = TriggerSettings(actions_per_day=per_day)
    state, started = full_budget(settings, 0.0), []
    for now_s in sorted(times):
        facts = TriggerFacts(now_s=now_s, labels_since_champion=0, labels_after_change=0)
        decision, state = consider(settings, signal(), facts, state)
        assert 0.0 <= state.tokens <= per_day
        if isinstance(decision, Start):
            started.append(now_s)
    for first in started:
        assert sum(first <= t <= first + 86_400.0 for t in started) <= 2 * per_day


def test_time_that_goes_back_gives_no_tokens() -> None:
    assert budget_left(SETTINGS, TriggerState(0.0, 500.0), 100.0) == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warm_up_labels", -1),
        ("cool_down_labels", -1),
        ("least_labels", -1),
        ("cool_down_s", float("nan")),
        ("actions_per_day", 0.0),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: float) -> None:
    with pytest.raises(DetectorError, match=f"trigger.{name}"):
        replace(SETTINGS, **{name: value})
