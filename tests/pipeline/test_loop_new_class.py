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
from pipeline.new_class_episode import new_classes_due, split_new_classes
from pipeline.settings import Settings
from pipeline.turn import Turn
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


def greedy_lane(x: NDArray[np.float64]) -> str:
    """As ``first``, but three of four parcels of "up" go to a lane of their own, at random."""
    lane = first(x)
    return "side" if lane == "up" and int(abs(x[3]) * 1e6) % 4 else lane


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


def test_one_error_on_few_known_labels_refuses_no_candidate(tmp_path: Path) -> None:
    """It is one in eleven, more than is acceptable; that may be chance, and it is."""
    with Loop(settings(tmp_path)) as loop:
        loop.stream(200, first, flips=0.0)
        loop.until(lambda: "gate" in loop.kinds(), four_lanes, most=3000)
        gate = loop.decided("gate")[0]
        facts = gate.facts["gate"]
        assert isinstance(facts, dict)
        known = facts["known_classes"]
        assert known["rise"] > loop.settings.rollout.acceptable_harm
        assert not known["harmed"]
        assert "no more than chance may explain" in gate.reason
        assert gate.facts["enters_canary"]
        rollout = loop.route.rollout
        assert rollout is not None
        assert rollout.classes is not None
        assert (rollout.classes.known, rollout.evidence.n) == (("down", "up"), 0)
        assert set(rollout.classes.added) == {"side", "back"}
        assert rollout.classes.safe.n == known["n"] > 0  # the holdout counts
        assert rollout.classes.named.n > 0
        loop.until(lambda: "promotion" in loop.kinds(), four_lanes, most=3000)
        loop.stream(300, four_lanes, flips=0.0)
        after = recalls(loop, 150)
        assert min(after["up"], after["down"]) >= 0.9


def test_a_candidate_that_harms_the_known_classes_is_refused(tmp_path: Path) -> None:
    """It gains more on the new class than it loses, and still is not let in."""
    many = {"support": 200, "query": 60, "holdout": 80, "new_class_support": 200}
    with Loop(settings(tmp_path, **many)) as loop:
        loop.stream(200, first, flips=0.0)
        loop.until(lambda: "gate" in loop.kinds(), greedy_lane, most=3000)
        gate = loop.decided("gate")[0]
        assert gate.facts["verdict"] == "pass"
        assert "more than 0.05 and than chance explains" in gate.reason
        assert not gate.facts["enters_canary"]
        assert loop.outcomes()[-1] == "rejected by the gate"
        assert 0 < loop.route.new_class_tried["side"] <= sightings(loop)


def test_a_class_tried_in_vain_waits_for_twice_the_sightings(tmp_path: Path) -> None:
    with Loop(settings(tmp_path)) as loop:
        loop.answering = False
        loop.stream(200, first, flips=0.0)
        loop.until(lambda: sightings(loop) >= 50, third_lane)
        seen, turn = sightings(loop), turn_of(loop)
        for tried, due in ((0, ["side"]), (seen // 2, ["side"]), (seen // 2 + 1, [])):
            loop.route.new_class_tried["side"] = tried
            assert list(new_classes_due(turn, "*")) == due
            assert list(new_classes_due(turn, "*", along=True)) == ["side"]


def test_known_classes_that_have_gone_are_filled_up_from_before(tmp_path: Path) -> None:
    """After the cut no parcel goes up: sixteen older ones keep the lane from being forgotten."""
    with Loop(settings(tmp_path, least_support=8)) as loop:
        loop.answering = False
        loop.stream(200, first, flips=0.0, delay=0)
        cut = loop.next
        loop.until(lambda: sightings(loop) >= 50, no_way_up)
        split = split_new_classes(turn_of(loop), "*", cut, ["side"])
        assert split is not None
        names = loop.fold.state.core.classes
        buffered = loop.fold.state.buffers["*"].all()
        older = [e.number for e in buffered if e.position < cut and names[int(e.label)] == "up"]
        by_number = {e.number: e for e in buffered}
        used = [by_number[n] for part in (split.support, split.query, split.holdout) for n in part]
        before = sorted(e.number for e in used if e.position < cut)
        assert before == older[-16:]
        for part in (split.support, split.query, split.holdout):
            assert {names[int(by_number[n].label)] for n in part} == {"up", "down", "side"}


def no_way_up(x: NDArray[np.float64]) -> str:
    """What went up goes to the side."""
    return "side" if first(x) == "up" else "down"


def sightings(loop: Loop) -> int:
    """Return how often the lane has been seen that no champion names."""
    signal = loop.fold.state.monitors["*"].new_classes().get("side")
    return 0 if signal is None else int(signal.statistic)


def turn_of(loop: Loop) -> Turn:
    """Return a step of the engine on the loop's state."""
    shelf = loop.fold.shelf
    return Turn(loop.settings, shelf.model, shelf.result, loop.fold.state)


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
