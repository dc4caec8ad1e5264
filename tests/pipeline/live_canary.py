"""A live daemon whose canary is at model servers: its set-up, its stream, and who answers."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.core_state import RouteCore
from tests.pipeline.live_daemon import WAIT_S, LiveModel, wait_until
from tests.pipeline.small_worlds import Concept, features, lane_champion
from tests.servers.haproxy import make_sure_of_haproxy
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer
from tests.servers.serving import CACHE, serving_python_for_tests


def local_servers() -> dict[str, object]:
    """Make sure of HAProxy and of Seldon's server; return the section that asks for them."""
    make_sure_of_haproxy()
    serving_python_for_tests()
    return {"backend": "local", "environment": str(CACHE)}


@contextmanager
def live_canary(
    folder: Path,
    broker: KafkaBroker,
    mlflow_server: MLflowServer,
    *,
    rollout: dict[str, object],
    serving: dict[str, object],
) -> Iterator[LiveModel]:
    """Make a model that knows the first plan and may act at once and often."""
    made = LiveModel(
        folder,
        broker,
        mlflow_server.uri,
        lane_champion(),
        trigger={"warm_up_labels": 5, "cool_down_labels": 5, "actions_per_day": 1000},
        episode={"recipes": ["frozen", "fine_tune", "scratch"]},
        rollout={"steps": [50], **rollout},
        serving=serving,
    )
    try:
        yield made
    finally:
        made.close()


class PacedStream:
    """Sends events whose labels come at once, and waits until they are taken."""

    def __init__(self, live: LiveModel) -> None:
        self._live, self._sent, self._rng = live, 0, np.random.default_rng(11)

    def until(self, condition: Callable[[], bool], concept: Concept, what: str) -> None:
        """Send until something holds."""
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, f"{what}: {self._live.kinds()[-12:]}"
            self.send(10, concept)

    def send(self, n: int, concept: Concept) -> None:
        """Send ``n`` events and their labels."""
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


def router_of(live: LiveModel) -> str:
    """Wait for the router and the first champion behind it; return where predictions are asked."""
    address = live.settings.state_dir / "serving.json"
    wait_until(address.exists, "the router's address")
    where = json.loads(address.read_text())
    live.wait(lambda: served(live) == champion(live), "the first champion to be served")
    return f"http://{where['host']}:{where['port']}/api/v1.0/predictions"


def route(live: LiveModel) -> RouteCore:
    """Return the state of the only route."""
    return live.core().routes["*"]


def served(live: LiveModel) -> str | None:
    """Return who answers everything, as the daemon has seen it."""
    seen = live.core().serving
    if seen is None or seen.traffic is None or seen.traffic.candidate_weight:
        return None
    return seen.traffic.stable


def champion(live: LiveModel) -> str:
    """Return the name of the champion's version."""
    core = live.core()
    return core.versions[core.routes["*"].champion].name
