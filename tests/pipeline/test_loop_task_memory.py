"""Confirmed tasks in the loop: remembered, recognised, taken back; noise needs no bake-off."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.model_file import lineage_key
from adapters.task_memory import TaskMemory
from pipeline.records import ModelsFound
from pipeline.remembered_tasks import reign
from pipeline.report.decision_rows import read_decisions, rows_of_decisions
from pipeline.settings import ConfigError
from pipeline.state_glimpse import glimpse
from pipeline.status import status_of
from pipeline.turn import Turn
from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import quick_settings
from tests.pipeline.small_worlds import features, first, second, third

FEW = {"deadline_labels": 150}


def memory(loop: Loop) -> TaskMemory:
    return loop.fold.state.memories["*"]


def names(loop: Loop) -> list[str]:
    return [task.name for task in memory(loop).tasks]


def tasks(loop: Loop) -> list[dict[str, object]]:
    found = [d.facts["task"] for d in loop.decided("task")]
    assert all(isinstance(f, dict) for f in found)
    return [f for f in found if isinstance(f, dict)]


def test_a_replaced_champion_is_remembered_and_a_returning_plan_is_recognised(
    tmp_path: Path,
) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(300, first)
        assert memory(loop) == TaskMemory()
        loop.stream(800, second)
        first_version = loop.fold.state.core.versions[1]
        assert names(loop) == [first_version.name]
        task = memory(loop).tasks[0]
        assert task.first
        assert task.signature.reference.labels > 100, "the holdout and the reign"
        assert task.signature.reference.loss < 0.06
        assert 100 < len(task.examples) <= loop.settings.memory.examples
        kept = task.examples.unpacked()
        truths = [first(row) for row in kept.rows.numbers]
        assert sum(a == b for a, b in zip(truths, kept.labels, strict=True)) / len(truths) > 0.9
        kinds = [t["kind"] for t in tasks(loop)]
        assert kinds[-1] == "drifted", "the inputs are as they were and no model explains it"
        ended = [d.facts["task"] for d in loop.decided("episode-ended")]
        assert tasks(loop)[-1] in ended
        loop.stream(600, first)
        assert loop.route.champion == 1
        back = tasks(loop)[-1]
        assert (back["kind"], back["task"]) == ("recurring", first_version.name)
        assert loop.fold.state.core.counts["tasks_recurring"] == 1
        shown = rows_of_decisions(read_decisions(loop.decisions)).episodes[-1]
        assert (shown.task_decision, shown.task) == ("recurring", first_version.name)


def test_the_state_is_a_fold_with_its_memory(tmp_path: Path) -> None:
    """After restarts at any moment, and from the journal alone, the memory is the same."""
    with Loop(quick_settings(tmp_path)) as loop:
        for concept, n in ((first, 200), (second, 600), (first, 400)):
            for _ in range(0, n, 100):
                loop.stream(100, concept)
                before = memory(loop)
                loop.restart()
                assert memory(loop) == before
        assert len(names(loop)) == 2
        assert loop.refolded(tmp_path) == loop.tables()


def test_a_promotion_taken_back_in_probation_takes_its_memory_along(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path, rollout={"probation_labels": 400})) as loop:
        loop.stream(200, first)
        loop.until(lambda: loop.route.probation is not None, second)
        assert names(loop) == [loop.fold.state.core.versions[1].name]
        assert memory(loop).before == ()
        loop.restart()
        loop.command("abort")
        assert loop.route.champion == 1
        assert memory(loop) == TaskMemory()


@pytest.mark.parametrize(("reign_events", "remembered"), [(160, True), (0, False)])
def test_a_champion_replaced_in_its_probation_is_remembered_if_its_labels_confirm_it(
    tmp_path: Path, reign_events: int, remembered: bool
) -> None:
    """Where tasks alternate faster than probation ends, each one is known when it comes back."""
    with Loop(quick_settings(tmp_path, rollout={"probation_labels": 2000})) as loop:
        loop.stream(200, first)
        loop.until(lambda: loop.route.champion == 2, second, at_once=10)
        loop.stream(reign_events, second)
        assert loop.route.probation is not None
        loop.until(lambda: loop.route.champion == 3, third, most=3000)
        one, two = (loop.fold.state.core.versions[n].name for n in (1, 2))
        assert names(loop) == ([one, two] if remembered else [one])
        loop.command("abort")
        assert names(loop) == [one], "the memory goes back with the promotion"


def test_what_was_replaced_in_its_probation_is_recalled(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path, rollout={"probation_labels": 2000})) as loop:
        loop.stream(200, first)
        loop.until(lambda: loop.route.champion == 2, second)
        loop.stream(160, second)
        loop.until(lambda: loop.route.champion == 3, third, most=3000)
        loop.stream(160, third)
        loop.until(lambda: loop.route.champion == 2, second, most=2000)
        last = loop.decided("episode-ended")[-1]
        assert str(last.facts["winner"]).startswith("recalled:2-")


def test_an_alarm_of_the_inputs_is_noise_while_the_champion_explains_the_labels(
    tmp_path: Path,
) -> None:
    settings = quick_settings(
        tmp_path, detect={"confidence": True, "features": True, "calibration_events": 100}
    )
    with Loop(settings) as loop:
        loop.stream(300, first)
        loop.stream(400, first, shift=(0.0, 3.0, 3.0, 3.0))
        assert loop.counts["signals_features"] >= 1
        assert loop.outcomes() == ["noise"]
        (found,) = tasks(loop)
        champion = found["champion"]
        assert isinstance(champion, dict)
        assert champion["standing"] == "explains"
        assert champion["e_explains"] >= found["needed"]
        assert "bake-off" not in loop.kinds()
        assert loop.route.episode is None
        assert loop.route.waiting is None
        loop.stream(500, second, shift=(0.0, 3.0, 3.0, 3.0))
        assert loop.route.champion == 2, "what comes later is signalled anew"


def test_an_alarm_is_not_closed_as_noise_while_a_class_waits_that_nobody_knows(
    tmp_path: Path,
) -> None:
    """Three labels of it are no loss worth an alarm, but the champion can never learn it."""
    seen = itertools.count()

    def rare(x: NDArray[np.float64]) -> str:
        return "side" if next(seen) in (5, 12, 20) else first(x)

    settings = quick_settings(
        tmp_path,
        detect={"confidence": True, "features": True, "calibration_events": 100},
        memory={"noise_within": 0.3},
    )
    with Loop(settings) as loop:
        loop.stream(300, first)
        loop.stream(200, rare, shift=(0.0, 3.0, 3.0, 3.0), share=1.0, at_once=10)
        assert loop.fold.state.monitors["*"].new_classes()
        assert "episode-opened" in loop.kinds()
        assert "noise" not in loop.outcomes()
        assert "bake-off" in loop.kinds()


def test_a_forced_episode_always_has_its_bake_off(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(200, first)
        loop.command("force")
        loop.stream(300, first)
        assert loop.kinds().count("bake-off") == 1
        assert tasks(loop) == [], "no label came after it that could say anything"
        assert loop.outcomes() == ["frozen wins"]


def test_a_reference_leaves_out_the_groups_that_its_model_learned_from(tmp_path: Path) -> None:
    """Eighty groups come again and again: on its support's the champion would look too good."""
    with Loop(quick_settings(tmp_path)) as loop:
        rng = np.random.default_rng(3)
        for start in range(0, 900, 20):
            concept = first if start < 200 else second
            rows = loop.generator.rows(20)
            events = [
                {"id": f"e{start + i}", "features": features(r), "group": f"g{rng.integers(80)}"}
                for i, r in enumerate(rows)
            ]
            labels = [{"id": f"e{start + i}", "label": concept(r)} for i, r in enumerate(rows)]
            loop.poll(events, labels)
            if loop.route.champion == 2 and loop.route.champion_since_position < start - 60:
                break
        state, shelf = loop.fold.state, loop.fold.shelf
        turn = Turn(loop.settings, shelf.model, shelf.result, state)
        answered = [
            e
            for e in state.buffers["*"].since(loop.route.champion_since_position)
            if e.version == 2
        ]
        found = reign(turn, "*", state.window.next)
        learned = set(shelf.model(state.core.versions[2].digest).trained_on.tolist())
        fresh = [e for e in answered if lineage_key(e.group or e.id) not in learned]
        assert [e.id for e in found] == [e.id for e in fresh]
        assert 0 < len(found) < len(answered)


def test_status_shows_what_is_remembered_and_decided(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(200, first)
        loop.stream(600, second)
        loop.answering = False
        loop.stream(120, third)
        seen = glimpse(loop.file.path)
        shown = status_of(loop.settings, seen, ModelsFound(""), 0.0, "here").routes["*"]
        assert shown.remembered == names(loop) != []


def test_the_old_key_is_refused_with_the_new_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"episode: .*set memory.tasks: 3"):
        quick_settings(tmp_path, episode={"earlier_champions": 3})


def test_without_room_nothing_is_remembered(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path, memory={"tasks": 0})) as loop:
        loop.stream(200, first)
        loop.stream(600, second)
        assert loop.route.champion == 2
        assert names(loop) == []
        loop.stream(200, first)
        asked = [d.facts["labels"] for d in loop.decided("bake-off")]
        assert all(isinstance(parts, dict) and parts["support"] for parts in asked)
