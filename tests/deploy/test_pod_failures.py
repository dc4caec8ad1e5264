"""Pods that fail, as a real API server shows them; the kubelet's part is written by the test."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deploy.pod_failures import CALM_S, EVERY_S, STUCK_S, PodFailure, PodFailures
from pipeline.records import ServerFailures
from tests.deploy.seldon_cluster import NAME, TEMPLATE, SeldonWorld, eventually
from tests.deploy.test_kubernetes_serving import CANARY, STABLE, keeping
from tests.servers.faulty_proxy import Fault, FaultyProxy
from tests.servers.kube_api_server import KubeApiServer

pytestmark = pytest.mark.integration

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CRASHED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
LOOP = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}
OFTEN = "container classifier ends again and again: exit code 137, OOMKilled"


class Kubelet:
    """Makes pods of a version's Deployment, and says how their containers do."""

    def __init__(self, world: SeldonWorld) -> None:
        self._admin = world.admin
        self._pods = f"/api/v1/namespaces/{world.namespace}/pods"

    def start(self, pod: str, version: str) -> None:
        labels = {"seldon-deployment-id": NAME, "seldon-version": version}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "labels": {**labels, "pod-template-hash": "1"}},
            "spec": {"containers": [{"name": "classifier", "image": TEMPLATE.image}]},
        }
        self._admin.call("POST", self._pods, body)

    def says(
        self,
        pod: str,
        restarts: int,
        state: dict[str, Any],
        last: dict[str, Any] | None = None,
        *,
        container: str = "classifier",
    ) -> None:
        told = {
            **{"name": container, "restartCount": restarts, "state": state},
            **{"image": TEMPLATE.image, "imageID": "", "ready": "running" in state},
            **({} if last is None else {"lastState": last}),
        }
        plural = "containerStatuses" if container == "classifier" else "initContainerStatuses"
        self._admin.merge(f"{self._pods}/{pod}/status", {"status": {plural: [told]}})

    def end(self, pod: str) -> None:
        self._admin.call("DELETE", f"{self._pods}/{pod}?gracePeriodSeconds=0")


class Looking:
    """Looks at the canary's pods, at a time of the test's own."""

    def __init__(self, world: SeldonWorld, address: str | None = None) -> None:
        self.now_s = 0.0
        self.pods = PodFailures(
            world.api(address), NAME, "classifier", lambda: self.now_s, lambda: NOON
        )
        self.pods.want(CANARY)

    def __call__(self, after_s: float = EVERY_S) -> dict[str, PodFailure]:
        self.now_s += after_s
        return self.pods()


@pytest.fixture
def kubelet(world: SeldonWorld) -> Kubelet:
    """Beside a canary whose Deployments are there."""
    world.settle(CANARY, world.backend())
    return Kubelet(world)


def running(since: str) -> dict[str, Any]:
    return {"running": {"startedAt": since}}


def test_a_container_that_ends_again_and_again_is_counted_until_it_is_calm(
    world: SeldonWorld, kubelet: Kubelet
) -> None:
    look = Looking(world)
    assert look() == {}, "no pods yet"
    kubelet.start("b-0", "2-b")
    kubelet.start("a-0", "1-a")
    kubelet.says("a-0", 0, running("2026-01-01T11:59:00Z"))
    assert look() == {}
    for restarts, state in ((1, LOOP), (2, running("2026-01-01T11:59:50Z")), (3, CRASHED)):
        kubelet.says("b-0", restarts, state, CRASHED)
        assert look() == {"2-b": PodFailure(restarts, OFTEN)}
    kubelet.start("b-1", "2-b")
    kubelet.says("b-1", 1, LOOP, CRASHED)
    assert look() == {"2-b": PodFailure(3, OFTEN)}, "the worst, not all together"
    kubelet.end("b-1")
    assert CALM_S == 600
    kubelet.says("b-0", 3, running("2026-01-01T11:50:01Z"), CRASHED)
    assert look() == {"2-b": PodFailure(3, OFTEN)}
    kubelet.says("b-0", 3, running("2026-01-01T11:50:00Z"), CRASHED)
    assert look() == {}, "it has run well for ten minutes"


def test_a_model_that_cannot_be_fetched_fails_too(world: SeldonWorld, kubelet: Kubelet) -> None:
    look = Looking(world)
    kubelet.start("b-0", "2-b")
    died = {"terminated": {"exitCode": 1, "reason": "Error"}}
    kubelet.says("b-0", 4, LOOP, died, container="classifier-model-initializer")
    wanted = "container classifier-model-initializer ends again and again: exit code 1, Error"
    assert look() == {"2-b": PodFailure(4, wanted)}


def test_a_container_that_cannot_start_fails_once_a_minute(
    world: SeldonWorld, kubelet: Kubelet
) -> None:
    look = Looking(world)
    kubelet.start("b-0", "2-b")
    why = f"container classifier cannot start: ImagePullBackOff, image {TEMPLATE.image}"
    for at_s, reason, count in (
        (0.0, "ErrImagePull", 1),
        (STUCK_S - EVERY_S, "ImagePullBackOff", 1),
        (EVERY_S, "ErrImagePull", 2),
        (3 * STUCK_S, "ImagePullBackOff", 5),
    ):
        kubelet.says("b-0", 0, {"waiting": {"reason": reason, "message": f"at {at_s}"}})
        assert look(at_s) == {"2-b": PodFailure(count, why)}
    kubelet.says("b-0", 0, running("2026-01-01T12:00:00Z"))
    assert look() == {}
    kubelet.says("b-0", 0, {"waiting": {"reason": "ContainerCreating"}})
    assert look() == {}, "that is how every pod begins"
    kubelet.says("b-0", 0, {"waiting": {"reason": "InvalidImageName"}})
    assert look()["2-b"].count == 1, "an earlier trouble is over"


def test_pods_are_looked_at_seldom_and_of_the_wanted_versions_only(
    world: SeldonWorld, kubelet: Kubelet
) -> None:
    look = Looking(world)
    kubelet.start("b-0", "2-b")
    look()
    kubelet.says("b-0", 1, LOOP, CRASHED)
    assert look(EVERY_S / 2) == {}
    assert look(EVERY_S / 2) == {"2-b": PodFailure(1, OFTEN)}
    look.pods.want(STABLE)
    assert look(0) == {}


def test_an_api_server_that_is_away_leaves_what_was_seen(
    world: SeldonWorld, seldon_server: KubeApiServer, kubelet: Kubelet
) -> None:
    kubelet.start("b-0", "2-b")
    kubelet.says("b-0", 2, LOOP, CRASHED)
    with FaultyProxy(seldon_server.port, seldon_server.authority) as proxy:
        look = Looking(world, proxy.address)
        assert look() == {"2-b": PodFailure(2, OFTEN)} and not look.pods.problem
        proxy.retry_after = "30"
        for fault in (Fault.BUSY, Fault.RESET, Fault.BROKEN):
            proxy.plan = lambda method, path, fault=fault: fault  # type: ignore[misc]
            assert look(60.0) == {"2-b": PodFailure(2, OFTEN)} and look.pods.problem
        proxy.plan = lambda method, path: Fault.BUSY
        look(60.0)
        asked = len(proxy.faults)
        look(29.0)
        assert len(proxy.faults) == asked, "it was told to wait"
        proxy.plan = lambda method, path: None
        assert look(1.0) and not look.pods.problem


def test_a_role_without_pods_is_told_and_holds_up_nothing(
    world: SeldonWorld, tmp_path: Path
) -> None:
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}/roles/metadrift"
    role = world.admin.call("GET", path)
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["pods"]]
    world.admin.call("PUT", path, role)
    world.settle(CANARY, world.backend())
    look = Looking(world)
    eventually(lambda: look() == {} and "403" in look.pods.problem, "the Role to be taken back")
    with keeping(world, tmp_path) as watched:
        watched.serve(STABLE, world.operator.step)


def test_the_keeper_tells_of_a_candidate_that_keeps_crashing(
    world: SeldonWorld, tmp_path: Path
) -> None:
    world.operator.broken.add("2-b")
    kubelet = Kubelet(world)
    with keeping(world, tmp_path) as watched:
        watched.serve(STABLE, world.operator.step)
        watched.keeper.want(CANARY)
        eventually(lambda: "2-b" in world.spec_weights(), "the candidate's predictor")
        world.operator.step()
        kubelet.start("b-0", "2-b")
        kubelet.says("b-0", 5, LOOP, CRASHED)
        told = {"2-b": ServerFailures(5, OFTEN)}
        eventually(lambda: watched.look().failures == told, f"{told}, not {watched.seen}")
        watched.serve(STABLE, world.operator.step)
        assert watched.seen.failures == {}
