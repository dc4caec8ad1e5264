"""From a signal to a candidate, or to none: what the loop does about a change, and why."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from adapters.bake_off_codec import decode_results, model_digests
from adapters.model_file import model_digest
from pipeline.adaptation_worker import AdaptationWorker, Answer
from pipeline.records import BakeOffDone, Poll, Tick
from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import quick_settings
from tests.pipeline.small_worlds import (
    falling,
    features,
    first,
    line_champion,
    rising,
    second,
)


def accuracy(loop: Loop, last: int) -> float:
    """Share of the last labelled events whose served answer was right, by the stable arm."""
    examples = loop.fold.state.buffers["*"].all()[-last:]
    return float(np.mean([e.answer == e.label for e in examples]))


def test_a_change_of_plan_ends_with_a_better_champion(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(200, first)
        assert loop.kinds() == ["champion"]
        loop.stream(600, second)
        core = loop.fold.state.core
        assert loop.route.champion == 2
        assert core.versions[2].recipe in ("fine_tune", "scratch")
        assert accuracy(loop, 50) > 0.75
        kinds = loop.kinds()
        order = ["signal", "episode-opened", "bake-off", "gate", "rollout-begun", "promotion"]
        assert sorted(order, key=kinds.index) == order
        signal = loop.decided("signal")[0].facts["signal"]
        assert isinstance(signal, dict)
        assert signal["change_point"] == pytest.approx(200, abs=20)


def test_frozen_wins_when_only_the_inputs_move(tmp_path: Path) -> None:
    """The champion reads the first number alone; the others drift away."""
    settings = quick_settings(
        tmp_path,
        detect={"confidence": True, "features": True, "calibration_events": 100},
        memory={"alpha": 1e-6},  # so sure that the bake-off comes first
    )
    with Loop(settings) as loop:
        loop.stream(300, first)
        loop.stream(400, first, shift=(0.0, 3.0, 3.0, 3.0))
        assert loop.counts["signals_features"] >= 1
        assert loop.outcomes() == ["frozen wins"]
        ended = loop.decided("episode-ended")[0]
        assert "frozen wins on" in ended.reason
        assert "promotion" not in loop.kinds()
        assert "rollout-begun" not in loop.kinds()
        assert loop.route.champion == 1


def test_a_refusal_is_recorded_with_its_numbers(tmp_path: Path) -> None:
    """Labels drawn at random teach nothing: no candidate may serve anything."""
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(200, first)
        loop.stream(700, first, shuffled=1.0)
        outcomes = loop.outcomes()
        assert outcomes, "the risen loss opens an episode"
        assert set(outcomes) <= {"rejected by the gate", "frozen wins"}
        assert "promotion" not in loop.kinds()
        assert loop.route.champion == 1
        refused = [
            d for d in loop.decided("gate") if d.facts["verdict"] in ("fail", "inconclusive")
        ]
        for decision in refused:
            gate = decision.facts["gate"]
            assert isinstance(gate, dict)
            assert {"n", "n_min", "champion_loss", "candidate_loss", "p_value"} <= gate.keys()
            assert not decision.facts["enters_canary"]
        recorded = [q for q in loop.file.pending(("episode",)) if q.effect.payload]
        assert len(recorded) == len(outcomes)


def test_too_few_labels_by_the_deadline_end_the_episode(tmp_path: Path) -> None:
    settings = quick_settings(
        tmp_path, episode={"support": 200, "deadline_s": 3600, "least_support": 150}
    )
    with Loop(settings) as loop:
        loop.stream(200, first)
        loop.stream(120, second)
        assert loop.route.episode is not None
        loop.tick(3700)
        ended = loop.decided("episode-ended")[0]
        assert ended.facts["outcome"] == "too few labels"
        assert "support needs at least 150" in ended.reason


def test_at_the_deadline_the_episode_decides_with_what_it_has(tmp_path: Path) -> None:
    settings = quick_settings(
        tmp_path, episode={"support": 200, "deadline_s": 3600, "least_support": 8}
    )
    with Loop(settings) as loop:
        loop.stream(200, first)
        loop.stream(160, second)
        loop.tick(3700)
        (bake_off,) = loop.decided("bake-off")
        labels = bake_off.facts["labels"]
        assert isinstance(labels, dict)
        assert labels["query"] == []
        assert len(labels["support"]) >= 8
        assert loop.decided("episode-ended")[0].facts["winner"] == "frozen"


def test_a_returning_plan_is_recalled_without_support(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(200, first)
        loop.stream(600, second)
        assert loop.route.champion == 2
        loop.stream(400, first)
        assert loop.route.champion == 1, "the first champion is back under its number"
        assert loop.route.earlier == [2]
        last = loop.decided("episode-ended")[-1]
        assert str(last.facts["winner"]).startswith("recalled:1-")
        used = [e.facts["labels_used"] for e in loop.decided("episode-ended")]
        assert isinstance(used[-1], int)
        assert used[-1] < loop.settings.episode.support + 28
        assert sorted(loop.fold.state.core.versions) == [1, 2]


def test_a_failed_or_stale_bake_off_is_recorded(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.answering = False
        loop.stream(200, first)
        loop.stream(160, second)
        episode = loop.route.episode
        assert episode is not None
        assert episode.phase == "adapting"
        loop.step(BakeOffDone(episode.number, 7, "", "of another request"))
        assert loop.counts["stale_bake_offs"] == 1
        loop.step(BakeOffDone(episode.number, 1, "", "killed at its deadline"))
        assert loop.outcomes() == ["failed"]
        assert "killed at its deadline" in loop.decided("episode-ended")[0].reason


def test_no_example_of_the_holdout_was_learned_from(tmp_path: Path) -> None:
    """Groups repeat over time: each one is in one part, and in no lineage that judges it."""
    with Loop(quick_settings(tmp_path)) as loop:
        rng = np.random.default_rng(3)
        for start in range(0, 700, 20):
            concept = first if start < 200 else second
            rows = loop.generator.rows(20)
            events = [
                {"id": f"e{start + i}", "features": features(r), "group": f"g{rng.integers(80)}"}
                for i, r in enumerate(rows)
            ]
            labels = [{"id": f"e{start + i}", "label": concept(r)} for i, r in enumerate(rows)]
            loop.poll(events, labels)
        bake_offs = loop.decided("bake-off")
        assert bake_offs
        by_number = {e.number: e for e in loop.fold.state.buffers["*"].all()}
        for decision in bake_offs:
            parts = decision.facts["labels"]
            assert isinstance(parts, dict)
            groups = [{by_number[n].group for n in parts[p]} for p in parts]
            counted = Counter(g for part in groups for g in part)
            assert max(counted.values()) == 1


def test_a_learned_model_lies_on_the_shelf_once(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(200, first)
        loop.until(lambda: loop.decided("bake-off"), second)
        shelf = loop.fold.shelf
        kept = [path.read_bytes() for path in (shelf.folder / "results").iterdir()]
        named = {digest for result in kept for digest in model_digests(result)}
        assert len(named) > 1
        assert not any(b"metadrift-pack" in result for result in kept)
        assert {model_digest(shelf.model(digest)) for digest in named} == named
        tables = loop.tables()
        assert loop.refolded(tmp_path) == tables


def test_regression_end_to_end(tmp_path: Path) -> None:
    settings = quick_settings(
        tmp_path,
        model={"task_type": "regression"},
        detect={"confidence": False, "features": False},
        rollout={"acceptable_harm": 0.05, "longest_wait_labels": 400},
    )
    with Loop(settings, line_champion(), [0.02] * 100) as loop:
        loop.stream(200, rising, flips=0.0)
        assert loop.kinds() == ["champion"]
        loop.stream(1500, falling, flips=0.0)
        assert "promotion" in loop.kinds()
        assert loop.route.champion != 1
        errors = [abs(e.answer - e.label) for e in loop.fold.state.buffers["*"].all()[-50:]]
        assert float(np.mean(errors)) < 10, "the first champion's error is 17"
        champion = loop.fold.shelf.model(loop.fold.state.core.versions[2].digest)
        assert champion.loss_scale == line_champion().loss_scale


def test_the_worker_process_gives_the_answer_that_this_process_gives(tmp_path: Path) -> None:
    """One bake-off through the spawned worker: same models, bit for bit."""
    with Loop(quick_settings(tmp_path)) as loop:
        loop.answering = False
        loop.stream(200, first)
        loop.stream(160, second)
        wanted = loop.fold.request()
        assert wanted is not None
        worker = AdaptationWorker(60)
        try:
            worker.submit(*wanted)
            theirs = worker.wait()
        finally:
            worker.close()
        from tests.pipeline.loop_driver import answer_of

        ours = answer_of(*wanted)
        assert theirs.error == ""
        assert digests(theirs) == digests(ours)
        loop.step(loop.fold.answer(theirs))
        assert loop.decided("episode-ended") or loop.route.episode is not None


def digests(answer: Answer) -> dict[str, object]:
    return {
        r.name: (None if r.model is None else model_digest(r.model), r.query_losses.tolist())
        for r in decode_results(answer.result)
    }


def test_a_worker_that_misses_its_deadline_is_replaced(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.answering = False
        loop.stream(200, first)
        loop.stream(160, second)
        wanted = loop.fold.request()
        assert wanted is not None
        worker = AdaptationWorker(0.05)
        try:
            before = worker.pid
            worker.submit(*wanted)
            late = worker.wait()
            assert "episode.timeout_s" in late.error
            assert worker.pid != before
        finally:
            worker.close()


def test_each_effect_has_a_key_of_its_own(tmp_path: Path) -> None:
    with Loop(quick_settings(tmp_path)) as loop:
        loop.stream(200, first)
        loop.stream(600, second)
        loop.stream(400, first)
        kinds = ("decision", "episode", "version", "alias", "rollout", "review-answer")
        queued = [q.effect for kind in kinds for q in loop.file.pending((kind,), limit=10_000)]
        asked = Counter(type(i).__name__ for i in loop.inputs)
        assert asked[Poll.__name__] > 50
        assert asked[Tick.__name__] == 0
        assert len({e.key for e in queued}) == len(queued)
        assert len([e for e in queued if e.kind == "decision"]) == len(loop.decisions)
        assert len({d.key for d in loop.decisions}) == len(loop.decisions)
        aliases = [(e.payload["alias"], e.payload["number"]) for e in queued if e.kind == "alias"]
        assert [a for a in aliases if a[0] == "champion"] == [
            ("champion", 1),
            ("champion", 2),
            ("champion", 1),
        ]
        versions = [e.payload["number"] for e in queued if e.kind == "version"]
        assert versions == [1, 2], "a recalled version is registered once"
