"""A class that the champion never knew: when its episode opens, and what comes of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.signals import SignalKind
from pipeline.fold import state_path
from pipeline.settings import Settings
from tests.pipeline.crash_runner import tell
from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import QUICK, quick_settings
from tests.pipeline.small_worlds import features, first, lane_start, second, swapped
from tests.pipeline.state_tables import FOLDED, tables_of

ROOT = Path(__file__).parents[2]


def third_lane(x: NDArray[np.float64]) -> str:
    """The first plan, with a lane of its own where second and third number are high."""
    return "side" if x[1] > 0 and x[2] > 0 else first(x)


def four_lanes(x: NDArray[np.float64]) -> str:
    """As ``third_lane``, and a fourth lane where both are low."""
    return "back" if x[1] < 0 and x[2] < 0 else third_lane(x)


def settings(folder: Path, **episode: object) -> Settings:
    return quick_settings(
        folder, episode={**QUICK["episode"], "new_class_support": 20, "support": 60, **episode}
    )


def recalls(loop: Loop, last: int) -> dict[str, float]:
    """Share of each class's last labelled events that was answered rightly."""
    found: dict[str, list[bool]] = {}
    for e in loop.fold.state.buffers["*"].all()[-last:]:
        name = loop.fold.state.core.classes[int(e.label)]
        found.setdefault(name, []).append(e.answer == e.label)
    return {name: float(np.mean(right)) for name, right in found.items()}


def test_a_third_lane_opens_and_ends_with_a_champion_that_knows_it(tmp_path: Path) -> None:
    with Loop(settings(tmp_path)) as loop:
        loop.stream(200, first, flips=0.0)
        loop.until(lambda: "promotion" in loop.kinds(), third_lane, most=3000)
        opened = [d for d in loop.decided("bake-off") if "prototypes" in d.reason]
        assert opened
        core = loop.fold.state.core
        labels = opened[-1].facts["labels"]
        assert isinstance(labels, dict)
        by_number = {e.number: e for e in loop.fold.state.buffers["*"].all()}
        of_it = [n for n in labels["support"] if core.classes[int(by_number[n].label)] == "side"]
        assert 0 < len(of_it) <= 20
        champion = loop.fold.shelf.model(core.versions[loop.route.champion].digest)
        assert champion.class_names == ("down", "up", "side")
        assert loop.route.new_class_tried == {}
        loop.stream(300, third_lane, flips=0.0)
        after = recalls(loop, 100)
        assert after["side"] >= 0.7
        assert min(after["up"], after["down"]) >= 0.7


def test_two_classes_at_once_are_learned_together(tmp_path: Path) -> None:
    with Loop(settings(tmp_path)) as loop:
        loop.stream(200, first, flips=0.0)
        loop.until(lambda: "promotion" in loop.kinds(), four_lanes, most=3000)
        core = loop.fold.state.core
        champion = loop.fold.shelf.model(core.versions[loop.route.champion].digest)
        assert set(champion.class_names) == {"down", "up", "side", "back"}


def test_a_candidate_that_does_worse_on_the_known_classes_is_refused(tmp_path: Path) -> None:
    """With four lanes and few labels the first candidates take known lanes for new ones."""
    with Loop(settings(tmp_path)) as loop:
        loop.stream(200, first, flips=0.0)
        loop.until(lambda: "gate" in loop.kinds(), four_lanes, most=3000)
        gate = loop.decided("gate")[0]
        assert "of known classes the loss rises by" in gate.reason
        assert gate.facts["verdict"] == "pass"
        assert not gate.facts["enters_canary"]
        assert loop.outcomes() == ["rejected by the gate"]
        assert set(loop.route.new_class_tried) == {"side", "back"}


def test_few_labels_of_a_class_keep_no_drift_from_being_acted_on(tmp_path: Path) -> None:
    with Loop(settings(tmp_path)) as loop:
        loop.stream(200, first)
        names = [f"typo{i}" for i in range(4)]
        row = features(np.ones(4))
        loop.poll(
            [{"id": n, "features": row} for n in names],
            [{"id": n, "label": "sideways"} for n in names],
        )
        assert loop.route.episode is None
        loop.until(lambda: "promotion" in loop.kinds(), second)
        core = loop.fold.state.core
        champion = loop.fold.shelf.model(core.versions[loop.route.champion].digest)
        assert champion.class_names == ("down", "up")


@pytest.mark.parametrize(("deadline", "expected"), [(None, 0), (150, 1)])
def test_a_rare_class_waits_for_the_deadline(
    tmp_path: Path, deadline: int | None, expected: int
) -> None:
    """Sixteen labels: too few for 2 x 20, enough for 2 x least_support of 8."""
    with Loop(settings(tmp_path, deadline_labels=deadline)) as loop:
        loop.answering = False
        loop.stream(100, first, flips=0.0, delay=0)
        for i in range(16):
            row = features(np.array([1.0, 1.0, 9.0, 9.0]))
            name = f"rare{i}"
            loop.poll([{"id": name, "features": row}], [{"id": name, "label": "rare"}])
            loop.stream(20, first, flips=0.0, delay=0)
        opened = [
            d for d in loop.decided("episode-opened") if d.facts["episode_kind"] == "new_class"
        ]
        assert len(opened) == expected


def test_an_error_signal_beside_a_new_class_is_not_lost(tmp_path: Path) -> None:
    """The plan changes while a new class's bake-off runs; the champion's loss stays raised."""
    with Loop(settings(tmp_path)) as loop:
        loop.stream(200, first, flips=0.0)
        loop.answering = False
        loop.until(lambda: running(loop) == "new_class", third_lane, most=3000)
        before = loop.route.episode
        assert before is not None
        cut = before.change_point
        loop.until(lambda: loop.route.waiting, swapped, most=3000)
        assert loop.route.episode is not None
        assert loop.route.episode.change_point == cut
        assert loop.route.waiting is not None
        assert loop.route.waiting.kind is SignalKind.ERROR


def running(loop: Loop) -> str:
    """Return the kind of the running episode; empty when none runs."""
    return "" if loop.route.episode is None else loop.route.episode.kind


def test_a_class_that_an_undo_takes_away_is_new_again(tmp_path: Path) -> None:
    with Loop(settings(tmp_path)) as loop:
        loop.stream(200, first, flips=0.0)
        loop.until(lambda: "promotion" in loop.kinds(), third_lane, most=3000)
        loop.until(lambda: loop.route.probation is None, third_lane)
        assert not loop.fold.state.monitors["*"].new_classes()
        loop.command("undo", reason="to see")
        loop.until(loop.fold.state.monitors["*"].new_classes, third_lane)
        assert list(loop.fold.state.monitors["*"].new_classes()) == ["side"]


DEATHS = ("after-poll", "after-intent", "inside-state", "after-state", "after-bake-off")
PLANS: dict[str, list[str]] = {
    "uninterrupted": [],
    **{f"at-{point}": [f"{point}:{n}" for n in (1, 2)] for point in DEATHS},
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Loop]]:
    """A new class's story, lived in this process, and by killed processes in folders beside it."""
    folder = tmp_path_factory.mktemp("crashes")
    episode = {**QUICK["episode"], "support": 60}
    content = {**QUICK, "episode": episode, "model": {"name": "small"}}
    with Loop(quick_settings(folder / "here", episode=episode), meta_init=lane_start()) as loop:
        loop.stream(200, first, flips=0.0)
        loop.until(lambda: "promotion" in loop.kinds(), third_lane, most=3000)
        tell(folder, loop, content, PLANS)
        command = [sys.executable, "-m", "tests.pipeline.crash_runner", str(folder)]
        done = subprocess.run(
            command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        yield folder, loop


def test_the_story_holds_a_bake_off_for_a_new_class(told: tuple[Path, Loop]) -> None:
    _, loop = told
    assert any("prototypes" in d.reason for d in loop.decided("bake-off"))


@pytest.mark.parametrize("plan", sorted(PLANS))
def test_wherever_it_dies_the_end_is_the_same(told: tuple[Path, Loop], plan: str) -> None:
    folder, loop = told
    ours, theirs = loop.tables(), tables_of(state_path(folder / plan))
    killed = json.loads((folder / "killed.json").read_text())[plan]
    assert killed >= (0 if plan == "uninterrupted" else 1)
    for table in FOLDED:
        assert theirs[table] == ours[table], table


def test_the_journal_folds_to_the_same_state(told: tuple[Path, Loop], tmp_path: Path) -> None:
    _, loop = told
    again, ours = loop.refolded(tmp_path), loop.tables()
    for table in FOLDED:
        assert again[table] == ours[table], table
