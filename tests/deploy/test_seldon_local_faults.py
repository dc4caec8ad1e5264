"""Every call to HAProxy's runtime socket going wrong in every way, and the caller killed after it.

HAProxy is real; the model servers are small ones that start at once
(tests/deploy/test_seldon_local.py has the real ones).
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

import deploy.haproxy_socket
from deploy.controller import reconcile
from deploy.rollout_plan import Traffic
from deploy.seldon_local import LocalBackend
from tests.deploy.local_life import answered_by, backend_in
from tests.deploy.test_server_process import wait_for
from tests.servers.faulty_socket import FaultySocket, SocketFault
from tests.servers.haproxy import make_sure_of_haproxy
from tests.servers.ports import free_ports

pytestmark = pytest.mark.integration

LIFE = (
    Traffic("1-a"),
    Traffic("1-a", "2-b", candidate_weight=5),
    Traffic("1-a", "2-b", candidate_weight=50),
    Traffic("1-a"),  # rolled back
    Traffic("1-a", "2-b", candidate_weight=50),
    Traffic("2-b", "1-a", shadow=True),  # promoted, on probation
    Traffic("2-b"),
    Traffic("1-a"),  # undone, when the server of 1-a has gone
)
MOST_S = 60.0
T = TypeVar("T")
TIMEOUT_S = 0.2  # a slow answer past it is one more tick, no failure


FULL = os.environ.get("METADRIFT_FAULTS") == "full"
"""``make faults`` runs everything; the suite a sample."""


def sample(everything: Sequence[T], *few: T) -> Sequence[T]:
    return everything if FULL else few


class EachCallOnce:
    """Every call of a tick goes wrong once in each stretch of the life, one in each tick."""

    def __init__(self, fault: SocketFault) -> None:
        self._fault = fault
        self._seen: set[tuple[int, int, str]] = set()
        self._call, self._happened = 0, False
        self.stretch = 0

    def begin_tick(self) -> None:
        self._call, self._happened = 0, False

    def __call__(self, line: str) -> SocketFault | None:
        call = (self.stretch, self._call, line.partition(" ")[0])
        self._call += 1
        if self._happened or call in self._seen:
            return None
        self._seen.add(call)
        self._happened = True
        return self._fault


@pytest.fixture
def proxied(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultySocket]:
    """HAProxy behind a faulty socket, on PATH in place of the one alone."""
    folder = tmp_path_factory.mktemp("s")
    monkeypatch.setattr(deploy.haproxy_socket, "CALL_S", TIMEOUT_S)
    with FaultySocket(folder, make_sure_of_haproxy()) as proxy:
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield proxy


def live(
    backend: LocalBackend, target: Traffic, port: int, before: set[str], tick: Callable[[], None]
) -> int:
    """Reconcile until the target is live; return the ticks. No request is lost meanwhile."""
    deadline_s, ticks = time.monotonic() + MOST_S, 0
    while True:
        tick()
        ticks += 1
        seen = reconcile(target, backend)
        allowed = before | {target.stable, *([target.candidate] if target.candidate else [])}
        if before:
            assert answered_by(port) in allowed
        if seen.live:
            return ticks
        assert time.monotonic() < deadline_s, seen


@pytest.mark.parametrize(
    "fault", [f for f in SocketFault if f is not SocketFault.KILLED], ids=lambda fault: fault.name
)
def test_each_call_going_wrong_leads_to_the_same_end(
    proxied: FaultySocket, tmp_path: Path, fault: SocketFault
) -> None:
    plan, (port,) = EachCallOnce(fault), free_ports(1)
    life = sample(LIFE, *LIFE[4:])

    def tick() -> None:
        proxied.listen()
        plan.begin_tick()

    backend, before = backend_in(tmp_path, port), set[str]()
    try:
        for plan.stretch, target in enumerate(life):
            proxied.plan = plan
            if fault is SocketFault.REFUSED and before:
                proxied.refuse()
                assert reconcile(target, backend).error is not None
            live(backend, target, port, before, tick)
            proxied.plan = lambda line: None
            proxied.listen()
            assert backend.observed() == target
            wanted = {v for v in (target.stable, target.candidate) if v}
            assert set(backend.processes()) == wanted, "a server is left over"
            before = wanted
        assert {answered_by(port) for _ in range(10)} == {"1-a"}
    finally:
        backend.close()
    wait_for(lambda: not mentions(tmp_path))
    print(f"{len(proxied.faults)} calls went wrong")
    assert len(proxied.faults) > 3 * len(life)
    assert {line.partition(" ")[0] for _, line in proxied.faults} == {"show", "set"}


def test_a_server_ends_only_once_the_new_routes_are_seen(
    proxied: FaultySocket, tmp_path: Path
) -> None:
    backend = backend_in(tmp_path, 0)
    try:
        wait_for(lambda: reconcile(Traffic("1-a", "2-b", 50), backend).live)
        proxied.plan = lambda line: SocketFault.DROPPED if line.startswith("set") else None
        for _ in range(3):
            seen = reconcile(Traffic("2-b"), backend)
            assert "did not take a change" in (seen.error or "")
            assert set(backend.processes()) == {"1-a", "2-b"}, "requests still go to both"
        proxied.plan = lambda line: None
        wait_for(lambda: reconcile(Traffic("2-b"), backend).live)
        assert set(backend.processes()) == {"2-b"}
    finally:
        backend.close()


class KillEachCall:
    """Kills after each call that differs by what has been changed before it, once."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()
        self.begin_life()

    def begin_life(self) -> None:
        self._changes = self._looks = 0

    def __call__(self, line: str) -> SocketFault | None:
        if line.startswith("set"):
            self._changes, self._looks = self._changes + 1, 0
        else:
            self._looks = min(self._looks + 1, 2)
        call = (self._changes, self._looks)
        if call in self._seen:
            return None
        self._seen.add(call)
        return SocketFault.KILLED


@pytest.mark.parametrize("target", sample(LIFE, Traffic("1-a", "2-b", candidate_weight=50)))
def test_killed_after_each_call_it_leaves_nothing_and_starts_anew(
    proxied: FaultySocket, target: Traffic
) -> None:
    plan, (port,), folder = KillEachCall(), free_ports(1), proxied.real.parent
    proxied.plan = plan
    words = [target.stable]
    if target.candidate is not None:
        words += [target.candidate, str(target.candidate_weight)]
    while True:
        killed = len(proxied.faults)
        plan.begin_life()
        with subprocess.Popen(
            [sys.executable, "-m", "tests.deploy.local_life", str(folder), str(port), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(folder)},
        ) as life:
            proxied.killed = life.kill
            assert life.stdout is not None
            told = life.stdout.readline()
            if told:
                wanted = {target.stable, *([target.candidate] if target.candidate_weight else [])}
                assert {answered_by(port) for _ in range(60)} == wanted
                life.communicate(b"enough")
                assert life.returncode == 0
                break
        assert len(proxied.faults) == killed + 1, "it ended by itself"
        wait_for(lambda: not mentions(folder))
    wait_for(lambda: not mentions(folder))
    assert not [*folder.glob("metadrift-serving-*")], "each removes what the killed one left"
    print(f"{len(proxied.faults)} calls went wrong")
    assert len(proxied.faults) >= (5 if target.candidate else 3)


def mentions(folder: Path) -> list[str]:
    """Return the command lines of running processes that name a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if str(folder) in words and process.pid != os.getpid():
            found.append(words)
    return found
