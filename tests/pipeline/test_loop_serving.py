"""The engine and the servers beside it: nothing is believed that was not seen to be served."""

from pathlib import Path

from deploy.guards import GuardReading
from deploy.rollout import Phase, Traffic
from pipeline.core_state import ONE_ROUTE
from pipeline.records import ServerFailures, ServingSeen
from tests.pipeline.loop_driver import Loop
from tests.pipeline.rollout_stories import in_rollout, opened, promoted
from tests.pipeline.small_worlds import first, second


def served_beside(loop: Loop) -> Loop:
    """Tell the loop that servers stand beside it and carry what it wants."""
    loop.step(ServingSeen())
    follow(loop)
    return loop


def wanted(loop: Loop) -> Traffic:
    return loop.fold.state.traffic(ONE_ROUTE)


def follow(loop: Loop) -> None:
    """Let the servers carry what the state calls for now."""
    loop.step(ServingSeen(wanted(loop)))


def earned(loop: Loop) -> None:
    """Let a candidate earn its promotion; that it serves everything is not seen yet."""
    in_rollout(served_beside(loop))
    follow(loop)
    loop.until(lambda: loop.route.probation, second)


def failed(loop: Loop, version: str, count: int) -> None:
    """Let the servers carry the stable version alone; the other one's server failed."""
    seen = ServingSeen(Traffic(wanted(loop).stable), {version: ServerFailures(count, "exit 1")})
    loop.step(seen)


def test_a_canary_whose_traffic_is_not_seen_takes_no_step(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"longest_wait_labels": 30}) as loop:
        in_rollout(served_beside(loop))
        loop.stream(200, second)
        assert loop.route.rollout is not None and loop.route.rollout.step == 0
        assert loop.route.rollout.evidence.better.e_value() > 1 / loop.route.rollout.plan.risk
        follow(loop)
        assert loop.route.champion == 1, "its step begins only now"
        loop.stream(40, second)
        assert loop.route.champion == 2


def test_a_step_dwells_from_when_its_traffic_was_seen(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"dwell_s": 600, "least_labels": 1}) as loop:
        in_rollout(served_beside(loop))
        loop.stream(100, second)
        loop.tick(590)
        follow(loop)
        loop.stream(20, second)
        loop.tick(590)
        assert loop.route.rollout is not None and loop.route.rollout.step == 0
        loop.tick(20)
        assert loop.route.champion == 2


def test_a_canary_that_is_not_served_is_rolled_back_after_its_time(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"longest_unserved_s": 600}) as loop:
        in_rollout(served_beside(loop))
        loop.tick(590)
        follow(loop)
        loop.step(ServingSeen(Traffic(wanted(loop).stable)))
        loop.tick(590)
        assert loop.route.rollout is not None, "it was served in between"
        loop.tick(20)
        assert loop.route.rollout is None and loop.route.champion == 1
        (back,) = loop.decided("rollout-rolled-back")
        assert "not seen for 610 s (> 600)" in back.reason


def test_harm_rolls_back_whether_it_was_seen_or_not(tmp_path: Path) -> None:
    with opened(tmp_path, trigger={"actions_per_day": 1}) as loop:
        in_rollout(served_beside(loop))
        loop.until(lambda: loop.route.rollout is None, first)
        assert loop.decided("rollout-rolled-back")[0].facts["verdict"] == "fail"


def test_a_promotion_waits_for_its_traffic_and_is_taken_back_without(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"longest_unserved_s": 600}) as loop:
        earned(loop)
        probation = loop.route.probation
        assert probation is not None and probation.phase is Phase.PROMOTING
        loop.tick(590)
        assert loop.route.champion == 2
        loop.tick(20)
        assert loop.route.champion == 1
        assert "did not serve everything" in loop.decided("rollback")[0].reason


def test_a_promotion_goes_on_once_it_was_seen(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        earned(loop)
        follow(loop)
        assert loop.route.probation is not None
        assert loop.route.probation.phase is Phase.PROBATION
        assert loop.decided("serving")[-1].facts["stable"] == wanted(loop).stable


def test_a_candidate_whose_server_keeps_failing_is_rolled_back(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"most_server_failures": 3}) as loop:
        rollout = in_rollout(served_beside(loop)).route.rollout
        assert rollout is not None
        failed(loop, rollout.candidate, 2)
        assert loop.route.rollout is not None
        failed(loop, rollout.candidate, 3)
        assert loop.route.rollout is None and loop.route.champion == 1
        (back,) = loop.decided("rollout-rolled-back")
        assert "failed 3 times: exit 1" in back.reason
        assert [d.facts["version"] for d in loop.decided("server-failed")] == [rollout.candidate]


def test_a_new_champion_whose_server_keeps_failing_is_taken_back(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"most_server_failures": 3}) as loop:
        probation = promoted(loop).route.probation
        assert probation is not None
        served_beside(loop)
        failed(loop, probation.candidate, 3)
        assert loop.route.champion == 1 and loop.route.probation is None
        assert "failed 3 times" in loop.decided("rollback")[0].reason


def test_failures_of_the_stable_version_end_no_rollout(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"most_server_failures": 1}) as loop:
        rollout = in_rollout(served_beside(loop)).route.rollout
        assert rollout is not None
        failed(loop, rollout.stable, 7)
        assert loop.route.rollout is not None


def read(loop: Loop, version: str, reading: GuardReading) -> None:
    """Let the servers carry what is wanted; this is how one of them does."""
    loop.step(ServingSeen(wanted(loop), readings={version: reading}))


def guarded(folder: Path, **rollout: object) -> Loop:
    return opened(folder, rollout=rollout, serving={"backend": "local"})


def test_a_candidate_whose_server_fails_requests_is_rolled_back(tmp_path: Path) -> None:
    with guarded(tmp_path) as loop:
        rollout = in_rollout(served_beside(loop)).route.rollout
        assert rollout is not None and rollout.plan.most_error_rate == 0.1
        read(loop, rollout.candidate, GuardReading(49, 49))
        read(loop, rollout.candidate, GuardReading(50, 5))
        assert loop.route.rollout is not None
        read(loop, rollout.candidate, GuardReading(50, 6))
        assert loop.route.rollout is None and loop.route.champion == 1
        (back,) = loop.decided("rollout-rolled-back")
        assert "6 of 50 requests failed" in back.reason


def test_a_slow_candidate_is_rolled_back(tmp_path: Path) -> None:
    with guarded(tmp_path, longest_latency_ms=20, guard_requests=10) as loop:
        rollout = in_rollout(served_beside(loop)).route.rollout
        assert rollout is not None
        read(loop, rollout.candidate, GuardReading(10, 0, 20.0))
        read(loop, rollout.stable, GuardReading(10, 10, 900.0))
        assert loop.route.rollout is not None, "the stable version is no candidate"
        read(loop, rollout.candidate, GuardReading(10, 0, 20.5))
        assert "20.5 ms > 20 ms" in loop.decided("rollout-rolled-back")[0].reason


def test_a_candidate_whose_server_is_not_read_passes_nothing(tmp_path: Path) -> None:
    with guarded(tmp_path) as loop:
        rollout = in_rollout(served_beside(loop)).route.rollout
        assert rollout is not None
        follow(loop)
        loop.stream(200, second)
        assert loop.route.rollout is not None and loop.route.rollout.step == 0
        assert loop.route.rollout.evidence.better.e_value() > 1 / loop.route.rollout.plan.risk
        read(loop, rollout.candidate, GuardReading())
        assert loop.route.champion == 2


def test_a_new_champion_whose_server_fails_requests_is_taken_back(tmp_path: Path) -> None:
    with guarded(tmp_path, probation_labels=1000) as loop:
        rollout = in_rollout(served_beside(loop)).route.rollout
        assert rollout is not None
        read(loop, rollout.candidate, GuardReading())
        loop.until(lambda: loop.route.probation, second)
        read(loop, rollout.candidate, GuardReading())
        assert loop.route.champion == 2
        read(loop, rollout.candidate, GuardReading(60, 30))
        assert loop.route.champion == 1
        assert "30 of 60 requests failed" in loop.decided("rollback")[0].reason


def test_without_servers_beside_it_the_loop_judges_alone_again(tmp_path: Path) -> None:
    with opened(tmp_path) as loop:
        in_rollout(served_beside(loop))
        loop.stream(100, second)
        assert loop.route.champion == 1
        loop.step(ServingSeen(external=False))
        assert loop.fold.state.core.serving is None
        loop.stream(40, second)
        assert loop.route.champion == 2


def test_what_was_seen_is_folded_again(tmp_path: Path) -> None:
    with opened(tmp_path, rollout={"most_server_failures": 2}) as loop:
        rollout = in_rollout(served_beside(loop)).route.rollout
        assert rollout is not None
        follow(loop)
        loop.stream(20, second)
        read(loop, rollout.candidate, GuardReading(30, 1, 12.5))
        failed(loop, rollout.candidate, 2)
        loop.restart()
        assert loop.fold.state.core.serving is not None
        again = tmp_path / "again"
        again.mkdir()
        assert loop.refolded(again) == loop.tables()
