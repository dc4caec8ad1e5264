"""The law: wherever the process dies, the end is the same; and the state is its journal's fold."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.crash_points import CRASH_POINTS
from pipeline.fold import refold, shelf_of, state_path
from pipeline.records import RegistryNews
from pipeline.state_file import StateFile
from tests.pipeline.crash_runner import tell
from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import QUICK, quick_settings
from tests.pipeline.small_worlds import first, lane_start, second, swapped, third
from tests.pipeline.state_tables import FOLDED, tables_of

ROOT = Path(__file__).parents[2]
SECTIONS: dict[str, dict[str, object]] = {
    "detect": {"confidence": True, "features": True, "calibration_events": 60},
    "join": {"window_events": 1000, "early_labels": 5},
    "rollout": {"probation_labels": 60},
}
ROUTES: dict[str, dict[str, object]] = {
    "model": {"name": "small", "route_by": "task"},
    "routes": {"support": 12, "holdout": 6, "examples": 40, "in_memory": 1},
}
DEATHS = 3


def story(loop: Loop) -> None:
    """Live through a promotion, a rollback, and everything that topics may hold."""
    loop.stream(200, first)
    early = [{"id": f"e{loop.next + i}", "label": "up"} for i in range(8)]
    loop.poll([b"garbage", None, b'{"id":"n","features":{"x0":NaN}}', b"[]"], [*early, *early[4:]])
    loop.until(lambda: loop.route.rollout, second)
    loop.command("pause", reason="to see")
    loop.stream(40, second)
    loop.step(RegistryNews("registered", 2, "17"))
    loop.command("resume")
    loop.until(lambda: loop.route.probation, second)
    loop.tick(30)
    corrected = [{"id": f"e{loop.next - i}", "label": "up"} for i in range(1, 20)]
    loop.poll(labels=corrected)
    loop.until(lambda: "rollback" in loop.kinds(), first)
    loop.stream(700, first, share=0.2, at_once=50)
    for _ in range(12):
        loop.stream(20, third, delay=0, task="bob")
        loop.stream(10, first, delay=0, task="ann")
    loop.stream(40, swapped, delay=0, task="bob")


def plans() -> dict[str, list[str]]:
    """Return where the lives of each plan end: each point by itself, and all of them mixed."""
    rng = random.Random(5)
    often = {"before-effect": 4, "after-effect": 4, "after-bake-off": 1}
    made = {
        point: [f"{point}:{rng.randint(1, often.get(point, 8))}" for _ in range(DEATHS)]
        for point in CRASH_POINTS
    }
    for name in ("mixed-1", "mixed-2"):
        made[name] = [f"{rng.choice(CRASH_POINTS)}:{rng.randint(1, 6)}" for _ in range(2 * DEATHS)]
    made["after-bake-off"] = ["after-bake-off:1", "after-bake-off:1", "after-bake-off:2"]
    return {"uninterrupted": [], **made}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Loop]]:
    """The story, lived in this process, and by killed processes in folders beside it."""
    folder = tmp_path_factory.mktemp("crashes")
    content = {name: {**QUICK.get(name, {}), **SECTIONS.get(name, {})} for name in [*QUICK, "join"]}
    settings = quick_settings(folder / "here", **SECTIONS, **ROUTES)
    with Loop(settings, meta_init=lane_start()) as loop:
        story(loop)
        tell(folder, loop, {**content, **ROUTES}, plans())
        command = [sys.executable, "-m", "tests.pipeline.crash_runner", str(folder)]
        done = subprocess.run(
            command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        yield folder, loop


def world(folder: Path) -> dict[tuple[str, str], set[str]]:
    """Return what was seen outside: contents by kind and key."""
    seen: dict[tuple[str, str], set[str]] = {}
    for line in (folder / "world.jsonl").read_text().splitlines():
        kind, key, value = json.loads(line)
        seen.setdefault((kind, key), set()).add(value)
    return seen


@pytest.mark.parametrize("plan", sorted(plans()))
def test_wherever_it_dies_the_end_is_the_same(told: tuple[Path, Loop], plan: str) -> None:
    folder, loop = told
    killed = json.loads((folder / "killed.json").read_text())[plan]
    assert killed >= (0 if plan == "uninterrupted" else 2), "the plan was to die more often"
    ours, theirs = loop.tables(), tables_of(state_path(folder / plan))
    for table in FOLDED:
        assert theirs[table] == ours[table], table
    with closing(StateFile(state_path(folder / plan), "small")) as file:
        assert list(file.journal()) == list(loop.file.journal())
        assert file.outbox_depth() == 0
        assert file.intent() is None


@pytest.mark.parametrize("plan", sorted(plans()))
def test_what_is_seen_outside_is_each_thing_with_one_content(
    told: tuple[Path, Loop], plan: str
) -> None:
    folder, _ = told
    seen = world(folder / plan)
    assert seen == world(folder / "uninterrupted")
    assert {len(contents) for contents in seen.values()} == {1}


def test_the_story_holds_what_it_should(told: tuple[Path, Loop]) -> None:
    _, loop = told
    kinds = Counter(loop.kinds())
    assert kinds["promotion"] == kinds["rollback"] == 1
    assert kinds["rollout-paused"] == kinds["rollout-resumed"] == 1
    assert loop.counts["corrected_labels"] > 0
    core = loop.fold.state.core
    assert (core.orphans, core.evicted > 0) == (3, True)
    assert len(loop.dead) == 4
    assert loop.counts["routes_opened"] == 1
    assert loop.counts["events_by_routes"] > 0
    predictions = list(loop.predictions)
    assert len(predictions) == loop.counts["events"] == core.next


@pytest.mark.parametrize("plan", ["uninterrupted", "inside-state", "after-publish", "mixed-1"])
def test_the_state_is_the_fold_of_its_journal(
    told: tuple[Path, Loop], plan: str, tmp_path: Path
) -> None:
    folder, loop = told
    settings = loop.settings.model_copy(update={"state_dir": folder / plan})
    journal = StateFile(state_path(folder / plan), "small")
    target = StateFile(tmp_path / "again.sqlite", "small")
    with closing(journal), closing(target):
        assert target.acquire(0.0)
        refold(settings, journal, target, shelf_of(folder / plan), loop.topics.read)
        again, live = tables_of(target.path), tables_of(journal.path)
    for table in FOLDED:
        assert again[table] == live[table], table


def test_a_restart_between_any_two_steps_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for name, every in (("straight", 0), ("restarted", 1)):
        with Loop(quick_settings(tmp_path / name, **SECTIONS), meta_init=lane_start()) as loop:
            for concept in (first, second, first):
                for _ in range(15):
                    loop.stream(20, concept)
                    if every:
                        loop.restart()
            ends.append(loop.tables())
    for table in FOLDED:
        assert ends[0][table] == ends[1][table], table
