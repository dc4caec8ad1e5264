"""The whole canary on one machine: Kafka, MLflow, Seldon's servers behind HAProxy, one client.

The client asks through the router all the while; a request that is lost or answered wrongly ends
the test, whatever the daemon decides meanwhile.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.pipeline.live_canary import (
    PacedStream,
    champion,
    live_canary,
    local_servers,
    route,
    router_of,
    served,
)
from tests.pipeline.live_daemon import LiveModel
from tests.pipeline.small_worlds import first, second
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer

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


@pytest.fixture
def live(broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path) -> Iterator[LiveModel]:
    rollout: dict[str, object] = {"most_server_failures": 2, "least_labels": 40}
    rollout["label_permutation"] = "adapt"
    with live_canary(
        tmp_path, broker, mlflow_server, rollout=rollout, serving=local_servers()
    ) as made:
        yield made


def test_promoted_rolled_back_and_crashed_without_a_lost_request(live: LiveModel) -> None:
    live.start()
    client = Client(router_of(live))
    stream = PacedStream(live)
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


def in_rollout(live: LiveModel) -> int | None:
    rollout = route(live).rollout
    return None if rollout is None else rollout.id


def asked(client: Client, version: str) -> bool:
    return any(v == version for v, _ in client.answers)
