"""Guards: what the candidate's server counts can fail a canary, and never passes one."""

import pytest

from deploy.guards import GuardReading, guarded
from deploy.rollout import CanaryPlan, Phase, Verdict, advance, apply_verb, judge
from tests.deploy.canaries import canary, labels

PLAN = CanaryPlan(most_error_rate=0.05, longest_latency_ms=200.0, guard_requests=20)


@pytest.mark.parametrize(
    ("reading", "verdict", "words"),
    [
        (GuardReading(19, 19, 900.0), None, ""),
        (GuardReading(20, 1, 200.0), None, ""),
        (GuardReading(20, 2, 10.0), Verdict.FAIL, "2 of 20 requests failed, 0.1 > 0.05"),
        (GuardReading(20, 0, 200.1), Verdict.FAIL, "latency 200.1 ms > 200 ms"),
        (GuardReading(20, 0, None), Verdict.ERROR, "latency was not measured"),
        (GuardReading(problem="no answer"), Verdict.ERROR, "guard: no answer"),
        (GuardReading(19, 19, None, "1 of 2 servers"), Verdict.ERROR, "guard: 1 of 2 servers"),
        (GuardReading(20, 0, 10.0, "1 of 2 servers"), Verdict.ERROR, "guard: 1 of 2 servers"),
        (GuardReading(20, 0, None, "1 of 2 servers"), Verdict.ERROR, "guard: 1 of 2 servers"),
        (GuardReading(20, 2, 10.0, "1 of 2 servers"), Verdict.FAIL, "2 of 20 requests failed"),
        (None, Verdict.ERROR, "was not read"),
    ],
)
def test_what_a_reading_means(reading, verdict, words):
    found = guarded(PLAN, reading)
    assert (found is None) is (verdict is None)
    if found is not None:
        assert found[0] is verdict and words in found[1]


def test_a_plan_without_guards_asks_for_no_reading_and_hears_of_problems():
    assert guarded(CanaryPlan(), None) is None
    assert guarded(CanaryPlan(), GuardReading(100, 100, 9e9)) is None
    assert guarded(CanaryPlan(), GuardReading(problem="gone")) == (Verdict.ERROR, "guard: gone")


def test_failing_requests_roll_back_whatever_the_labels_say():
    better = labels(canary(PLAN), 40, 1.0, 0.0)
    gone = advance(better, 1.0, guard=GuardReading(100, 50, 10.0))
    assert gone.phase is Phase.ROLLED_BACK and gone.verdict is Verdict.FAIL
    assert "50 of 100 requests failed" in gone.reason
    paused = apply_verb(better, "pause", "ann", 0.5)
    assert advance(paused, 1.0, guard=GuardReading(100, 50, 10.0)).phase is Phase.ROLLED_BACK


def test_sound_guards_pass_nothing_by_themselves():
    fine = GuardReading(1000, 0, 1.0)
    assert judge(canary(PLAN), fine).verdict is Verdict.INCONCLUSIVE
    assert judge(labels(canary(PLAN), 40, 1.0, 0.0), fine).verdict is Verdict.PASS


def test_a_server_that_is_not_read_holds_the_promotion():
    better = labels(canary(PLAN), 40, 1.0, 0.0)
    assert judge(better).verdict is Verdict.ERROR
    assert advance(better, 1.0) is better


def test_a_guard_takes_the_old_champion_back_in_probation():
    fine = GuardReading(1000, 0, 1.0)
    promoting = advance(labels(canary(PLAN), 20, 1.0, 0.0), 1.0, guard=fine)
    probation = advance(promoting, 2.0, guard=fine)
    assert probation.phase is Phase.PROBATION
    assert advance(probation, 3.0, guard=GuardReading(problem="no answer")) is probation
    back = advance(probation, 3.0, guard=GuardReading(1000, 0, 500.0))
    assert back.phase is Phase.ROLLED_BACK and "500 ms > 200 ms" in back.reason


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="errors"):
        GuardReading(10, 11)
