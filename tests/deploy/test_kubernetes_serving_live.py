"""A real daemon whose canary is in a cluster: Kafka, MLflow and the API server are real.

The operator's part is played while the test waits; the daemon knows nothing of it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.seldon_cluster import NAME, SeldonWorld, eventually
from tests.deploy.test_kubernetes_serving import serving
from tests.pipeline.live_canary import PacedStream, champion, live_canary, route, served
from tests.pipeline.live_daemon import LiveModel
from tests.pipeline.small_worlds import first, second
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture
def live(
    world: SeldonWorld, broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path
) -> Iterator[LiveModel]:
    access = serving(world, tmp_path / "access", image="server:{version}", lease=NAME)
    with live_canary(
        tmp_path, broker, mlflow_server, rollout={"least_labels": 40}, serving=access
    ) as made:
        yield made


def test_a_promotion_ends_in_the_cluster(live: LiveModel, world: SeldonWorld) -> None:
    splits: set[tuple[tuple[str, int], ...]] = set()

    def playing(condition: Callable[[], bool]) -> Callable[[], bool]:
        def play() -> bool:
            world.operator.step()
            splits.add(tuple(sorted(world.operator.weights().items())))
            return condition()

        return play

    live.start()
    live.wait(playing(lambda: served(live) == champion(live)), "the first champion to be served")
    before = champion(live)
    stream = PacedStream(live)
    stream.send(120, first)
    stream.until(playing(lambda: route(live).champion != 1), second, "the promotion")
    after = champion(live)
    live.wait(playing(lambda: served(live) == after), "the new champion to be served")
    assert ((before, 50), (after, 50)) in splits, "it had its share before that"
    assert world.operator.weights() == {after: 100}
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/leases/{NAME}"
    assert world.admin.call("GET", lease)["spec"]["holderIdentity"]
    assert live.stop() == 0
    eventually(lambda: not world.admin.call("GET", lease)["spec"].get("holderIdentity"), "release")
    assert world.spec_weights()[after] == 100, "the split stays where the daemon ended"
