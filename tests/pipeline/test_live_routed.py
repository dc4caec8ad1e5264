"""Single answers judge: a service asks the router, `produce --ask`, and its labels decide.

Kafka, MLflow, Seldon's servers and HAProxy are real, and so is the service: the command itself.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from tests.pipeline.live_canary import live_canary, local_servers, route, router_of
from tests.pipeline.live_daemon import LiveModel
from tests.pipeline.small_worlds import Concept, features, first, second
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture
def live(broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path) -> Iterator[LiveModel]:
    rollout: dict[str, object] = {"evidence": "unpaired", "least_labels": 20, "settle_s": 0.5}
    rollout |= {"label_permutation": "adapt", "risk_per_rollout": 0.2}
    with live_canary(
        tmp_path, broker, mlflow_server, rollout=rollout, serving=local_servers()
    ) as made:
        yield made


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
        words = [
            *("produce", str(path), "-c", str(self._live.config), "--id", "id", "--label", "lane"),
            *("--features", "x0,x1,x2,x3", "--label-delay", "10", "--ask", self._url, "--json"),
        ]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        counts = json.loads(done.stdout)
        assert counts["events"] == n
        self.unanswered += counts["unanswered"]
        self._sent += n
        self._live.wait(self._live.consumed(self._sent), "the events to be taken")

    def answered_every_event(self) -> None:
        """Assert that the router answered every row and the daemon took each answer as it came."""
        assert self.unanswered == 0
        assert self._live.core().counts["scored_upstream"] == self._sent

    def until(self, condition: Callable[[], object], concept: Concept, n: int = 200) -> None:
        """Send rows until something holds."""
        for _ in range(15):
            if condition():
                return
            self.send(n, concept)
        raise AssertionError(self._live.kinds()[-12:])


def test_answers_of_the_router_promote_a_better_one_and_roll_back_a_worse_one(
    live: LiveModel,
) -> None:
    live.start()
    service = Service(live, router_of(live))
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
    service.answered_every_event()

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
    service.answered_every_event()
