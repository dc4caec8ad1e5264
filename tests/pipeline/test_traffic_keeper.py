"""The thread between the committed state and the servers: when it acts, and what it tells."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from deploy.controller import PermanentBackendError
from deploy.rollout_plan import Traffic
from pipeline.records import ServingSeen
from pipeline.serving_backends import Kept
from pipeline.traffic_keeper import HOPELESS_S, TURN_S, TrafficKeeper

STABLE, CANARY = Traffic("1-a"), Traffic("1-a", "2-b", candidate_weight=5)
PATIENCE_S = 30.0


class ListBackend:
    """Serves what it is told at once, and lists it.

    Attributes:
        applied: In order.
        refuses: Splits that only a person can make possible.
        broken: Raised by the next look.
        looks: How often it was looked at.
        closed: How often it was closed.
    """

    def __init__(self) -> None:
        self.applied: list[Traffic] = []
        self.refuses: tuple[Traffic, ...] = ()
        self.broken: Exception | None = None
        self.looks = self.closed = 0

    def apply(self, traffic: Traffic) -> None:
        if traffic in self.refuses:
            raise PermanentBackendError(f"no {traffic.candidate}")
        self.applied.append(traffic)

    def observed(self) -> Traffic | None:
        self.looks += 1
        if self.broken is not None:
            raise self.broken
        return self.applied[-1] if self.applied else None

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def backend() -> ListBackend:
    return ListBackend()


@contextmanager
def keeping(
    backend: ListBackend,
    owns: Callable[[], bool] = lambda: True,
    hindered: Callable[[], str | None] = lambda: None,
) -> Iterator[TrafficKeeper]:
    kept = Kept(backend, failures=dict, close=backend.close, may_act=hindered)
    keeper = TrafficKeeper(kept, owns)
    try:
        yield keeper
    finally:
        assert keeper.close(PATIENCE_S) and backend.closed == 1


def until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        time.sleep(0.01)


def news(keeper: TrafficKeeper) -> ServingSeen:
    """Return the next thing that is told."""
    told: list[ServingSeen] = []

    def heard() -> bool:
        seen = keeper.news()
        told.extend([seen] if seen is not None else [])
        return bool(told)

    until(heard)
    return told[0]


def test_who_no_longer_owns_the_model_touches_nothing(backend: ListBackend) -> None:
    owner = threading.Event()
    asked = threading.Semaphore(0)

    def owns() -> bool:
        asked.release()
        return owner.is_set()

    with keeping(backend, owns) as keeper:
        keeper.want(STABLE)
        for _ in range(3):
            assert asked.acquire(timeout=PATIENCE_S)
        assert backend.looks == 0 and backend.applied == [] and keeper.news() is None
        owner.set()
        assert news(keeper) == ServingSeen(STABLE)
        owner.clear()
        keeper.want(CANARY)
        for _ in range(4):  # the first may have been asked for before
            assert asked.acquire(timeout=PATIENCE_S)
        assert backend.applied == [STABLE]


def test_what_hinders_is_told_and_nothing_is_touched(backend: ListBackend) -> None:
    with keeping(backend, hindered=lambda: "another holds the lease") as keeper:
        keeper.want(STABLE)
        assert news(keeper) == ServingSeen(None, problem="another holds the lease")
        time.sleep(2 * TURN_S)
        assert keeper.news() is None and backend.looks == 0


def test_the_same_is_told_once(backend: ListBackend) -> None:
    with keeping(backend) as keeper:
        keeper.want(STABLE)
        assert news(keeper) == ServingSeen(STABLE)
        looks = backend.looks
        until(lambda: backend.looks >= looks + 2)
        assert keeper.news() is None
        keeper.want(CANARY)
        assert news(keeper) == ServingSeen(CANARY)


def test_a_new_target_is_tried_at_once_though_the_old_one_is_hopeless(
    backend: ListBackend,
) -> None:
    backend.refuses = (CANARY,)
    with keeping(backend) as keeper:
        keeper.want(CANARY)
        assert news(keeper).problem == "no 2-b"
        time.sleep(2 * TURN_S)
        assert backend.looks == 1, "only a person can mend it"
        keeper.want(STABLE)
        until(lambda: backend.applied == [STABLE], HOPELESS_S / 2)


def test_a_defect_of_the_thread_ends_the_loop_that_asks_it(backend: ListBackend) -> None:
    backend.broken = KeyError("srv_port")
    with keeping(backend) as keeper:
        keeper.want(STABLE)
        until(lambda: backend.closed == 1)
        for _ in range(2):
            with pytest.raises(KeyError, match="srv_port"):
                keeper.news()


def test_closing_does_not_wait_for_ever(backend: ListBackend) -> None:
    stuck = threading.Event()
    keeper = TrafficKeeper(Kept(backend, failures=dict, close=stuck.wait), lambda: True)
    assert not keeper.close(0.1)
    stuck.set()
    assert keeper.close(PATIENCE_S)
