"""Every verb said in every phase, paused or not: where it leads, or that it is refused.

``test_an_abort_is_in_force_after_one_tick`` and the test after it make it so on a real HAProxy with
small model servers behind it.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from deploy.controller import reconcile
from deploy.loopback import free_ports
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
from deploy.seldon_local import LocalBackend
from tests.deploy.canaries import canary, validating
from tests.deploy.local_life import answered_by, backend_in
from tests.deploy.test_server_process import wait_for
from tests.servers.haproxy import make_sure_of_haproxy

V, A, C, G, B = (
    Phase.VALIDATING,
    Phase.AWAITING_APPROVAL,
    Phase.CANARY,
    Phase.PROMOTING,
    Phase.PROBATION,
)
DONE, OUT, BACK, LATE = Phase.PROMOTED, Phase.REJECTED, Phase.ROLLED_BACK, Phase.EXPIRED
LIVE = (V, A, C, G, B)
STABLE, CANDIDATE = "1-aaaa", "2-bbbb"

LEADS_TO = {
    "approve": {A: C},
    "reject": {V: OUT, A: OUT},
    "promote": {C: C, B: DONE},
    "promote_full": {V: G, A: G, C: G},
    "pause": {phase: phase for phase in LIVE},
    "resume": {},
    "abort": dict.fromkeys(LIVE, BACK),
    "undo": {G: BACK, B: BACK, DONE: BACK},
    "retry": {BACK: V, LATE: V},
}
"""Where each verb leads; in every other phase it is refused."""
WHEN_PAUSED = {**LEADS_TO, "pause": {}, "resume": {phase: phase for phase in LIVE}}
WHEN_SUSPECT = {
    **WHEN_PAUSED,
    "approve": {},
    "promote": {},
    "promote_full": {},
    "reject": {A: OUT, C: OUT},
}


def in_phase(phase: Phase, pause: str = "") -> Rollout:
    """Return a rollout that came to a phase in one of the usual ways."""
    match phase:
        case Phase.VALIDATING:
            rollout = validating()
        case Phase.AWAITING_APPROVAL:
            rollout = canary(CanaryPlan(mode="recommend"))
        case Phase.CANARY:
            rollout = canary()
        case Phase.PROMOTING:
            rollout = apply_verb(canary(), "promote_full", "ann", 1.0)
        case Phase.PROBATION:
            rollout = advance(in_phase(G), 2.0)
        case Phase.PROMOTED:
            rollout = apply_verb(in_phase(B), "promote", "ann", 3.0)
        case Phase.REJECTED:
            rollout = apply_verb(validating(), "reject", "ann", 1.0)
        case Phase.ROLLED_BACK:
            rollout = apply_verb(canary(), "abort", "ann", 1.0)
        case Phase.EXPIRED:
            rollout = advance(canary(CanaryPlan(longest_wait_s=5.0)), 6.0)
    if pause == "person":
        rollout = apply_verb(rollout, "pause", "ann", 7.0)
    if pause == "suspect":
        rollout = advance(rollout, 7.0, suspect="renamed", live=False)
    assert rollout.phase is phase
    assert rollout.suspect == (pause == "suspect")
    return rollout


def said(rollout: Rollout, verb: str) -> Rollout:
    """Say a verb, and pass the state on as after a crash."""
    if verb == "retry":
        serving = desired_traffic(rollout).stable
        after = retry(
            rollout, id=4, stable=serving, plan=rollout.plan, who="ann", now_s=8.0, reason="why"
        )
    else:
        after = apply_verb(rollout, verb, "ann", 8.0, "why")  # type: ignore[arg-type]
    return Rollout.from_json(after.to_json())


CELLS = [
    *(("", verb, phase) for verb, phase in product(LEADS_TO, Phase)),
    *(("person", verb, phase) for verb, phase in product(LEADS_TO, LIVE)),
    # Suspicion holds nothing before the gate.
    *(("suspect", verb, phase) for verb, phase in product(LEADS_TO, LIVE[1:])),
]


@pytest.mark.parametrize(("pause", "verb", "phase"), CELLS)
def test_every_verb_in_every_phase(pause: str, verb: str, phase: Phase) -> None:
    table = {"": LEADS_TO, "person": WHEN_PAUSED, "suspect": WHEN_SUSPECT}[pause]
    rollout = in_phase(phase, pause)
    leads_to = table[verb].get(phase)
    if leads_to is None:
        with pytest.raises(VerbError) as refused:
            said(rollout, verb)
        told = str(refused.value)
        assert told.startswith(f"{verb}: rollout 3 of {CANDIDATE} is in phase {phase.value}: ")
        return
    after = said(rollout, verb)
    assert after.phase is leads_to
    assert "ann: why" in after.reason
    assert after.history[-1] == replace(after.history[-1], at_s=8.0, phase=leads_to)
    traffic = desired_traffic(after)
    if leads_to is BACK:
        assert traffic == Traffic(STABLE)
    assert traffic.stable == (CANDIDATE if leads_to in (G, B, DONE) else STABLE)
    stands = pause == "suspect" and leads_to in LIVE and verb != "resume"
    assert after.suspect == stands


def test_undo_and_abort_leave_no_phase_out() -> None:
    """From every phase one of them leads back to the stable version, or nothing is to be undone."""
    for phase in Phase:
        ways = {verb for verb in ("abort", "undo") if phase in LEADS_TO[verb]}
        assert ways or desired_traffic(in_phase(phase)) == Traffic(STABLE)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    """One HAProxy for the module."""
    make_sure_of_haproxy()
    made = backend_in(tmp_path_factory.mktemp("servers"), free_ports(1)[0])
    try:
        yield made
    finally:
        made.close()


def settled(backend: LocalBackend, rollout: Rollout) -> Traffic:
    """Tick until the rollout's traffic is live."""
    target = desired_traffic(rollout)
    wait_for(lambda: reconcile(target, backend).live)
    return target


@pytest.mark.integration
@pytest.mark.parametrize(
    ("phase", "pause"),
    [
        (p, pause)
        for p, pause in product(LIVE, ["", "person", "suspect"])
        if (p, pause) != (V, "suspect")
    ],
)
def test_an_abort_is_in_force_after_one_tick(
    backend: LocalBackend, phase: Phase, pause: str
) -> None:
    rollout = in_phase(phase, pause)
    settled(backend, rollout)
    aborted = said(rollout, "abort")
    assert reconcile(desired_traffic(aborted), backend).live
    assert backend.observed() == Traffic(STABLE)
    assert set(backend.processes()) == {STABLE}
    assert {answered_by(backend.router.port) for _ in range(5)} == {STABLE}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("verb", "phase"),
    [(verb, p) for verb in ("promote", "promote_full", "undo", "retry") for p in LEADS_TO[verb]],
)
def test_what_a_verb_says_is_served(backend: LocalBackend, verb: str, phase: Phase) -> None:
    rollout = in_phase(phase)
    settled(backend, rollout)
    target = settled(backend, said(rollout, verb))
    wanted = {target.stable, target.candidate} - {None}
    assert set(backend.processes()) == wanted
    served = {
        answered_by(backend.router.port) for _ in range(200 if target.candidate_weight else 5)
    }
    assert served == {v for v in wanted if v == target.stable or target.candidate_weight}
