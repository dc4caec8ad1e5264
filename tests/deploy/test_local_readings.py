"""What is read of real model servers behind a real HAProxy."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.guards import GuardReading
from deploy.local_readings import EVERY_S, LocalReadings
from deploy.rollout_plan import Traffic
from deploy.seldon_local import LocalBackend, LocalServing
from tests.deploy.served_models import ROW, make_model, request, save
from tests.deploy.test_seldon_local import converge
from tests.servers.haproxy import make_sure_of_haproxy
from tests.servers.serving import serving_python_for_tests

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
NAMES = ("1-a", "2-b")


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    make_sure_of_haproxy()
    folders = {name: save(tmp_path / name, make_model(i)) for i, name in enumerate(NAMES)}
    serving = LocalServing(serving_python_for_tests(), tmp_path / "logs", start_s=240, answer_s=1)
    made = LocalBackend(serving, folders.__getitem__)
    yield made
    made.close()


def test_errors_and_latency_are_read_by_version(backend: LocalBackend) -> None:
    now = [0.0]
    readings = LocalReadings(backend, 300.0, lambda: now[0])

    def read() -> dict[str, GuardReading]:
        now[0] += EVERY_S
        return readings()

    converge(backend, Traffic("1-a"))
    assert read() == {}, "one version alone is not judged"
    converge(backend, Traffic("1-a", "2-b", 50))
    assert read() == {"1-a": GuardReading(), "2-b": GuardReading()}
    with httpx.Client(timeout=60, trust_env=False) as client:

        def ask(content: object, n: int) -> list[int]:
            url = f"{backend.router.url}/api/v1.0/predictions"
            return [client.post(url, json=content).status_code for _ in range(n)]

        assert ask(request(ROW), 40) == [200] * 40
        assert ask({"jsonData": {"age": "x"}}, 10) == [400] * 10
        seen = read()
        assert sum(r.requests for r in seen.values()) == 50
        for reading in seen.values():
            assert 10 < reading.requests < 40 and reading.errors == 0, "the client's fault is none"
            assert reading.latency_ms is not None and 0 < reading.latency_ms < 1000
        assert readings() is seen, "looked at again only after a while"

        # One that hangs fails tries, although another server answers the requests in the end.
        hung = backend.processes()["2-b"]
        os.killpg(hung.pid, signal.SIGSTOP)
        try:
            assert ask(request(ROW), 8) == [200] * 8
            hanging = read()["2-b"]
        finally:
            os.killpg(hung.pid, signal.SIGCONT)
        assert hanging.errors >= 1 and hanging.problem is None
        assert read()["1-a"].errors == 0
    converge(backend, Traffic("2-b", "1-a", 50))
    assert read() == {"1-a": GuardReading(), "2-b": GuardReading()}, (
        "the arms' counters are others'"
    )
    converge(backend, Traffic("1-a"))
    assert read() == {}
