"""The whole canary on one machine: Kafka, MLflow, Seldon's servers behind HAProxy, one client.

The client asks through the router all the while; a request that is lost or answered wrongly ends
the test, whatever the daemon decides meanwhile.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from pipeline.core_state import RouteCore
from tests.pipeline.live_daemon import WAIT_S, LiveModel, wait_until
from tests.pipeline.small_worlds import Concept, features, first, lane_champion, second
from tests.servers.haproxy import make_sure_of_haproxy
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer
from tests.servers.serving import CACHE, serving_python_for_tests

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


class Client:
    """Asks through the router from a thread of its own, and remembers who answered."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self.answers: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        names = [f"x{i}" for i in range(4)]
        content = {"data": {"names": names, "ndarray": [[1.0, -1.0, 0.5, 0.0]]}}
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self._stop.wait(0.02):
                try:
                    reply = client.post(self._url, json=content)
                except httpx.HTTPError as error:
                    self.lost.append(repr(error))
                    continue
                if reply.status_code != 200:
                    self.lost.append(f"{reply.status_code} {reply.text[:200]}")
                    continue
                tags = reply.json()["meta"]["tags"]
                self.answers.append((tags["model_version"], tags["arm"]))

    def versions_since(self, n: int) -> set[str]:
        """Return which versions gave the answers from the ``n``-th on."""
        return {version for version, _ in self.answers[n:]}

    def close(self) -> None:
        """Stop asking."""
        self._stop.set()
        self._thread.join(70)


class Stream:
    """Sends events whose labels come at once, until something holds."""

    def __init__(self, live: LiveModel) -> None:
        self._live, self._sent, self._rng = live, 0, np.random.default_rng(11)

    def until(self, condition: Callable[[], bool], concept: Concept, what: str) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, f"{what}: {self._live.kinds()[-12:]}"
            self.send(10, concept)

    def send(self, n: int, concept: Concept) -> None:
        rows = self._rng.normal(size=(n, 4))
        ids = [f"e{self._sent + i}" for i in range(n)]
        self._live.send(
            "events",
            [{"id": i, "features": features(r)} for i, r in zip(ids, rows, strict=True)],
        )
        labels = [{"id": i, "label": concept(r)} for i, r in zip(ids, rows, strict=True)]
        self._live.send("labels", labels)
        self._sent += n
        self._live.wait(self._live.consumed(self._sent), "the events to be taken")


@pytest.fixture
def live(broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path) -> Iterator[LiveModel]:
    make_sure_of_haproxy()
    serving_python_for_tests()
    made = LiveModel(
        tmp_path,
        broker,
        mlflow_server.uri,
        lane_champion(),
        trigger={"warm_up_labels": 5, "cool_down_labels": 5, "actions_per_day": 1000},
        episode={"recipes": ["frozen", "fine_tune", "scratch"]},
        rollout={
            **{"most_server_failures": 2, "steps": [50], "least_labels": 40},
            "label_permutation": "adapt",
        },
        serving={"backend": "local", "environment": str(CACHE)},
    )
    yield made
    made.close()


def route(live: LiveModel) -> RouteCore:
    return live.core().routes["*"]


def test_promoted_rolled_back_and_crashed_without_a_lost_request(live: LiveModel) -> None:
    live.start()
    address = live.settings.state_dir / "serving.json"
    wait_until(address.exists, "the router's address")
    where = json.loads(address.read_text())
    live.wait(lambda: served(live) == champion(live), "the first champion to be served")
    client = Client(f"http://{where['host']}:{where['port']}/api/v1.0/predictions")
    stream = Stream(live)
    try:
        # A better candidate is promoted, and what the router serves is the new version alone.
        stream.send(120, first)
        stream.until(lambda: route(live).champion != 1, second, "the promotion")
        live.wait(lambda: served(live) == champion(live), "the new champion to be served")
        n = len(client.answers)
        live.wait(lambda: len(client.answers) > n + 20, "answers of the new champion")
        assert client.versions_since(n) == {champion(live)}
        assert (champion(live), "candidate") in client.answers, "it had its share before that"

        # A worse one is rolled back: it was right for a while, then the old plan came back.
        stream.until(lambda: route(live).probation is None, second, "the end of probation")
        stream.until(lambda: route(live).rollout is not None, first, "a candidate for the old plan")
        worse = route(live).rollout
        assert worse is not None
        back_to = champion(live)
        live.wait(lambda: asked(client, worse.candidate), "the canary's first answers")
        stream.until(lambda: in_rollout(live) != worse.id, second, "the roll back")
        assert "rollout-rolled-back" in live.kinds()
        assert champion(live) == back_to

        # One whose server crashes is rolled back for that.
        stream.until(lambda: route(live).rollout is not None, first, "another candidate")
        crashing = route(live).rollout
        assert crashing is not None
        live.wait(lambda: asked(client, crashing.candidate), "its first answers")

        def rolled_back() -> bool:
            kill_server(live, crashing.candidate)
            return route(live).rollout is None

        live.wait(rolled_back, "the roll back of what crashes")
        assert "failed 2 times" in live.decisions()[-1].reason
        assert champion(live) == back_to
        live.wait(lambda: served(live) == back_to, "the champion to answer alone")
    finally:
        client.close()
    assert not client.lost
    assert len(client.answers) > 100


def kill_server(live: LiveModel, version: str) -> None:
    """SIGKILL the model server of a version, if it runs."""
    for process in psutil.Process(live.owner()).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if "deploy.serving.launcher" in words and f'"value": "{version}"' in words:
                process.kill()


def served(live: LiveModel) -> str | None:
    """Return who answers everything, as the daemon has seen it."""
    seen = live.core().serving
    if seen is None or seen.traffic is None or seen.traffic.candidate_weight:
        return None
    return seen.traffic.stable


def in_rollout(live: LiveModel) -> int | None:
    rollout = route(live).rollout
    return None if rollout is None else rollout.id


def champion(live: LiveModel) -> str:
    core = live.core()
    return core.versions[core.routes["*"].champion].name


def asked(client: Client, version: str) -> bool:
    return any(v == version for v, _ in client.answers)
