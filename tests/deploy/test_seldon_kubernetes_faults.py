"""Every call of the backend going wrong in every way, and the process killed after each of them."""

import os
from collections.abc import Callable

import pytest

from deploy.controller import TransientBackendError, reconcile
from deploy.rollout_plan import Traffic
from tests.deploy.cluster_ticker import Ticker
from tests.deploy.seldon_cluster import SeldonWorld
from tests.servers.faulty_proxy import Fault, FaultyProxy, Plan
from tests.servers.kube_api_server import KubeApiServer

pytestmark = pytest.mark.integration

LIFE = (
    Traffic("1-a"),
    Traffic("1-a", "2-b", candidate_weight=5),
    Traffic("1-a", "2-b", candidate_weight=50),
    Traffic("2-b", "1-a", shadow=True),
    Traffic("2-b"),
    Traffic("2-b", "3-c", candidate_weight=5),
    Traffic("2-b"),
)
MOST_TICKS = 400
FULL = os.environ.get("METADRIFT_FAULTS") == "full"
"""``make faults`` kills after every call; the suite after those that change something."""
TIMEOUT_S = 2.0  # a slow answer past it is one more tick, no failure


class EachCallOnce:
    """The first call of every kind within a stretch of the life goes wrong, the next one does not.

    A kind is a method and a resource; ``stretch`` is moved on by the test.
    """

    def __init__(self, fault: Fault, kinds: Callable[[str, str], bool]) -> None:
        self._fault = fault
        self._kinds = kinds
        self._seen: set[tuple[int, str, str]] = set()
        self.stretch = 0

    def __call__(self, method: str, path: str) -> Fault | None:
        kind = (self.stretch, method, path)
        if kind in self._seen or not self._kinds(method, path):
            return None
        self._seen.add(kind)
        return self._fault


def live_through(world: SeldonWorld, address: str, plan: EachCallOnce, timeout_s: float) -> int:
    """Live the whole life and return the number of ticks; each tick is a new process."""
    ticks = 0
    for stretch, target in enumerate(LIFE):
        plan.stretch = stretch
        while True:
            ticks += 1
            assert ticks < MOST_TICKS, f"{target} is not reached"
            with world.api(address, timeout_s) as api:
                state = reconcile(target, world.backend(api))
            sane(world)
            if state.live:
                break
            world.operator.step()
    return ticks


def sane(world: SeldonWorld) -> None:
    """At most one candidate, and the stable version has what it does not have."""
    weights = world.spec_weights()
    if not weights:
        return
    (_, stable), *others = weights.items()
    assert len(others) <= 1
    assert stable == 100 - sum(max(w, 0) for _, w in others)


@pytest.mark.parametrize("fault", [f for f in Fault if f not in (Fault.TIMEOUT, Fault.KILLED)])
def test_each_call_going_wrong_leads_to_the_same_end(
    world: SeldonWorld, seldon_server: KubeApiServer, fault: Fault
) -> None:
    plan = EachCallOnce(fault, lambda method, path: True)
    with FaultyProxy(seldon_server.port, seldon_server.authority) as proxy:
        proxy.plan = plan
        live_through(world, proxy.address, plan, 60.0)
        faults = proxy.faults
    print(f"{len(faults)} calls went wrong")
    same_end(world)
    assert {method for method, _ in faults} == {"GET", "POST", "PATCH"}
    assert len(faults) > 4 * len(LIFE)


def test_each_kind_of_call_timing_out_leads_to_the_same_end(
    world: SeldonWorld, seldon_server: KubeApiServer
) -> None:
    """Once for each method and kind of object: each costs a timeout."""
    seen: set[tuple[str, str]] = set()

    def first(method: str, path: str) -> bool:
        kind = (method, path.split("/")[6])
        return kind not in seen and not seen.add(kind)  # type: ignore[func-returns-value]

    plan = EachCallOnce(Fault.TIMEOUT, first)
    with FaultyProxy(seldon_server.port, seldon_server.authority) as proxy:
        proxy.plan = plan
        live_through(world, proxy.address, plan, TIMEOUT_S)
        faults = proxy.faults
    print(f"{len(faults)} calls went wrong")
    same_end(world)
    assert {method for method, _ in faults} == {"GET", "POST", "PATCH"}


@pytest.mark.parametrize(
    ("fault", "retry_after", "retry_in_s"),
    [
        (Fault.BUSY, "7", 7.0),
        (Fault.BUSY, "", 5.0),
        (Fault.BROKEN, "", 5.0),
        (Fault.RESET, "", 5.0),
    ],
)
def test_trouble_that_passes_says_when_to_come_back(
    world: SeldonWorld,
    seldon_server: KubeApiServer,
    fault: Fault,
    retry_after: str,
    retry_in_s: float,
) -> None:
    with (
        FaultyProxy(seldon_server.port, seldon_server.authority) as proxy,
        world.api(proxy.address) as api,
    ):
        proxy.plan, proxy.retry_after = lambda method, path: fault, retry_after
        with pytest.raises(TransientBackendError) as caught:
            world.backend(api).apply(LIFE[0])
        assert caught.value.retry_in_s == retry_in_s


def test_a_conflict_is_no_trouble_of_its_own(
    world: SeldonWorld, seldon_server: KubeApiServer
) -> None:
    plan = EachCallOnce(Fault.CONFLICT, lambda method, path: method != "GET")
    with (
        FaultyProxy(seldon_server.port, seldon_server.authority) as proxy,
        world.api(proxy.address) as api,
    ):
        proxy.plan = plan
        for plan.stretch, target in enumerate(LIFE[:2]):
            world.backend(api).apply(target)
        assert [method for method, _ in proxy.faults] == ["POST", "PATCH"]
    assert world.spec_weights() == {"1-a": 95, "2-b": 5}


def test_killed_after_each_call_the_next_process_reaches_the_same_end(
    world: SeldonWorld, seldon_server: KubeApiServer
) -> None:
    """With SIGKILL, between the server's work and its reply; the suite does so at each write."""
    plan = EachCallOnce(Fault.KILLED, lambda method, path: FULL or method != "GET")
    kills, ticks = 0, 0
    with FaultyProxy(seldon_server.port, seldon_server.authority) as proxy:
        proxy.plan, ticker = plan, Ticker("v1", world, proxy.address)
        proxy.killed = ticker.kill
        try:
            for stretch, target in enumerate(LIFE):
                plan.stretch = stretch
                while not (live := ticker.tick(target)):
                    ticks += 1
                    assert ticks < MOST_TICKS, f"{target} is not reached"
                    kills += live is None
                    sane(world)
                    world.operator.step()
        finally:
            ticker.close()
        print(f"{len(proxy.faults)} calls went wrong")
        assert kills == len(proxy.faults) >= (4 if FULL else 1) * len(LIFE)
        assert {"POST", "PATCH"} <= {method for method, _ in proxy.faults}
    same_end(world)


def same_end(world: SeldonWorld) -> None:
    assert world.spec_weights() == {"2-b": 100}
    assert world.operator.weights() == {"2-b": 100}
    assert world.operator.deployments() == {"2-b"}


def test_a_lost_reply_makes_no_second_deployment(
    world: SeldonWorld, seldon_server: KubeApiServer
) -> None:
    def writes(method: str, path: str) -> Fault | None:
        return Fault.LOST_REPLY if method in {"POST", "PATCH"} else None

    plan: Plan = writes
    with (
        FaultyProxy(seldon_server.port, seldon_server.authority) as proxy,
        world.api(proxy.address) as api,
    ):
        proxy.plan = plan
        backend = world.backend(api)
        for target in LIFE[:2]:
            assert not reconcile(target, backend).live
            world.operator.step()
            world.operator.step()
            assert reconcile(target, backend).live
        assert len(proxy.faults) == 2
