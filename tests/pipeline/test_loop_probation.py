"""Second thoughts about a candidate: suspect labels hold it, probation takes it back."""

from pathlib import Path

from tests.pipeline.rollout_stories import arms, opened, promoted
from tests.pipeline.small_worlds import first, second, swapped

# ---------------------------------------------------------------- suspect labels


def test_swapped_labels_hold_the_rollout_until_a_person_rejects(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        loop.stream(200, first)
        loop.until(lambda: loop.route.rollout, swapped)
        (paused,) = loop.decided("rollout-paused")
        assert "labels suspect" in paused.reason
        assert (paused.facts["paused"], paused.facts["weight_pct"]) == ("suspect", 0)
        begun = loop.next
        loop.stream(300, swapped)
        assert loop.route.rollout is not None, "neither PASS nor FAIL acts while it holds"
        assert loop.route.rollout.pause is not None
        assert set(arms(loop, begun)) == {"stable"}
        loop.stream(100, first)
        loop.command("reject", reason="the labels were wrong")
        assert loop.decided("rollout-rejected")
        assert (loop.route.champion, "promotion" in loop.kinds()) == (1, False)


def test_a_person_who_resumes_has_the_swap_adapted_to(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        loop.stream(200, first)
        loop.until(lambda: loop.route.rollout, swapped)
        loop.command("resume", reason="the lanes were renamed")
        loop.until(lambda: "promotion" in loop.kinds(), swapped)
        assert loop.route.champion == 2


def test_swapped_labels_are_adapted_to_where_that_is_configured(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"label_permutation": "adapt"}) as loop:
        loop.stream(200, first)
        loop.until(lambda: "promotion" in loop.kinds(), swapped)
        assert not loop.decided("rollout-paused")


# ---------------------------------------------------------------- probation


def test_probation_ends_and_the_old_champion_is_remembered(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        promoted(loop)
        assert loop.route.before is not None
        loop.until(lambda: loop.route.probation is None, second)
        assert loop.decided("rollout-promoted")
        assert (loop.route.champion, loop.route.earlier) == (2, [1])
        assert loop.route.before is None


def test_probation_brings_champion_monitors_and_buffer_back_together(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"probation_labels": 200}) as loop:
        loop.stream(200, first)
        in_rollout_since = loop.fold.state.core.labels
        loop.until(lambda: loop.route.rollout, second)
        route, monitors = loop.route, loop.fold.state.monitors["*"]
        before: dict[str, object] = {}
        for _ in range(60):
            before = {
                "champion": route.champion,
                "earlier": list(route.earlier),
                "since": (route.champion_since_label, route.champion_since_position),
                "buffer_from": route.buffer_from,
            }
            if loop.route.probation:
                break
            snapshot, old = monitors.snapshots(), dict(before)
            loop.stream(20, second, delay=0)
        assert loop.route.champion == 2
        kept = loop.route.before
        assert kept is not None
        assert monitors.snapshots() != kept.monitors, "a fresh reference after promotion"
        assert set(kept.monitors) == set(snapshot)
        loop.restart()
        loop.until(lambda: "rollback" in loop.kinds(), first)
        route, monitors = loop.route, loop.fold.state.monitors["*"]
        assert {
            "champion": route.champion,
            "earlier": route.earlier,
            "since": (route.champion_since_label, route.champion_since_position),
            "buffer_from": route.buffer_from,
        } == old
        assert monitors.snapshots() == kept.monitors
        assert (route.probation, route.before) == (None, None)
        assert loop.fold.state.core.labels > in_rollout_since
        aliases = [q.effect.payload for q in loop.file.pending(("alias",)) if q.effect.payload]
        assert [a["number"] for a in aliases if a["alias"] == "champion"] == [1, 2, 1]


def test_probation_does_not_hold_back_a_new_signal(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"probation_labels": 10_000, "probation_s": 1e9}) as loop:
        promoted(loop)
        loop.stream(100, second)
        loop.until(
            lambda: len(loop.decided("episode-opened")) > 1 or "rollback" in loop.kinds(),
            lambda x: "up" if x[3] > 0 else "down",
        )
        opened_again = loop.decided("episode-opened")
        assert len(opened_again) > 1
        assert loop.route.probation is not None
