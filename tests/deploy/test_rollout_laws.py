"""Whatever happens to a rollout, traffic stays sane."""

from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.rollout import (
    CanaryPlan,
    GuardReading,
    Phase,
    Rollout,
    VerbError,
    Verdict,
    admit,
    advance,
    apply_verb,
    desired_traffic,
    observe_answer,
    observe_assigned,
    observe_pair,
)
from deploy.rollout_state import LONGEST_HISTORY
from tests.deploy.canaries import validating

plans = st.builds(
    CanaryPlan,
    weights=st.sets(st.integers(1, 100), min_size=1, max_size=5).map(sorted).map(tuple),
    most_error_rate=st.none() | st.just(0.5),
    least_labels=st.integers(1, 8),
    dwell_s=st.floats(0, 30),
    dwell_labels=st.integers(0, 8),
    longest_wait_s=st.none() | st.floats(30, 300),
    longest_wait_labels=st.none() | st.integers(8, 60),
    longest_approval_wait_s=st.none() | st.floats(1, 100),
    least_gain=st.sampled_from([0.0, 0.1]),
    risk=st.sampled_from([0.5, 0.05]),
    promote_on_pass=st.booleans(),
    probation_labels=st.integers(1, 20),
    probation_s=st.none() | st.floats(1, 100),
    mode=st.sampled_from(["shadow", "recommend", "auto"]),
    label_permutation=st.sampled_from(["hold", "adapt"]),
)
single = st.builds(
    CanaryPlan,
    evidence=st.just("unpaired"),
    weights=st.sets(st.integers(1, 99), min_size=1, max_size=5).map(sorted).map(tuple),
    least_labels=st.integers(1, 8),
    least_labels_per_arm=st.integers(1, 3),
    least_label_coverage=st.sampled_from([0.0, 0.5]),
    longest_wait_s=st.none() | st.floats(30, 300),
    longest_promotion_s=st.none() | st.floats(1, 100),
    risk=st.sampled_from([0.5, 0.05]),
    promote_on_pass=st.booleans(),
    probation_labels=st.integers(1, 20),
    mode=st.sampled_from(["recommend", "auto"]),
)
burst = st.tuples(
    st.just("labels"),
    st.integers(1, 12),
    st.sampled_from([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.31, 0.17)]),
    st.sampled_from(["stable", "candidate", "honest"]),
)
look = st.tuples(
    st.just("look"),
    st.floats(0, 60),
    st.sampled_from([None, None, None, "renamed"]),
    st.sampled_from([None, None, None, GuardReading(problem="gone"), GuardReading(100, 90, 5.0)]),
    st.booleans(),
)
gate = st.tuples(st.just("gate"), st.booleans())
verb = st.tuples(
    st.just("verb"),
    st.sampled_from(
        ["promote", "promote_full", "pause", "resume", "abort", "approve", "reject", "undo"]
    ),
)
histories = st.lists(st.one_of(burst, burst, look, look, look, gate, verb), max_size=40)


def happen(rollout, event, now_s, counter):
    """One thing that happens; a refused verb changes nothing."""
    match event:
        case ("labels", n, losses, arm):
            weight = desired_traffic(rollout).candidate_weight
            for _ in range(n):
                counter[0] += 1
                by_candidate = (
                    (counter[0] * 61) % 100 < weight if arm == "honest" else arm == "candidate"
                )
                rollout = observe_assigned(
                    rollout, events=1, by_candidate=int(by_candidate), weight_pct=weight
                )
                served = "candidate" if by_candidate else "stable"
                if rollout.plan.evidence == "unpaired":
                    loss = losses[by_candidate]
                    rollout = observe_answer(rollout, loss, arm=served, weight_pct=weight)
                else:
                    rollout = observe_pair(rollout, *losses, arm=served, weight_pct=weight)
            return rollout
        case ("look", _, suspect, guard, live):
            return advance(rollout, now_s, suspect=suspect, guard=guard, live=live)
        case ("gate", may_enter):
            return admit(rollout, now_s, may_enter=may_enter, reason="gate")
        case ("verb", name):
            try:
                return apply_verb(rollout, name, "ann", now_s)
            except VerbError:
                return rollout


def lawful(before, event, after):
    """The laws of one move."""
    traffic = desired_traffic(after)
    assert 0 <= traffic.candidate_weight <= 100
    assert traffic.stable_weight + traffic.candidate_weight == 100
    assert traffic.candidate_weight == 0 or traffic.candidate == after.candidate
    assert {traffic.stable, traffic.candidate} <= {after.stable, after.candidate, None}
    assert after.step - before.step in (0, 1)
    assert event[0] != "labels" or after.phase is before.phase, "labels alone move nothing"
    undone = event == ("verb", "undo") and before.phase is Phase.PROMOTED
    if undone:
        assert after.phase is Phase.ROLLED_BACK and traffic.stable == after.stable
    elif before.phase.terminal:
        assert after.phase is before.phase and after.history == before.history
    if after.phase is Phase.CANARY and (after.suspect or after.plan.mode == "shadow"):
        assert traffic.candidate_weight == 0 and traffic.stable == after.stable
    if before.suspect and event[0] == "look":
        assert after == before, "while labels are suspect only a person acts"
    if after.phase is Phase.PROMOTING and before.phase is not Phase.PROMOTING:
        by_person = event == ("verb", "promote_full")
        assert by_person or (after.verdict is Verdict.PASS and before.phase is Phase.CANARY)
        assert after.plan.mode != "shadow"
    if after.phase in (Phase.PROBATION, Phase.PROMOTED):
        assert any(entry.phase is Phase.PROMOTING for entry in after.history)
    if after.plan.mode == "recommend" and after.phase is Phase.CANARY:
        assert any(entry.phase is Phase.AWAITING_APPROVAL for entry in after.history)
    if event == ("verb", "abort") and not before.phase.terminal:
        assert after.phase is Phase.ROLLED_BACK
    assert len(after.history) <= LONGEST_HISTORY
    assert after.reason == after.history[-1].reason != ""


@settings(max_examples=300, deadline=None)
@given(plans | single, histories)
def test_every_history_is_lawful(plan, events):
    rollout, now_s, counter = validating(plan), 0.0, [0]
    for event in [("gate", True), *events] if len(events) % 4 else events:
        now_s += event[1] if event[0] == "look" else 0.0
        after = happen(rollout, event, now_s, counter)
        lawful(rollout, event, after)
        rollout = after
    assert apply_or_ended(rollout, now_s).phase.terminal


def apply_or_ended(rollout, now_s):
    """Abort, unless it is over anyway."""
    return rollout if rollout.phase.terminal else apply_verb(rollout, "abort", "ann", now_s)


@settings(max_examples=100, deadline=None)
@given(plans | single, histories)
def test_a_crash_between_any_two_events_changes_nothing(plan, events):
    alive = crashed = validating(plan, now_s=1 / 3)
    now_s, counter, other = 1 / 3, [0], [0]
    for event in [("gate", True), *events]:
        now_s += event[1] if event[0] == "look" else 0.0
        alive = happen(alive, event, now_s, counter)
        crashed = Rollout.from_json(happen(crashed, event, now_s, other).to_json())
        assert crashed == alive


@given(plans, st.lists(st.floats(0, 50), max_size=30))
def test_looking_more_often_at_no_news_changes_nothing(plan, gaps):
    rollout = admit(validating(plan), 0.0, may_enter=True, reason="gate")
    now_s = 0.0
    for gap in gaps:
        now_s += gap
        once = advance(rollout, now_s)
        if once is rollout:
            assert advance(rollout, now_s) is rollout
        rollout = once


def test_the_history_is_bounded():
    rollout = admit(validating(), 0.0, may_enter=True, reason="gate")
    for second in range(200):
        rollout = apply_verb(rollout, "pause", "ann", float(second))
        rollout = apply_verb(rollout, "resume", "ann", float(second))
    assert len(rollout.history) == LONGEST_HISTORY
    assert rollout.history[-1].at_s == 199.0
