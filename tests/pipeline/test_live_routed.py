"""Single answers judge: a service asks the router, `produce --ask`, and its labels decide.

Kafka, MLflow, Seldon's servers and HAProxy are real, and so is the service: the command itself.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.core_state import RouteCore
from tests.pipeline.live_daemon import LiveModel, wait_until
from tests.pipeline.small_worlds import Concept, features, first, lane_champion, second
from tests.servers.haproxy import make_sure_of_haproxy
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer
from tests.servers.serving import CACHE, serving_python_for_tests

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


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
            **{"evidence": "unpaired", "steps": [50], "least_labels": 20, "settle_s": 0.5},
            **{"label_permutation": "adapt", "risk_per_rollout": 0.2},
        },
        serving={"backend": "local", "environment": str(CACHE)},
    )
    yield made
    made.close()


class Service:
    """Runs the command over files of rows."""

    def __init__(self, live: LiveModel, url: str) -> None:
        self._live, self._url, self._sent = live, url, 0
        self._rng = np.random.default_rng(3)
        self.unanswered = 0

    def send(self, n: int, concept: Concept) -> None:
        """Ask about ``n`` rows and send them on, their labels ten events later."""
        path = self._live.folder / f"rows-{self._sent}.csv"
        with path.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["id", "x0", "x1", "x2", "x3", "lane"])
            for i, row in enumerate(self._rng.normal(size=(n, 4)), self._sent):
                out.writerow([f"s{i}", *features(row).values(), concept(row)])
        command = [
            *(str(Path(sys.executable).with_name("metadrift")), "produce", str(path)),
            *("-c", str(self._live.config), "--id", "id", "--label", "lane", "--json"),
            *("--features", "x0,x1,x2,x3", "--label-delay", "10", "--ask", self._url),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        counts = json.loads(done.stdout)
        assert counts["events"] == n
        self.unanswered += counts["unanswered"]
        self._sent += n
        self._live.wait(self._live.consumed(self._sent), "the events to be taken")

    def until(self, condition: Callable[[], object], concept: Concept, n: int = 200) -> None:
        """Send rows until something holds."""
        for _ in range(15):
            if condition():
                return
            self.send(n, concept)
        raise AssertionError(self._live.kinds()[-12:])


def route(live: LiveModel) -> RouteCore:
    return live.core().routes["*"]


def test_answers_of_the_router_promote_a_better_one_and_roll_back_a_worse_one(
    live: LiveModel,
) -> None:
    live.start()
    address = live.settings.state_dir / "serving.json"
    wait_until(address.exists, "the router's address")
    where = json.loads(address.read_text())
    live.wait(lambda: (s := live.core().serving) is not None and s.traffic is not None, "serving")
    service = Service(live, f"http://{where['host']}:{where['port']}/api/v1.0/predictions")
    service.send(120, first)
    service.until(lambda: route(live).rollout, second)
    better = route(live).rollout
    assert better is not None
    service.until(lambda: route(live).champion != 1, second)
    (promotion,) = [d for d in live.decisions() if d.kind == "promotion"]
    assert better.candidate in promotion.reason
    promoted = [d for d in live.decisions() if d.kind == "rollout-promoting"][-1].facts
    assert promoted["evidence"] == "unpaired"
    least = live.settings.rollout.least_labels_per_arm
    for arm in ("stable", "candidate"):
        assert int(str(promoted[f"labels_{arm}"])) >= least
    assert service.unanswered == 0

    service.until(lambda: route(live).probation is None, second)
    champion = route(live).champion
    service.until(lambda: route(live).rollout, first)
    worse = route(live).rollout
    assert worse is not None
    service.until(lambda: route(live).rollout is None, second)
    ended = route(live).ended
    assert ended is not None and ended.candidate == worse.candidate
    assert ended.phase.value == "rolled_back", ended.reason
    assert route(live).champion == champion
    assert service.unanswered == 0
