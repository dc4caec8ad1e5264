"""Failures known from Argo Rollouts, by number, driven tick by tick against our controller.

After every tick the state is serialised and restored, as after a crash; every call to the backend
may fail as a timeout, as a conflict, or as a success whose reply is lost. The end is always the
same, and in between there is at most one canary.
"""

from dataclasses import dataclass, field, replace
from itertools import cycle

import pytest

from deploy.controller import TransientBackendError, reconcile
from deploy.rollout import (
    CanaryPlan,
    Phase,
    Rollout,
    Traffic,
    VerbError,
    advance,
    apply_verb,
    desired_traffic,
)
from deploy.rollout_retry import retry
from tests.deploy.canaries import canary, labels

STABLE, CANDIDATE = "1-aaaa", "2-bbbb"
FAULTS = ("timeout", "conflict", "reply lost")


@dataclass
class FaultyBackend:
    """Keeps versions running and splits traffic; every n-th call fails in the next of its ways.

    A version in ``broken`` never becomes ready: traffic that needs it stays where it was, and the
    broken one is there, waiting, until a target without it comes.
    """

    every: int = 0
    broken: frozenset[str] = frozenset()
    live: Traffic = field(default_factory=lambda: Traffic(STABLE))
    running: set[str] = field(default_factory=lambda: {STABLE})
    calls: int = 0

    def __post_init__(self):
        self._faults = cycle(FAULTS)

    def apply(self, traffic):
        fault = self._fault()
        if fault in ("timeout", "conflict"):
            raise TransientBackendError(fault, retry_in_s=0.1)
        self.running = {v for v in (traffic.stable, traffic.candidate) if v}
        if not self.running & self.broken:
            self.live = traffic
        if fault == "reply lost":
            raise TransientBackendError(fault, retry_in_s=0.1)

    def observed(self):
        if self._fault():
            raise TransientBackendError("timeout", retry_in_s=0.1)
        for waiting in self.running - {self.live.stable, self.live.candidate}:
            return replace(self.live, candidate=waiting)  # up, or coming up, without traffic
        return self.live

    def _fault(self):
        self.calls += 1
        return next(self._faults) if self.every and self.calls % self.every == 0 else None


class NeverReadyBackend(FaultyBackend):
    """Its candidate's server never comes up."""

    def __init__(self, every=0):
        super().__init__(every, broken=frozenset({CANDIDATE}))


def tick(rollout, backend, now_s):
    """Look, apply, decide, crash."""
    tried = reconcile(desired_traffic(rollout), backend)
    sane(backend, rollout)
    return Rollout.from_json(advance(rollout, now_s, live=tried.live).to_json())


def sane(backend, rollout):
    assert len(backend.running) <= 2, "at most one canary"
    assert backend.running <= {rollout.stable, rollout.candidate}
    live = backend.live
    assert live.stable_weight + live.candidate_weight == 100


def settled(rollout, backend, now_s=1000.0):
    """Tick until what is served is what the state says; the alias follows the same state."""
    for n in range(12):
        rollout = tick(rollout, backend, now_s + n)
        done = backend.live == desired_traffic(rollout) and len(backend.running) == 1
        if rollout.phase.terminal and done:
            break
    alias = CANDIDATE if rollout.phase is Phase.PROMOTED else STABLE
    assert backend.live == desired_traffic(rollout) == Traffic(alias)
    assert backend.running == {alias}
    return rollout


every = pytest.mark.parametrize("every", [0, 2, 3, 5])


@every
def test_argo_4461_abort_after_promote_full(every):
    """There, once a full promotion was asked for, an abort was ignored while the canary's pods were
    not healthy. Here both are moves of one value: the abort replaces what the promotion asked for.
    """
    backend = NeverReadyBackend(every)
    rollout = tick(apply_verb(canary(), "promote_full", "ann", 1.0), backend, 2.0)
    assert rollout.phase is Phase.PROMOTING and backend.live == Traffic(STABLE)
    rollout = settled(apply_verb(rollout, "abort", "ann", 3.0), backend)
    assert rollout.phase is Phase.ROLLED_BACK


@every
def test_argo_4128_stuck_when_pods_never_come_up(every):
    """There a rollout whose new pods never came up stayed in progress past its deadline, and abort
    did nothing. Here a canary without labels expires and a promotion without traffic is taken back,
    by the clock alone.
    """
    plan = CanaryPlan(longest_wait_s=60.0, longest_promotion_s=60.0)
    for begun, end in (
        (canary(plan), Phase.EXPIRED),
        (apply_verb(canary(plan), "promote_full", "ann", 0.0), Phase.ROLLED_BACK),
    ):
        backend, rollout = NeverReadyBackend(every), begun
        for now_s in (10.0, 30.0, 59.0):
            rollout = tick(rollout, backend, now_s)
            assert not rollout.phase.terminal and backend.live == Traffic(STABLE)
        assert settled(tick(rollout, backend, 61.0), backend).phase is end


@every
def test_argo_3120_retry_after_abort(every):
    """There a retried rollout sometimes never scaled its canary up again, because a deadline for
    scaling down was left over from the abort. Here a retry is a new value from the first step on.
    """
    backend = FaultyBackend(every)
    aborted = settled(apply_verb(canary(), "abort", "ann", 1.0), backend)
    again = retry(aborted, id=4, stable=STABLE, plan=CanaryPlan(), who="ann", now_s=2.0)
    again = apply_verb(again, "promote_full", "ann", 2.0)
    again = ended_probation(again, backend)
    assert settled(again, backend).phase is Phase.PROMOTED


def ended_probation(rollout, backend):
    for now_s in range(3, 15):
        rollout = tick(rollout, backend, float(now_s))
    assert rollout.phase is Phase.PROBATION
    return apply_verb(rollout, "promote", "ann", 20.0)


@every
def test_argo_1665_restart_of_an_aborted_rollout(every):
    """There restarting the pods of an aborted rollout started a canary pod, and it got traffic.
    Here a backend that comes back with the old split is put right; no tick brings a canary back.
    """
    backend = FaultyBackend(every)
    aborted = settled(apply_verb(canary(), "abort", "ann", 1.0), backend)
    backend.live, backend.running = Traffic(STABLE, CANDIDATE, 5), {STABLE, CANDIDATE}
    assert settled(aborted, backend) == aborted
    for now_s in range(2000, 2010):
        tick(aborted, backend, float(now_s))
        assert backend.running == {STABLE}


@every
def test_argo_1292_abort_with_nothing_in_progress(every):
    """There an abort without a rollout in progress scaled the stable pods to zero. Here it is
    refused, and nothing changes.
    """
    backend = FaultyBackend(every)
    for ended in (
        ended_probation(apply_verb(canary(), "promote_full", "ann", 1.0), FaultyBackend()),
        apply_verb(canary(), "abort", "ann", 1.0),
    ):
        with pytest.raises(VerbError, match="nothing is in progress"):
            apply_verb(ended, "abort", "ann", 2.0)
        assert desired_traffic(ended).stable_weight == 100
        settled(ended, backend)


@every
def test_argo_1774_bad_stable(every):
    """There a canary could not go on because the stable pods were broken. Here the evidence
    decides: a stable version that is always wrong is replaced, and nothing is needed of it.
    """
    backend = FaultyBackend(every)
    rollout = labels(canary(), 20, 1.0, 0.0)
    for now_s in range(3, 15):
        rollout = tick(rollout, backend, float(now_s))
    assert rollout.phase is Phase.PROBATION
    done = apply_verb(rollout, "promote", "ann", 20.0)
    assert settled(done, backend).phase is Phase.PROMOTED


@every
def test_argo_1337_leftovers(every):
    """There an abort after a second scaling step left canary pods running. Here a target names
    every version that may be there: what it does not name goes, whatever the step was.
    """
    for steps in (0, 1, 2):
        backend, rollout = FaultyBackend(every), canary()
        for step in range(steps):
            rollout = tick(apply_verb(rollout, "promote", "ann", 1.0), backend, 2.0 + step)
        assert rollout.step == steps
        settled(apply_verb(rollout, "abort", "ann", 9.0), backend)
