"""``retry`` and ``undo`` through the engine, over a real state file."""

from pathlib import Path

from tests.pipeline.rollout_stories import arms, in_rollout, opened, promoted
from tests.pipeline.small_worlds import first, second


def champions(loop: object) -> list[object]:
    """Return the versions that the alias ``champion`` was asked to point at."""
    queued = loop.file.pending(("alias",))  # type: ignore[attr-defined]
    return [q.effect.payload["number"] for q in queued if q.effect.payload["alias"] == "champion"]


def test_retry_after_an_abort_starts_again_with_its_own_risk(tmp_path: Path) -> None:
    with opened(tmp_path, trigger={"actions_per_day": 1}) as loop:
        in_rollout(loop)
        loop.command("pause")
        loop.stream(20, second, delay=0)
        loop.command("abort", reason="wrong day")
        assert loop.route.ended is not None and loop.route.rollout is None
        loop.restart()
        loop.command("retry", reason="right day")
        rollout = loop.route.rollout
        assert rollout is not None and rollout.evidence.n == 0 and rollout.assigned.events == 0
        assert (rollout.id, rollout.candidate) == (2, loop.fold.state.core.versions[2].name)
        assert rollout.history[0].reason == "retry of rollout 1 by ann: right day"
        first_begun, again = loop.decided("rollout-begun")
        assert again.facts["retry_of"] == 1
        assert isinstance(first_begun.facts["risk_left"], float)
        assert isinstance(again.facts["risk_left"], float)
        assert again.facts["risk_left"] < first_begun.facts["risk_left"]
        loop.until(lambda: "promotion" in loop.kinds(), second)
        assert loop.route.champion == 2


def test_retry_is_refused_where_there_is_nothing_to_try_again(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        loop.command("retry")
        in_rollout(loop)
        loop.command("retry")
        loop.until(lambda: loop.route.probation, second)
        loop.command("retry")
        loop.until(lambda: loop.route.probation is None, second)
        loop.command("retry")
        why = [d.reason for d in loop.decided("command-refused")]
        assert "no rollout has ended" in why[0]
        assert "rollout 1 is in progress; abort it first" in why[1]
        assert "no rollout has ended on route * since the last promotion" in why[2]
        assert "only what was rolled back or expired" in why[3]


def test_undo_in_probation_brings_everything_back(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        promoted(loop)
        kept = loop.route.before
        assert kept is not None
        loop.command("undo", reason="complaints")
        assert (loop.route.champion, loop.route.earlier) == (1, [])
        assert (loop.route.probation, loop.route.before) == (None, None)
        assert loop.fold.state.monitors["*"].snapshots() == kept.monitors
        assert "undo by ann: complaints" in loop.decided("rollback")[0].reason
        assert champions(loop) == [1, 2, 1]


def test_undo_after_probation_is_recorded_as_a_rollback_to_that_version(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        promoted(loop)
        loop.until(lambda: loop.route.probation is None, second)
        loop.restart()
        loop.command("undo", reason="complaints")
        (back,) = loop.decided("rollback")
        names = {n: v.name for n, v in loop.fold.state.core.versions.items()}
        assert (back.facts["champion"], back.facts["former"]) == (names[1], names[2])
        assert loop.route.champion == 1
        assert loop.route.ended is not None and loop.route.ended.phase.value == "rolled_back"
        assert champions(loop) == [1, 2, 1]
        since = loop.next
        loop.stream(20, first)
        assert set(arms(loop, since)) == {"stable"}
        assert {loop.predictions[f"e{i}"]["model_version"] for i in range(since, loop.next)} == {
            names[1]
        }
        loop.command("undo")
        assert "the champion is the first one" in loop.decided("command-refused")[0].reason
        assert loop.refolded(tmp_path) == loop.tables()


def test_undone_candidates_can_be_tried_again(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        promoted(loop)
        loop.command("undo")
        loop.command("retry")
        assert loop.route.rollout is not None
        loop.until(lambda: len(loop.decided("promotion")) == 2, second)
        assert loop.route.champion == 2
        assert loop.refolded(tmp_path) == loop.tables()


def test_undo_ends_the_rollout_whose_stable_version_it_takes_away(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        promoted(loop)
        loop.until(lambda: loop.route.probation is None, second)
        loop.until(lambda: loop.route.rollout, first)
        loop.command("undo")
        assert loop.route.champion == 1 and loop.route.rollout is None
        assert "its stable version was undone" in loop.decided("rollout-rolled-back")[-1].reason


def test_an_abort_that_comes_too_late_does_not_take_an_earlier_promotion_back(
    tmp_path: Path,
) -> None:
    with opened(tmp_path, rollout={"probation_labels": 10_000, "probation_s": 1e9}) as loop:
        promoted(loop)
        loop.stream(100, second)
        loop.until(lambda: loop.route.rollout, lambda x: "up" if x[3] > 0 else "down")
        for _ in range(2):
            loop.command("abort", reason="it does harm")
        assert loop.route.rollout is None and loop.route.probation is not None
        assert loop.route.champion == 2
        (refused,) = loop.decided("command-refused")
        assert "rollout 2 has ended (rolled_back)" in refused.reason
        assert "rollout 1 before it, in probation, is taken back by undo" in refused.reason
        loop.command("promote")
        assert loop.route.probation is not None
        assert "ends its probation by itself" in loop.decided("command-refused")[-1].reason
        loop.command("undo")
        assert loop.route.champion == 1 and loop.route.probation is None
