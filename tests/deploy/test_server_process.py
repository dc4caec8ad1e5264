"""A server process ends with us, and takes its children along."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deploy.server_process import ServerProcess

PATIENCE_S = 60.0
FORKS = "import os, time; os.fork(); print('up', flush=True); time.sleep(600)"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        time.sleep(0.05)


def members(group: int) -> list[int]:
    """Return the processes of a group that run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return found


def started(tmp_path: Path, program: str, **env: str) -> ServerProcess:
    return ServerProcess([sys.executable, "-c", program], log=tmp_path / "log", env=env)


def test_kill_ends_the_server_and_what_it_forked(tmp_path: Path) -> None:
    process = started(tmp_path, FORKS)
    try:
        wait_for(lambda: process.log_tail().count("up") == 2)
        assert len(members(process.pid)) >= 3
        assert process.exit_code is None
    finally:
        process.kill()
    wait_for(lambda: not members(process.pid))
    process.kill()  # once more does nothing


def test_stop_lets_it_finish_and_then_ends_its_children(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, time\n"
        "if os.fork() == 0: time.sleep(600)\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('finished', flush=True), sys.exit(7)))\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = started(tmp_path, program)
    try:
        wait_for(lambda: "up" in process.log_tail())
        process.stop(PATIENCE_S)
        assert process.exit_code == 7
        assert "finished" in process.log_tail()
        wait_for(lambda: not members(process.pid))
    finally:
        process.kill()


def test_one_that_does_not_listen_is_killed_when_its_time_is_over(tmp_path: Path) -> None:
    ignores = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    process = started(tmp_path, ignores + "print('up', flush=True); time.sleep(600)")
    try:
        wait_for(lambda: "up" in process.log_tail())
        process.stop(0.2)
        assert process.exit_code is not None
    finally:
        process.kill()


def test_nothing_is_left_when_we_are_killed(tmp_path: Path) -> None:
    """The parent is a process of its own, ended by SIGKILL: it can clean nothing up."""
    parent = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from deploy.server_process import ServerProcess\n"
        f"argv = [sys.executable, '-c', {FORKS!r}]\n"
        f"process = ServerProcess(argv, log=Path({str(tmp_path / 'log')!r}), env={{}})\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as ours:
        try:
            assert ours.stdout is not None
            group = int(ours.stdout.readline())
            log = tmp_path / "log"
            wait_for(lambda: log.exists() and log.read_text().count("up") == 2)
            assert members(group)
        finally:
            ours.send_signal(signal.SIGKILL)
    wait_for(lambda: not members(group))


def test_our_secrets_are_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METADRIFT_KAFKA__SASL_PASSWORD", "of no use to a server")
    process = started(tmp_path, "import os; print(sorted(os.environ))", GIVEN="1")
    try:
        wait_for(lambda: process.exit_code is not None)
        assert process.exit_code == 0
        assert "GIVEN" in process.log_tail()
        assert "METADRIFT" not in process.log_tail()
    finally:
        process.kill()


def test_a_long_log_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (4 * 2**20 + 1))
    process = started(tmp_path, "print('anew')")
    try:
        wait_for(lambda: process.exit_code is not None)
        assert process.log_tail() == "anew"
        assert (tmp_path / "log.old").stat().st_size == 4 * 2**20 + 1
    finally:
        process.kill()
