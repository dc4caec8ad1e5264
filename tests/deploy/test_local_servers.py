"""What the local backend does with its servers beside answering: identity, leaving, leftovers."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import deploy.haproxy_router
import deploy.seldon_local
import deploy.seldon_process
from deploy.controller import TransientBackendError, reconcile
from deploy.haproxy_config import admin
from deploy.haproxy_socket import HaproxySocket
from deploy.leaving_servers import LEAVE_S
from deploy.rollout_plan import Traffic
from deploy.scratch_folder import ScratchFolder
from deploy.seldon_local import Failures, LocalBackend, LocalServing
from deploy.seldon_process import ModelFolder, SeldonOptions, SeldonProcess
from tests.deploy.local_life import answered_by
from tests.deploy.test_server_process import members, wait_for
from tests.servers.haproxy import make_sure_of_haproxy
from tests.servers.ports import free_ports
from tests.servers.quick_model_server import quick_python

pytestmark = pytest.mark.integration
SPLIT = Traffic("1-a", "2-b", candidate_weight=50)


class Clock:
    """Real seconds, and those that a test lets pass."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend(tmp_path: Path, clock: Clock) -> Iterator[LocalBackend]:
    with_failures = {"9-z": Failures(4, "in an earlier life")}
    made = quick_backend(tmp_path, clock, failures=with_failures)
    yield made
    made.close()


def quick_backend(
    folder: Path,
    clock: Clock,
    *,
    python: Path | None = None,
    port: int = 0,
    failures: dict[str, Failures] | None = None,
    note: Path | None = None,
) -> LocalBackend:
    make_sure_of_haproxy()
    folder.mkdir(exist_ok=True)
    serving = LocalServing(
        python=python or quick_python(folder),
        logs=folder / "logs",
        port=port,
        start_s=60,
        router_note=note,
    )
    return LocalBackend(serving, lambda v: ModelFolder(folder, f"sha256:{v}"), clock, failures)


def live(backend: LocalBackend, target: Traffic) -> None:
    wait_for(lambda: reconcile(target, backend).live)


def python_of(server: SeldonProcess) -> psutil.Process:
    """Return the server itself, without its leash."""
    children = psutil.Process(server.pid).children()
    (found,) = [c for c in children if c.name() != "sh"]
    return found


def test_a_server_that_leaves_slowly_holds_up_nobody(backend: LocalBackend, clock: Clock) -> None:
    live(backend, SPLIT)
    leaves = backend.processes()["2-b"]
    hung = python_of(leaves)
    hung.suspend()  # it will never read that it shall end
    began_s = time.monotonic()
    live(backend, Traffic("1-a"))
    live(backend, Traffic("1-a", "2-b", candidate_weight=25))
    assert time.monotonic() - began_s < LEAVE_S
    assert {answered_by(backend.router.port) for _ in range(40)} == {"1-a", "2-b"}
    assert hung.is_running(), "it has its time"
    clock.ahead_s = LEAVE_S
    backend.observed()
    wait_for(lambda: not members(leaves.pid))
    assert set(backend.processes()) == {"1-a", "2-b"}, "the new server of that version stays"


def test_weights_of_another_hand_are_no_split_and_are_put_right(backend: LocalBackend) -> None:
    live(backend, SPLIT)
    for wrong in ("predictions/stable 70", "predictions/candidate 10"):
        HaproxySocket(admin(backend._scratch.path)).change([f"set weight {wrong}"])
        assert backend.observed() is None, wrong
        assert reconcile(SPLIT, backend).live


def test_the_next_candidate_is_not_judged_by_the_one_that_was_taken_out(
    backend: LocalBackend,
) -> None:
    live(backend, SPLIT)
    port = backend.router.port
    os.killpg(backend.processes()["2-b"].pid, signal.SIGKILL)
    assert {answered_by(port) for _ in range(30)} == {"1-a"}, "its requests go to the other one"
    live(backend, Traffic("1-a", "3-c", candidate_weight=50))
    assert {answered_by(port) for _ in range(30)} == {"1-a", "3-c"}


def test_closing_lets_all_servers_leave_side_by_side(tmp_path: Path, clock: Clock) -> None:
    backend = quick_backend(tmp_path, clock)
    live(backend, SPLIT)
    groups = [server.pid for server in backend.processes().values()]
    for server in backend.processes().values():
        python_of(server).suspend()
    clock_s = iter([0.0, 0.0, *[LEAVE_S + 1] * 99])
    backend._clock = lambda: next(clock_s)  # both are asked at 0 s; then their time is over
    began_s = time.monotonic()
    backend.close()
    assert time.monotonic() - began_s < LEAVE_S
    # A killed process is gone a moment after the one that was waited for.
    wait_for(lambda: not [pid for group in groups for pid in members(group)])


def test_what_answers_on_its_port_must_be_this_version(tmp_path: Path) -> None:
    port, scratch = free_ports(1)[0], tmp_path / "scratch"
    scratch.mkdir()
    options = SeldonOptions(quick_python(tmp_path), tmp_path / "logs", scratch)
    foreign = SeldonProcess("1-a", ModelFolder(tmp_path, "sha256:1-a"), options, port)
    others = []
    try:
        wait_for(foreign.ready)
        for version, digest in (("2-b", "sha256:1-a"), ("1-a", "sha256:changed")):
            others.append(SeldonProcess(version, ModelFolder(tmp_path, digest), options, port))
            assert not others[-1].ready()
    finally:
        for each in (foreign, *others):
            each.kill()


def test_failures_of_an_earlier_life_are_counted_on_and_forgotten_with_their_version(
    backend: LocalBackend, tmp_path: Path, clock: Clock
) -> None:
    before = {"1-a": Failures(4, "in an earlier life")}
    crashing = quick_backend(tmp_path / "b", clock, python=Path("/bin/false"), failures=before)
    try:
        assert crashing.failures() == before
        wait_for(lambda: reconcile(Traffic("1-a"), crashing).error is not None)
        wait_for(lambda: (reconcile(Traffic("1-a"), crashing), crashing.failures())[1] != before)
        assert crashing.failures()["1-a"].count == 5
        wait_s = reconcile(Traffic("1-a"), crashing).retry_in_s
        assert wait_s is not None and 2 < wait_s <= 8, "each time it waits twice as long"
        assert "exit code 1" in crashing.failures()["1-a"].reason
    finally:
        crashing.close()
    assert set(backend.failures()) == {"9-z"}
    live(backend, Traffic("1-a"))
    assert backend.failures() == {}, "nobody wants 9-z any more"


def test_a_server_that_does_not_answer_in_its_time_has_failed(tmp_path: Path, clock: Clock) -> None:
    slow = tmp_path / "slow-python"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    backend = quick_backend(tmp_path, clock, python=slow)
    try:
        with pytest.raises(TransientBackendError, match="1-a is starting"):
            backend.apply(Traffic("1-a"))
        began = backend.processes()["1-a"]
        clock.ahead_s = 61.0
        with pytest.raises(TransientBackendError, match="did not answer within 60 s"):
            backend.apply(Traffic("1-a"))
        assert backend.failures()["1-a"].count == 1 and not members(began.pid)
    finally:
        backend.close()


def test_a_server_that_falls_silent_is_replaced_at_its_port(
    backend: LocalBackend, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(backend, Traffic("1-a"))
    before = backend.processes()["1-a"]
    monkeypatch.setattr(deploy.seldon_process, "_HEALTH_S", 0.2)
    python_of(before).suspend()
    clock.ahead_s = 3.0
    assert reconcile(Traffic("1-a"), backend).live, "once is no silence"
    monkeypatch.setattr(deploy.seldon_local, "_SILENT_S", 0.1)
    clock.ahead_s = 6.0
    assert not reconcile(Traffic("1-a"), backend).live
    assert "has not answered" in backend.failures()["1-a"].reason
    live(backend, Traffic("1-a"))
    after = backend.processes()["1-a"]
    assert after.port == before.port and after.pid != before.pid
    assert not members(before.pid)


def test_failures_are_forgiven_after_five_good_minutes(tmp_path: Path, clock: Clock) -> None:
    before = {"1-a": Failures(4, "in an earlier life")}
    backend = quick_backend(tmp_path, clock, failures=before)
    try:
        live(backend, Traffic("1-a"))
        for ahead_s, left in ((3.0, before), (295.0, before), (301.0, {})):
            clock.ahead_s = ahead_s
            assert reconcile(Traffic("1-a"), backend).live
            assert backend.failures() == left
    finally:
        backend.close()


def test_a_server_that_lost_its_port_before_it_answered_takes_another(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        lost = other.getsockname()[1]
        given = iter([[lost, *free_ports(2)]])
        monkeypatch.setattr(
            deploy.seldon_process, "free_ports", lambda count: next(given, free_ports(count))
        )
        wait_for(lambda: "1-a" in (reconcile(Traffic("1-a"), backend), backend.failures())[1])
        assert "in use" in backend.failures()["1-a"].reason
        live(backend, Traffic("1-a"))
    assert backend.processes()["1-a"].port != lost


def test_a_log_that_was_cleared_away_stops_nobody(backend: LocalBackend) -> None:
    live(backend, Traffic("1-a"))
    for log in backend.logs.iterdir():
        log.unlink()
    os.killpg(backend.processes()["1-a"].pid, signal.SIGKILL)
    wait_for(lambda: (reconcile(Traffic("1-a"), backend), backend.failures())[1] != {})
    assert "cannot be read: No such file" in backend.failures()["1-a"].reason
    live(backend, Traffic("1-a"))


def test_a_port_that_is_taken_is_tried_again_now_and_then(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    first = quick_backend(tmp_path, clock, port=port)
    second = quick_backend(tmp_path / "b", clock, port=port)
    started = 0
    real = deploy.haproxy_router.ServerProcess

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal started
        started += 1
        return real(*args, **kwargs)

    try:
        live(first, Traffic("1-a"))
        monkeypatch.setattr(deploy.haproxy_router, "ServerProcess", counted)
        for _ in range(10):
            with pytest.raises(TransientBackendError, match=f"did not start on .*{port}"):
                second.apply(Traffic("2-b"))
        assert started == 1
        assert answered_by(port) == "1-a"
    finally:
        first.close()
    try:
        clock.ahead_s = 1000.0
        monkeypatch.setattr(deploy.haproxy_router, "AGAIN_S", 0.0)
        live(second, Traffic("2-b"))
        assert answered_by(port) == "2-b"
    finally:
        second.close()


OWNER = """
import sys, time
from deploy.scratch_folder import ScratchFolder
print(ScratchFolder().path, flush=True)
time.sleep(600)
"""


def test_the_folder_of_who_was_killed_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    foreign = tmp_path / "metadrift-serving-logs.txt"
    foreign.write_text("no folder")
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as owner:
        assert owner.stdout is not None
        left = Path(owner.stdout.readline().strip())
        (left / "haproxy.cfg").write_text("left over")
        mine = ScratchFolder()
        assert (left / "haproxy.cfg").exists(), "its owner lives"
        owner.kill()
    other = ScratchFolder()
    assert not left.exists()
    assert mine.path.is_dir() and other.path.is_dir() and foreign.exists()
    for each in (mine, other):
        each.remove()
        each.remove()
    assert [*tmp_path.iterdir()] == [foreign]


STOPPED = """
import os, sys, time
from pathlib import Path
from deploy.controller import reconcile
from deploy.rollout_plan import Traffic
from tests.deploy.test_local_servers import Clock, quick_backend
folder, port, note = sys.argv[1:]
backend = quick_backend(Path(folder), Clock(), port=int(port), note=Path(note))
while not reconcile(Traffic("1-a"), backend).live:
    time.sleep(0.02)
print("live", flush=True)
time.sleep(600)
"""


def test_the_router_of_a_stopped_owner_answers_no_more_once_there_is_another(
    tmp_path: Path, clock: Clock
) -> None:
    (port,), note = free_ports(1), tmp_path / "serving" / "router"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", STOPPED, str(tmp_path / "a"), str(port), str(note)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as owner:
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        second = None
        try:
            assert owner.stdout is not None and owner.stdout.readline() == "live\n"
            owner.send_signal(signal.SIGSTOP)
            kept.request("GET", "/metadata")
            assert b"1-a" in kept.getresponse().read()
            second = quick_backend(tmp_path / "b", clock, port=port, note=note)
            live(second, Traffic("2-b"))
            assert {answered_by(port) for _ in range(20)} == {"2-b"}
            versions = {kept_answer(kept) for _ in range(2)}
            assert versions <= {"1-a", "2-b"} and kept_answer(kept) == "2-b"
        finally:
            owner.kill()
            kept.close()
            if second is not None:
                second.close()


def kept_answer(connection: http.client.HTTPConnection) -> str:
    """Ask on a connection that is kept; made anew when the router has closed it."""
    try:
        connection.request("GET", "/metadata")
        body = connection.getresponse().read()
    except (http.client.HTTPException, OSError):
        connection.close()
        connection.request("GET", "/metadata")
        body = connection.getresponse().read()
    return str(json.loads(body)["meta"]["tags"]["model_version"])
