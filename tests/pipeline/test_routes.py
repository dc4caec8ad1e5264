"""Tasks with weights of their own: they open when they are better, close when they are not."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.adaptation_worker import Answer
from pipeline.daemon import refuse_fixed
from pipeline.fold import refold, shelf_of, state_path
from pipeline.records import ModelsFound
from pipeline.route_answer import decode_answer
from pipeline.settings import ConfigError
from pipeline.state_file import StateError, StateFile
from pipeline.state_glimpse import BUSIEST, glimpse
from pipeline.status import status_of
from pipeline.task_routes import TaskRoute
from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import quick_settings
from tests.pipeline.small_worlds import Concept, features, first, lane_start, second, swapped, third
from tests.pipeline.state_tables import tables_of

ROUTES: dict[str, dict[str, object]] = {
    "model": {"route_by": "task"},
    "routes": {"support": 12, "holdout": 6, "examples": 40},
}
WORLDS: dict[str, Concept] = {"ann": first, "bob": second, "cat": third}


def loop_with(folder: Path, start: bool = True, **routes: object) -> Loop:
    sections = {**ROUTES, "routes": {**ROUTES["routes"], **routes}}
    return Loop(quick_settings(folder, **sections), meta_init=lane_start() if start else None)


def send(
    loop: Loop,
    worlds: Mapping[str | None, Concept],
    rounds: int,
    *,
    late: int = 0,
    label: bool = True,
) -> list[str]:
    """Send one event of each task per round, in one poll of four rounds; labels come at once."""
    sent: list[str] = []
    for low in range(0, rounds, 4):
        events, labels = [], []
        for _ in range(min(4, rounds - low)):
            for task, concept in worlds.items():
                (row,) = loop.generator.rows(1)
                name = f"e{loop.next}"
                loop.next += 1
                sent.append(name)
                events.append({"id": name, "features": features(row)})
                if task is not None:
                    events[-1]["task"] = task
                labels.append({"id": name, "label": concept(row)})
        loop.poll(events, [])
        if label:
            loop.poll([], labels)
    return sent


def route_of(loop: Loop, task: str) -> TaskRoute:
    live = loop.fold.state.task_routes.get(task)
    assert live is not None
    return live.core


def test_each_task_is_served_by_its_own_weights_and_the_others_by_the_fall_back(
    tmp_path: Path,
) -> None:
    with loop_with(tmp_path) as loop:
        send(loop, WORLDS, 40)
        assert loop.counts["routes_opened"] == 2  # the champion is right about ann
        assert (route_of(loop, "ann").answer, route_of(loop, "bob").recipe) == ("", "reptile")
        names = send(loop, {**WORLDS, "new": first, None: first}, 20)
        answers = [loop.predictions[n] for n in names]
        assert {a["route"] for a in answers} == {"*", "bob", "cat"}
        assert [a["route"] for a in answers[:5]] == ["*", "bob", "cat", "*", "*"]
        opened = loop.decided("route-opened")
        assert {d.route for d in opened} == {"bob", "cat"}
        assert answers[1]["model_version"] in opened[0].reason
        own, fall_back = opened[0].facts["candidate_losses"], opened[0].facts["fall_back_losses"]
        assert isinstance(own, float)
        assert isinstance(fall_back, float)
        assert own < fall_back
        # the route * was left alone: no episode on labels of tasks with their own weights
        last = [e.id for e in loop.fold.state.buffers["*"].all()]
        assert set(names[1::5]).isdisjoint(last)
        assert set(names[0::5]) <= set(last)


def test_without_routes_a_task_is_only_a_signal(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path), meta_init=lane_start()) as loop:
        send(loop, WORLDS, 8)
        assert {p["route"] for p in loop.predictions.values()} == {"*"}
        assert loop.fold.state.core.routing is None
        assert "events_by_routes" not in loop.counts
        assert loop.tables()["route"] == []


def test_a_rows_answer_does_not_depend_on_who_stands_beside_it(tmp_path: Path) -> None:
    with loop_with(tmp_path) as loop:
        send(loop, WORLDS, 40)
        rows = loop.generator.rows(9)
        alone: list[object] = []
        for i, row in enumerate(rows):
            loop.poll([{"id": f"a{i}", "features": features(row), "task": "bob"}])
            alone.append(loop.predictions[f"a{i}"])
        crowd = [
            {"id": f"{task}{i}", "features": features(row), "task": task}
            for i, row in enumerate(rows)
            for task in ("cat", "bob", "ann")
        ]
        loop.poll(crowd)
        together = [{**loop.predictions[f"bob{i}"], "id": f"a{i}"} for i in range(9)]
        assert together == alone
        assert {loop.predictions[f"cat{i}"]["route"] for i in range(9)} == {"cat"}


def test_weights_that_lose_against_the_fall_back_never_serve(tmp_path: Path) -> None:
    """Labels by chance: no try is better, and tries become rarer."""
    with loop_with(tmp_path) as loop:

        def chance(_: object) -> str:
            return "up" if loop.generator.chance(0.5) else "down"

        send(loop, {"odd": chance, "ann": first}, 100)
        for decision in (*loop.decided("route-opened"), *loop.decided("route-kept")):
            facts = decision.facts
            own, fall_back = facts["candidate_losses"], facts["fall_back_losses"]
            assert isinstance(own, float)
            assert isinstance(fall_back, float)
            assert (own < fall_back) == (decision.kind == "route-opened")
        tries = [
            d.labels for d in loop.decisions if d.kind.startswith("route-") and d.route == "ann"
        ]
        assert len(tries) == 3  # at 18, 36 and 72 labels
        assert route_of(loop, "ann").answer == ""


def test_a_route_that_turns_out_worse_closes(tmp_path: Path) -> None:
    with loop_with(tmp_path, support=30, holdout=6, examples=40) as loop:
        send(loop, {"bob": swapped}, 40)
        assert route_of(loop, "bob").answer
        names = send(loop, {"bob": first}, 30)
        (closed,) = loop.decided("route-closed")
        assert closed.route == "bob"
        assert loop.predictions[names[-1]]["route"] == "*"
        assert loop.fold.state.core.routing is not None
        assert loop.fold.state.core.routing.open == 0


def test_a_route_that_drifts_adapts_again(tmp_path: Path) -> None:
    """Both the fall-back and the old weights are wrong half of the time after the change."""
    with loop_with(tmp_path) as loop:
        send(loop, {"bob": second, "ann": first}, 60)
        before = route_of(loop, "bob").serial
        send(loop, {"bob": third, "ann": first}, 120)
        signals = [d for d in loop.decided("signal") if d.route == "bob" and "error" in d.reason]
        assert signals
        after = send(loop, {"bob": third}, 40, label=False)
        assert route_of(loop, "bob").serial > before
        assert {loop.predictions[n]["route"] for n in after} == {"bob"}


def test_fine_tuning_opens_routes_where_there_is_no_meta_init(tmp_path: Path) -> None:
    with loop_with(tmp_path, start=False) as loop:
        send(loop, WORLDS, 60)
        assert route_of(loop, "bob").recipe == "fine_tune"


def many(loop: Loop) -> None:
    """Interleave tasks, with corrected labels, a repeated one and one without a task."""
    worlds: dict[str | None, Concept] = {
        f"t{i}": (first, second, third, swapped)[i % 4] for i in range(12)
    }
    for _ in range(8):
        names = send(loop, {**worlds, None: first}, 8)
        loop.poll(labels=[{"id": n, "label": "up"} for n in names[:6]])


def test_what_is_in_memory_decides_nothing(tmp_path: Path) -> None:
    ends = []
    for name, in_memory, every in (("huge", 1000, False), ("tiny", 1, False), ("again", 2, True)):
        quiet = {
            **ROUTES,
            "routes": {**ROUTES["routes"], "in_memory": in_memory},
            "trigger": {"warm_up_labels": 10_000},
        }
        with Loop(quick_settings(tmp_path / name, **quiet), meta_init=lane_start()) as loop:
            many(loop)
            if every:
                loop.restart()
            many(loop)
            send(loop, {"t1": third, "t2": second}, 80)  # own weights are wrong half of the time
            signals = [d for d in loop.decided("signal") if "error" in d.reason]
            assert {"t1", "t2"} & {d.route for d in signals}
            kept = loop.fold.state.task_routes.in_memory
            assert kept == min(in_memory, 12)
            assert loop.counts["routes_opened"] >= 6
            ends.append((loop.tables(), loop.predictions))
    assert ends[0] == ends[1] == ends[2]


def test_the_state_is_the_fold_of_its_journal_with_routes(tmp_path: Path) -> None:
    with loop_with(tmp_path / "live", in_memory=2) as loop:
        many(loop)
        target = StateFile(tmp_path / "again.sqlite", "small")
        with closing(target):
            assert target.acquire(0.0)
            refold(loop.settings, loop.file, target, shelf_of(tmp_path / "live"), loop.topics.read)
            again = tables_of(target.path)
        live = loop.tables()
        assert live["route"]
        assert again == live


def test_tasks_beyond_the_bound_are_counted_and_fall_back(tmp_path: Path) -> None:
    with loop_with(tmp_path, most=2) as loop:
        send(loop, {**WORLDS, "*": second}, 40)
        assert len(loop.fold.state.task_routes) == 2
        assert loop.counts["events_beyond_routes"] == 80
        assert {d.route for d in loop.decided("route-opened")} == {"bob"}


def test_thousands_of_routes_leave_memory_flat_and_the_file_small(tmp_path: Path) -> None:
    with loop_with(tmp_path, in_memory=50, support=4, holdout=3, examples=8) as loop:
        for low in range(0, 3000, 250):
            send(loop, {f"t{i}": first for i in range(low, low + 250)}, 1)
            assert loop.fold.state.task_routes.in_memory == 50
        assert len(loop.fold.state.task_routes) == 3000
        with closing(sqlite3.connect(state_path(tmp_path))) as db:
            (core,) = db.execute("SELECT length(document) FROM core").fetchone()
            (rows,) = db.execute("SELECT sum(length(document)) FROM route").fetchone()
        assert core < 30_000, "the document that is written whole knows nothing of single routes"
        assert rows < 3000 * 400
        send(loop, {f"t{i}": (first, first, third)[i % 3] for i in range(0, 3000, 100)}, 16)
        assert loop.counts["routes_opened"] >= 3
        assert loop.fold.state.task_routes.in_memory == 50
        assert len(loop.fold.engine.own_models) <= 50


def test_own_weights_lie_on_the_shelf_as_differences(tmp_path: Path) -> None:
    quiet = {**ROUTES, "trigger": {"warm_up_labels": 10_000}}
    with Loop(quick_settings(tmp_path, **quiet), meta_init=lane_start()) as loop:
        send(loop, WORLDS, 40)
        shelf = loop.fold.shelf
        models = len(list((shelf.folder / "models").iterdir()))
        assert models == 2  # the champion, and the start that both routes come from
        answers = [route_of(loop, t).answer for t in ("bob", "cat")]
        bases = {decode_answer(shelf.result(a)).base for a in answers}
        assert len(bases) == 1


def test_an_announced_task_beside_the_others_gets_its_examples(tmp_path: Path) -> None:
    with loop_with(tmp_path) as loop:
        send(loop, {"ann": first}, 4)
        rows = loop.generator.rows(20)
        ids = [f"x{i}" for i in range(20)]
        loop.command("new-task", task="eve", life="beside", examples=ids)
        assert "command-refused" not in loop.kinds()
        loop.poll(
            labels=[
                {"id": i, "label": second(row), "features": features(row)}
                for i, row in zip(ids, rows, strict=True)
            ]
        )
        assert loop.fold.state.core.routes["*"].episode is None
        assert [d.route for d in loop.decided("route-opened")] == ["eve"]
        loop.command("new-task", task="*", life="beside", examples=["q"])
        assert "'*'" in loop.decided("command-refused")[-1].reason


def test_a_bake_off_that_fails_leaves_the_task_with_the_fall_back(tmp_path: Path) -> None:
    with loop_with(tmp_path) as loop:
        loop.answering = False
        send(loop, {"bob": second}, 24)
        wanted = loop.fold.request()
        assert wanted is not None
        assert wanted == loop.fold.request()
        loop.step(loop.fold.answer(Answer(wanted[0], b"", "killed at its deadline")))
        assert "killed at its deadline" in loop.decided("route-kept")[0].reason
        assert loop.fold.request() is None
        loop.step(loop.fold.answer(Answer(wanted[0], b"", "twice")))
        assert loop.counts["stale_bake_offs"] == 1


def test_status_counts_the_routes_and_names_the_busiest(tmp_path: Path) -> None:
    with loop_with(tmp_path) as loop:
        send(loop, {**WORLDS, **{f"t{i}": first for i in range(8)}}, 20)
        send(loop, WORLDS, 20)
        seen = glimpse(state_path(tmp_path))
        found = status_of(loop.settings, seen, ModelsFound(""), 0.0, "host").task_routes
        assert found is not None
        assert (found.tasks, found.open, found.waiting) == (11, 2, 0)
        busiest = [(r.task, r.labels, r.open) for r in found.busiest]
        assert busiest[:3] == [("ann", 40, False), ("bob", 40, True), ("cat", 40, True)]
        assert len(busiest) == BUSIEST


def test_a_state_is_either_with_routes_or_without(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"model.route_by is 'task', but .* with None: change it"):
        refuse_fixed({"model.route_by": [None, "task"], "routes.most": [5, 6]}, tmp_path)
    refuse_fixed({"routes.most": [5, 6]}, tmp_path)
    facts = loop_with(tmp_path, in_memory=7).settings.state_facts()
    assert facts["model.route_by"] == "task"
    assert "routes.in_memory" not in facts
    with pytest.raises(ConfigError, match=r"examples \(20\) is smaller than support \+ holdout"):
        loop_with(tmp_path, support=15, holdout=6, examples=20)


def test_a_state_of_a_release_without_routes_is_read(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path), meta_init=lane_start()) as loop:
        send(loop, WORLDS, 4)
        with closing(sqlite3.connect(state_path(tmp_path))) as db:
            db.execute("DROP TABLE route")
        assert glimpse(state_path(tmp_path)).tasks == 0
        loop.restart()
        send(loop, WORLDS, 4)
        assert loop.counts["events"] == 24


def test_events_of_own_weights_count_in_no_share_of_a_rollout(tmp_path: Path) -> None:
    """Who is drawn, and whose labels come, is counted of the fall-back's events alone."""
    rollout = {"rollout": {"steps": [40, 100], "least_labels": 900}}
    sections = {**ROUTES, **rollout}
    with Loop(quick_settings(tmp_path, **sections), meta_init=lane_start()) as loop:
        send(loop, {"bob": swapped}, 40)
        assert route_of(loop, "bob").answer
        loop.stream(200, first)
        loop.until(lambda: loop.route.rollout, second)
        begun = loop.route.rollout
        assert begun is not None
        names = send(loop, {"bob": swapped, None: second}, 40)
        assert {loop.predictions[n]["route"] for n in names[0::2]} == {"bob"}
        now = loop.route.rollout
        assert now is not None and now.id == begun.id
        assert now.assigned.events - begun.assigned.events == 40
        assert now.labelled.events - begun.labelled.events == 40
        arms = [loop.predictions[n]["arm"] for n in names[1::2]]
        drawn = now.assigned.cells[0].by_candidate
        assert 0 < drawn == arms.count("candidate") == now.labelled.cells[0].by_candidate
