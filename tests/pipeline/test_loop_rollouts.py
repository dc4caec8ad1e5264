"""From a candidate to a champion and back: modes, people, suspect labels, probation."""

from pathlib import Path

import pytest

from tests.pipeline.loop_inputs import START_MS
from tests.pipeline.rollout_stories import arms, in_rollout, opened, promoted
from tests.pipeline.small_worlds import first, second


def test_a_candidate_earns_its_traffic_step_by_step(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"steps": [20, 60], "risk_per_rollout": 0.01}) as loop:
        in_rollout(loop)
        begun = loop.next
        assert set(arms(loop, 0)) == {"stable"}
        weights = []
        for _ in range(30):
            rollout = loop.route.rollout
            if rollout is None:
                break
            weights += [rollout.plan.weights[rollout.step]] * 20
            loop.stream(20, second)
        shares = {
            w: [a == "candidate" for a, x in zip(arms(loop, begun), weights, strict=True) if x == w]
            for w in (20, 60)
        }
        assert sum(shares[20]) / len(shares[20]) == pytest.approx(0.2, abs=0.15)
        assert sum(shares[60]) / len(shares[60]) == pytest.approx(0.6, abs=0.15)
        (promotion,) = loop.decided("promotion")
        facts = loop.decided("rollout-promoting")[0].facts
        assert facts["verdict"] == "pass"
        assert isinstance(facts["e_better"], float)
        assert facts["e_better"] >= 1 / 0.01
        assert promotion.facts["former"] == loop.fold.state.core.versions[1].name
        served = [loop.predictions[f"e{i}"] for i in range(begun, loop.next)]
        names = {(p["arm"], p["model_version"]) for p in served}
        assert ("candidate", promotion.facts["champion"]) in names


def test_a_candidate_that_does_harm_is_rolled_back(tmp_path: Path) -> None:
    with opened(tmp_path, trigger={"actions_per_day": 1}) as loop:
        in_rollout(loop)
        loop.until(lambda: loop.route.rollout is None, first)
        back = loop.decided("rollout-rolled-back")[0]
        assert back.facts["verdict"] == "fail"
        assert loop.route.champion == 1
        assert "promotion" not in loop.kinds()
        after = loop.next
        loop.stream(40, first)
        assert set(arms(loop, after)) == {"stable"}


def test_a_rollout_without_labels_expires_and_promotes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"longest_wait_s": 3600}) as loop:
        in_rollout(loop)
        loop.stream(100, second, share=0)
        loop.tick(3700)
        assert loop.kinds()[-1] == "rollout-expired"
        assert loop.route.champion == 1
        assert loop.route.raised is not None, "the loss is looked at again"


def test_a_shadow_step_serves_nothing_and_then_traffic_is_earned(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"steps": [0, 50]}) as loop:
        in_rollout(loop)
        since = loop.next
        loop.until(lambda: loop.route.rollout and loop.route.rollout.step == 1, second)
        assert set(arms(loop, since)) == {"stable"}
        loop.until(lambda: loop.route.champion == 2, second)
        assert "candidate" in arms(loop, since)


def test_shadow_serves_nothing_and_ends_with_a_verdict(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"mode": "shadow"}) as loop:
        in_rollout(loop)
        loop.until(lambda: loop.route.rollout is None, second)
        assert set(arms(loop, 0)) == {"stable"}
        ended = [d for d in loop.decisions if d.kind.startswith("rollout-")][-1]
        assert ended.facts["verdict"] == "pass"
        assert "promotion" not in loop.kinds()
        assert loop.route.champion == 1


@pytest.mark.parametrize("by", ["control", "review"])
def test_recommend_waits_for_approval(tmp_path: Path, by: str) -> None:
    with opened(tmp_path, rollout={"mode": "recommend"}) as loop:
        in_rollout(loop)
        assert loop.route.rollout is not None
        assert loop.route.rollout.phase.value == "awaiting_approval"
        waited = loop.next
        loop.stream(60, second)
        assert set(arms(loop, 0)) == {"stable"}
        if by == "control":
            loop.command("approve", reason="looks right")
        else:
            loop.review("approve")
        assert loop.route.rollout.phase.value == "canary"
        said = loop.decided("command" if by == "control" else "review")[0]
        assert said.facts["by"] == ("ann" if by == "control" else "bob")
        loop.until(lambda: "promotion" in loop.kinds(), second)
        assert "candidate" in arms(loop, waited)


@pytest.mark.parametrize("by", ["control", "review"])
def test_a_rejection_ends_it(tmp_path: Path, by: str) -> None:
    with opened(tmp_path, rollout={"mode": "recommend"}) as loop:
        in_rollout(loop)
        if by == "control":
            loop.command("reject", reason="not on a Friday")
        else:
            loop.review("reject")
            answered = [q.effect.payload for q in loop.file.pending(("review-answer",))]
            assert [a["outcome"] for a in answered] == ["done"]
        assert loop.decided("rollout-rejected")
        assert loop.route.rollout is None
        assert loop.route.champion == 1
        assert loop.route.waiting is None, "a person's word is not asked for again"
        cleared = [q.effect.payload for q in loop.file.pending(("alias",))][-1]
        assert cleared == {"alias": "candidate", "number": 0}


def test_a_waiting_candidate_expires(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"mode": "recommend", "longest_approval_wait_s": 3600}) as loop:
        in_rollout(loop)
        loop.tick(3700)
        assert loop.decided("rollout-expired")


def test_a_repeated_command_or_review_is_carried_out_once(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"mode": "recommend"}) as loop:
        in_rollout(loop)
        command = {"verb": "approve", "id": "once", "by": "ann"}
        loop.poll(control=[command, command])
        loop.poll(control=[command])
        assert len(loop.decided("command")) == 1
        assert loop.counts["repeated_commands"] == 2
        loop.review("reject")
        loop.review("reject")
        assert len(loop.decided("review")) == 1


def test_a_verb_that_makes_no_sense_is_refused_with_the_reason(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        loop.command("approve")
        reason = loop.decided("command-refused")[0].reason
        assert reason.endswith("approve by ann: no rollout is in progress on route *")
        loop.command("pause", route="elsewhere")
        assert "no route 'elsewhere'" in loop.decided("command-refused")[1].reason
        assert loop.counts["refused_commands"] == 2


def test_abort_pause_and_resume_by_command(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        in_rollout(loop)
        loop.command("pause", reason="lunch")
        assert loop.decided("rollout-paused")
        loop.stream(100, second)
        assert "promotion" not in loop.kinds()
        loop.command("resume")
        assert loop.decided("rollout-resumed")
        loop.command("abort", reason="enough")
        assert loop.decided("rollout-rolled-back")
        assert loop.route.champion == 1


def test_a_forced_episode_runs_without_a_signal(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        loop.stream(200, first)
        loop.command("force", reason="to see")
        assert loop.outcomes() == ["frozen wins"]
        assert not loop.decided("signal")


def test_the_risk_budget_is_spent_rollout_by_rollout(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"wrong_promotions_per_30_days": 0.3}) as loop:
        promoted(loop)
        loop.until(lambda: loop.route.probation is None, second)
        loop.until(lambda: len(loop.decided("rollout-begun")) == 2, first)
        risks = [d.facts["risk"] for d in loop.decided("rollout-begun")]
        left = [d.facts["risk_left"] for d in loop.decided("rollout-begun")]
        assert all(isinstance(r, float) and 0 < r <= 0.2 for r in risks)
        assert isinstance(left[0], float)
        assert isinstance(left[1], float)
        assert left[1] < left[0] < 0.3


def test_engine_time_moves_with_records_and_ticks_only(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        loop.stream(100, first)
        assert loop.fold.state.core.time_ms == loop.now_ms - 100
        loop.tick(5)
        loop.now_ms -= 3_600_000
        loop.stream(20, first)
        assert loop.fold.state.core.time_ms == START_MS + 5 * 2000 + 5000
