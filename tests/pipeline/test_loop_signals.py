"""What starts an episode: alarms, their second thoughts, announcements; and what starts none."""

from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import quick_settings
from tests.pipeline.small_worlds import (
    features,
    first,
    lane_start,
    second,
    swapped,
    third,
)


def accuracy(loop: Loop, last: int) -> float:
    """Share of the last labelled events whose served answer was right, by the stable arm."""
    examples = loop.fold.state.buffers["*"].all()[-last:]
    return float(np.mean([e.answer == e.label for e in examples]))


def refused(loop: Loop) -> None:
    """Let a candidate learn the second plan, and judge it on the first."""
    loop.stream(200, first, delay=0)
    loop.until(lambda: loop.route.episode, second, at_once=10)
    enough = loop.settings.episode.support + loop.settings.episode.query

    def collected() -> bool:
        assert loop.route.episode is not None
        since = loop.route.episode.change_point
        return len(loop.fold.state.buffers["*"].since(since)) >= enough

    loop.until(collected, second, at_once=2)
    loop.until(loop.outcomes, first, at_once=2)
    assert loop.outcomes() == ["rejected by the gate"]
    assert loop.route.raised is not None


def test_after_a_refusal_the_signal_is_tried_again_while_it_is_true(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path), meta_init=lane_start()) as loop:
        refused(loop)
        loop.stream(300, second)
        reconsidered = loop.decided("signal-reconsidered")[0]
        assert reconsidered.facts["verdict"] == "Start"
        assert loop.outcomes()[-1] == "candidate"
        assert "promotion" in loop.kinds()
        assert loop.counts["signals_error"] == 1, "no second alarm was needed"


def test_a_signal_that_is_true_no_more_is_dropped(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, trigger={"cool_down_labels": 100})
    with Loop(settings, meta_init=lane_start()) as loop:
        refused(loop)
        loop.stream(300, first)
        assert loop.route.waiting is None
        dropped = loop.decided("signal-reconsidered")
        assert {d.facts["verdict"] for d in dropped} == {"RecordOnly"}
        assert all("no longer true" in d.reason for d in dropped)
        assert len(dropped) <= 2, "once after the refusal, once at the first look"
        assert len(loop.decided("episode-opened")) == 1


def test_a_second_signal_in_an_episode_waits_and_moves_the_cut(tmp_path: Path) -> None:
    """A second change while labels are still collected: the world between teaches nothing."""
    settings = quick_settings(tmp_path, episode={"support": 400, "query": 20, "holdout": 20})
    with Loop(settings) as loop:
        loop.stream(200, first)
        loop.until(lambda: loop.route.episode, second)
        loop.stream(100, second)
        changed = loop.next
        loop.until(lambda: loop.counts["signals_error"] == 2, swapped)
        signals = loop.decided("signal")
        assert [s.facts["verdict"] for s in signals] == ["Start", "Hold"]
        recut = loop.decided("episode-recut")[0]
        assert recut.facts["change_point"] == pytest.approx(changed, abs=25)
        assert len(loop.decided("episode-opened")) == 1


def test_a_second_signal_in_a_rollout_is_acted_on_afterwards(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, rollout={"mode": "recommend", "label_permutation": "adapt"})
    with Loop(settings) as loop:
        loop.stream(200, first)
        loop.until(lambda: loop.route.rollout, second)
        changed, before = loop.next, len(loop.decided("episode-opened"))
        loop.until(lambda: loop.counts["signals_error"] == 2, swapped)
        assert loop.decided("signal")[-1].facts["verdict"] == "Hold"
        assert len(loop.decided("episode-opened")) == before
        loop.review("reject")
        loop.stream(40, swapped)
        opened = loop.decided("episode-opened")
        assert len(opened) == before + 1
        assert opened[-1].facts["change_point"] == pytest.approx(changed, abs=25)


def test_the_budget_holds_further_episodes_back(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, trigger={"actions_per_day": 1})
    with Loop(settings) as loop:
        loop.stream(200, first)
        loop.stream(700, first, shuffled=1.0)
        assert len(loop.decided("episode-opened")) == 1
        loop.stream(100, second)
        assert loop.route.waiting is not None
        assert len(loop.decided("episode-opened")) == 1
        loop.tick(2 * 86_400)
        assert len(loop.decided("episode-opened")) == 2


def test_a_few_labels_of_an_unseen_class_are_recorded_and_start_nothing(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(100, first)
        names = [f"new{i}" for i in range(4)]
        row = features(np.ones(4))
        loop.poll(
            [{"id": n, "features": row} for n in names],
            [{"id": n, "label": "sideways"} for n in names],
        )
        (signal,) = loop.decided("signal")
        assert signal.facts["verdict"] == "Hold"
        assert "sideways" in signal.reason
        assert "too few labels of the class" in signal.reason
        assert loop.fold.state.core.classes == ["down", "up", "sideways"]
        assert loop.route.episode is None
        assert loop.predictions["new0"]["proba"].keys() == {"down", "up"}  # type: ignore[union-attr]
        loop.restart()
        loop.stream(100, first)
        assert len(loop.decided("signal")) == 1


def test_an_unseen_task_starts_an_episode(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        row = features(np.ones(4))

        def send(names: range, task: str) -> None:
            events = [{"id": f"t{i}", "features": row, "task": task} for i in names]
            loop.poll(events, [{"id": f"t{i}", "label": "up"} for i in names])

        send(range(10), "plan 1")
        assert not loop.decided("signal")
        send(range(10, 20), "plan 2")
        (signal,) = loop.decided("signal")
        assert "plan 2" in signal.reason
        assert signal.facts["verdict"] == "Start"
        assert loop.route.episode is not None
        assert loop.route.episode.change_point == 10
        assert loop.counts["signals_new_task"] == 1


def announced(loop: Loop, n: int, task: str = "plan 2") -> list[str]:
    """Announce the second plan with ``n`` examples that are on the labels topic."""
    names = [f"ex{i}" for i in range(n)]
    rows = loop.generator.rows(n)
    loop.command("new-task", task=task, examples=names)
    loop.poll(
        labels=[
            {"id": i, "label": second(row), "features": features(row)}
            for i, row in zip(names, rows, strict=True)
        ]
    )
    return names


def test_an_announced_task_is_in_its_first_step_before_any_label_of_its_stream(
    tmp_path: Path,
) -> None:
    settings = quick_settings(tmp_path, episode={"recipes": ["frozen", "reptile", "scratch"]})
    with Loop(settings, meta_init=lane_start()) as loop:
        loop.stream(200, first)
        loop.stream(60, first, share=0)
        before = loop.fold.state.core.labels
        announced(loop, 40)
        begun = loop.decided("rollout-begun")[0]
        assert begun.labels == before + 40
        assert loop.route.rollout is not None
        assert loop.route.rollout.phase.value == "canary"
        gate = loop.decided("gate")[0].facts
        assert gate["enters_canary"]
        loop.stream(300, second)
        assert "promotion" in loop.kinds()
        assert loop.counts["signals_announced"] == 1
        assert accuracy(loop, 50) > 0.9
        loop.poll([{"id": "one", "features": features(np.ones(4)), "task": "plan 2"}])
        assert not loop.decided("signal"), "its events are no surprise"


def test_an_announced_task_waits_for_its_examples_and_interrupts_what_ran(tmp_path: Path) -> None:
    settings = quick_settings(tmp_path, episode={"support": 200, "query": 20, "holdout": 20})
    with Loop(settings) as loop:
        loop.stream(200, first)
        loop.until(lambda: loop.route.episode, third)
        loop.command("new-task", task="plan 2", examples=[f"ex{i}" for i in range(20)])
        assert loop.outcomes() == ["interrupted"]
        loop.stream(60, second, share=0)
        assert loop.route.episode is not None
        assert (loop.route.episode.kind, loop.route.episode.phase) == ("announced", "collecting")


@pytest.mark.parametrize(
    "facts", [{}, {"task": "p"}, {"examples": ["a"]}, {"task": "p", "examples": ["a", "a"]}]
)
def test_an_announcement_without_task_or_examples_is_refused(
    tmp_path: Path, facts: dict[str, object]
) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.command("new-task", **facts)
        assert loop.kinds() == ["champion", "command", "command-refused"]
        assert loop.route.episode is None
