"""`serving.backend: kubernetes` against a real API server, under the project's own Role.

The keeper's thread drives; the operator's part is played, one step at a time, by the test.
"""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deploy.controller import TransientBackendError, reconcile
from deploy.kubernetes_api import KubernetesApi
from deploy.kubernetes_lease import KubernetesLease
from deploy.rollout_plan import Traffic
from pipeline.cli import app
from pipeline.fold import shelf_of
from pipeline.kubernetes_serving import (
    TURN_S,
    HeldLease,
    LeasedBackend,
    open_kubernetes,
    reach_cluster,
)
from pipeline.records import ServingSeen
from pipeline.serving_backends import ServingError
from pipeline.settings import Settings, parse_settings
from pipeline.traffic_keeper import TrafficKeeper
from tests.deploy.seldon_cluster import NAME, SeldonWorld, eventually, manifest, seldon_deployment
from tests.deploy.test_seldon_kubernetes import deployment_uid
from tests.deploy.test_seldon_kubernetes_core2 import ScriptedScheduler
from tests.servers.faulty_proxy import Fault, FaultyProxy
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.kube_api_server import KubeApiServer
from tests.servers.ports import LOOPBACK, free_ports

pytestmark = pytest.mark.integration

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIGESTS = {v: f"sha256:{v.partition('-')[0] * 64}" for v in ("1-a", "2-b", "9-never")}
STABLE = Traffic("1-a")
CANARY = Traffic("1-a", "2-b", candidate_weight=5)
FURTHER = Traffic("1-a", "2-b", candidate_weight=25)
PROMOTED = Traffic("2-b")
MODELS = {"models": "pvc://metadrift-state/state/shelf/models", "implementation": "METADRIFT"}


def serving(world: SeldonWorld, folder: Path, **chosen: object) -> dict[str, object]:
    """Return the section, with a kubeconfig file of the service account."""
    folder.mkdir(exist_ok=True)
    kubeconfig = folder / "kubeconfig"
    address = chosen.pop("address", None)
    kubeconfig.write_text(yaml.safe_dump(world.kubeconfig(address and str(address))))
    access = {"kubeconfig": str(kubeconfig), "namespace": world.namespace}
    if chosen.get("dialect") != "core2":
        access["image"] = "registry/model-server:1"
    return {"backend": "kubernetes", "kubernetes": {**access, **chosen}}


def settings(world: SeldonWorld, folder: Path, **chosen: object) -> Settings:
    section = serving(world, folder, **chosen)
    content = {"model": {"name": "m"}, "state_dir": str(folder / "state"), "serving": section}
    return parse_settings(content)


class Watched:
    """A keeper and the last thing that it told."""

    def __init__(self, keeper: TrafficKeeper) -> None:
        self.keeper, self.seen = keeper, ServingSeen()

    def look(self) -> ServingSeen:
        self.seen = self.keeper.news() or self.seen
        return self.seen

    def serve(self, target: Traffic, play: Callable[[], object]) -> None:
        """Want a split, and play the operator until it was seen."""
        self.keeper.want(target)
        eventually(lambda: (play(), self.look().traffic == target)[1], f"{target}: {self.seen}")

    def hear(self, part: str) -> None:
        """Wait until the trouble is told."""
        eventually(lambda: part in self.look().problem, f"{part!r}, not {self.seen}")


@contextlib.contextmanager
def keeping(
    world: SeldonWorld, folder: Path, epoch: int = 1, **chosen: object
) -> Iterator[Watched]:
    """Run a keeper's thread."""
    made = settings(world, folder, **chosen)
    kept = open_kubernetes(made, shelf_of(made.state_dir), DIGESTS, epoch)
    keeper = TrafficKeeper(kept, lambda: True)
    try:
        yield Watched(keeper)
    finally:
        assert keeper.close(60)


def graphs(world: SeldonWorld) -> dict[str, dict[str, Any]]:
    found = world.admin.call("GET", world.operator.path)
    return {p["name"]: p["graph"] for p in found["spec"]["predictors"]}


def test_the_spec_follows_what_is_wanted_and_stays_when_the_daemon_ends(
    world: SeldonWorld, tmp_path: Path
) -> None:
    with keeping(world, tmp_path, **MODELS) as watched:
        for target, weights in (
            (STABLE, {"1-a": 100}),
            (CANARY, {"1-a": 95, "2-b": 5}),
            (FURTHER, {"1-a": 75, "2-b": 25}),
        ):
            watched.serve(target, world.operator.step)
            assert world.spec_weights() == world.operator.weights() == weights
            assert watched.seen == ServingSeen(target), "nothing is left to wait for"
        graph = graphs(world)["2-b"]
        assert graph["modelUri"] == f"{MODELS['models']}/{'2' * 32}"
        assert {"name": "digest", "type": "STRING", "value": DIGESTS["2-b"]} in graph["parameters"]
        winner = deployment_uid(world, "2-b")
        watched.serve(PROMOTED, world.operator.step)
        assert world.operator.deployments() == {"2-b"}
        assert deployment_uid(world, "2-b") == winner, "the winner's pods were replaced"
    assert world.spec_weights() == {"2-b": 100}


def test_a_split_that_does_not_come_says_what_it_waits_for(
    world: SeldonWorld, tmp_path: Path
) -> None:
    world.operator.broken.add("9-never")
    with keeping(world, tmp_path) as watched:
        watched.serve(STABLE, world.operator.step)
        watched.keeper.want(Traffic("1-a", "9-never", candidate_weight=5))
        eventually(lambda: "9-never" in world.spec_weights(), "the candidate's predictor")
        world.operator.step()
        world.operator.step()
        watched.hear(f"Deployment {NAME}-9-never-0-classifier: 1 of 1 pods are up to date, 0")
        assert watched.seen.traffic is None and not watched.seen.failures
        watched.serve(STABLE, world.operator.step)


def test_without_the_lease_nothing_is_applied(world: SeldonWorld, tmp_path: Path) -> None:
    lease = {"lease": NAME, "lease_s": 600}
    with keeping(world, tmp_path / "b", **lease) as second:
        with keeping(world, tmp_path / "a", **lease) as first:
            first.serve(STABLE, world.operator.step)
            second.keeper.want(PROMOTED)
            second.hear("another process holds the lease")
            first.serve(CANARY, world.operator.step)
            assert second.look().traffic is None
            assert world.spec_weights() == {"1-a": 95, "2-b": 5}
        # The first one gave it up at its end; nobody waited ten minutes.
        second.serve(PROMOTED, world.operator.step)
    assert world.spec_weights() == {"2-b": 100}


def test_an_older_owner_is_refused(world: SeldonWorld, tmp_path: Path) -> None:
    with (
        keeping(world, tmp_path / "new", epoch=2) as new,
        keeping(world, tmp_path / "old", epoch=1) as old,
    ):
        new.serve(STABLE, world.operator.step)
        old.keeper.want(PROMOTED)
        old.hear("belongs to owner epoch 2, we are 1")
        assert world.spec_weights() == {"1-a": 100}


def test_what_the_cluster_served_before_us_may_be_unknown(
    world: SeldonWorld, tmp_path: Path
) -> None:
    with keeping(world, tmp_path, **MODELS) as watched:
        watched.serve(STABLE, world.operator.step)
    deployment = world.admin.call("GET", world.operator.path)
    deployment["spec"]["predictors"][0]["name"] = "7-foreign"
    world.admin.call("PUT", world.operator.path, deployment)
    with keeping(world, tmp_path, epoch=2, **MODELS) as watched:
        watched.serve(STABLE, world.operator.step)


def test_a_lease_that_ran_out_between_asking_and_writing_stops_the_write(
    world: SeldonWorld,
) -> None:
    now_s = 0.0
    held = HeldLease(
        KubernetesLease(world.api(), NAME, "pod-1"), clock=lambda: now_s, wall=lambda: NOON
    )
    backend = LeasedBackend(world.backend(), held)
    with pytest.raises(TransientBackendError, match="lease"):
        backend.apply(STABLE)
    assert held.may_act() is None
    now_s = 15.0
    with pytest.raises(TransientBackendError, match="the lease ran out"):
        backend.apply(STABLE)
    assert world.spec_weights() == {}
    now_s = 14.9
    backend.apply(STABLE)
    assert world.spec_weights() == {"1-a": 100}


def test_a_lease_that_is_held_outlives_an_api_server_that_is_away(
    world: SeldonWorld, seldon_server: KubeApiServer
) -> None:
    now_s = 0.0
    with (
        FaultyProxy(seldon_server.port, seldon_server.authority) as proxy,
        world.api(proxy.address) as api,
    ):
        held = HeldLease(KubernetesLease(api, NAME, "pod-1"), lambda: now_s, lambda: NOON)
        assert held.may_act() is None
        proxy.plan = lambda method, path: Fault.BROKEN
        now_s = 14.9
        assert held.may_act() is None, "nobody else can have it yet"
        now_s = 15.0
        assert "500" in (held.may_act() or "")


class Busy:
    """An API server that says when to come back; it counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    def apply(self, traffic: Traffic) -> None:
        self.asked += 1
        raise TransientBackendError("429 too many requests", retry_in_s=7.0)

    def observed(self) -> Traffic | None:
        self.asked += 1
        return None


def test_an_api_server_that_is_busy_is_left_alone_for_as_long_as_it_says() -> None:
    now_s, busy = 0.0, Busy()
    backend = LeasedBackend(busy, HeldLease(None), clock=lambda: now_s)
    assert reconcile(STABLE, backend).retry_in_s == 7.0 and busy.asked == 2
    now_s = 6.9
    seen = reconcile(CANARY, backend)
    assert busy.asked == 2 and seen.error == "429 too many requests"
    assert seen.retry_in_s == pytest.approx(0.1)
    now_s = 7.0
    assert reconcile(CANARY, backend).retry_in_s == 7.0 and busy.asked == 4


def test_an_abort_does_not_wait_for_what_went_wrong_before_it(
    world: SeldonWorld, seldon_server: KubeApiServer
) -> None:
    """The clock stands still unless the test says otherwise: no wait ends by itself."""
    now_s = 0.0
    with (
        FaultyProxy(seldon_server.port, seldon_server.authority) as proxy,
        world.api(proxy.address) as api,
    ):
        backend = LeasedBackend(world.backend(api), HeldLease(None), clock=lambda: now_s)
        world.settle(CANARY, backend)
        proxy.plan = lambda method, path: Fault.BROKEN
        assert reconcile(CANARY, backend).retry_in_s == 5.0
        proxy.plan = lambda method, path: None
        assert reconcile(CANARY, backend).error, "the same target waits"
        backend.new_target()
        assert reconcile(STABLE, backend).applied
        assert world.spec_weights() == {"1-a": 100}, "within one tick"

        world.settle(CANARY, backend)
        proxy.plan = lambda method, path: Fault.BUSY if method == "PATCH" else None
        proxy.retry_after = "30"
        backend.new_target()
        assert reconcile(STABLE, backend).retry_in_s == TURN_S
        now_s += TURN_S
        assert reconcile(STABLE, backend).retry_in_s == 30.0, "its second failure is heeded"
        proxy.plan = lambda method, path: None
        now_s += 29.9
        assert not reconcile(STABLE, backend).applied
        now_s += 0.1
        assert reconcile(STABLE, backend).applied
        assert world.spec_weights() == {"1-a": 100}


def test_the_keeper_says_when_the_target_is_a_new_one(
    world: SeldonWorld, seldon_server: KubeApiServer, tmp_path: Path
) -> None:
    with FaultyProxy(seldon_server.port, seldon_server.authority) as proxy:
        proxy.retry_after = "60"
        with keeping(world, tmp_path, address=proxy.address) as watched:
            watched.serve(CANARY, world.operator.step)
            proxy.plan = lambda method, path: Fault.BUSY
            watched.hear("429")
            proxy.plan = lambda method, path: None
            began = time.monotonic()
            watched.serve(STABLE, world.operator.step)
            assert time.monotonic() - began < 50, "it waited for the minute of the other target"


def test_a_cluster_that_is_away_is_waited_for_and_told_in_the_same_words() -> None:
    (closed,) = free_ports(1)
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        # Nobody accepts, and the queue is full: a connection is neither made nor refused.
        full.bind((LOOPBACK, 0))
        full.listen(0)
        for _ in range(4):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        for port, part in ((closed, "refused"), (full.getsockname()[1], "timed out")):
            texts = [hindrance(port) for _ in range(2)]
            assert texts[0] is not None and part in texts[0]
            assert texts[0] == texts[1], "every look would be journalled"


def hindrance(port: int) -> str | None:
    """Return why a holder of the lease may not act."""
    address = f"http://{LOOPBACK}:{port}"
    with KubernetesApi.with_token(address, "t", "n", timeout_s=0.2) as api:
        return HeldLease(KubernetesLease(api, NAME, "pod-1")).may_act()


def test_core_2_follows_too(world: SeldonWorld, tmp_path: Path) -> None:
    for document in manifest("core2/access.yaml"):
        world.make(document)
    scheduler = ScriptedScheduler(world)
    chosen = {"dialect": "core2", "models": "s3://models", "requirements": ["python"]}
    with keeping(world, tmp_path, **chosen) as watched:
        watched.keeper.want(STABLE)
        watched.hear("not ready")
        watched.serve(STABLE, scheduler.step)
        watched.serve(CANARY, scheduler.step)
        watched.serve(PROMOTED, scheduler.step)
    assert scheduler.models() == {f"{NAME}-2-b"}
    assert scheduler.items("models")[0]["spec"] == {
        "storageUri": f"s3://models/{'2' * 32}",
        "requirements": ["python"],
    }


def test_check_reads_what_a_turn_would_read(world: SeldonWorld, tmp_path: Path) -> None:
    fine = settings(world, tmp_path, lease=NAME)
    assert "will be made" in reach_cluster(fine, 60)
    world.admin.call("POST", world.operator.path.rpartition("/")[0], foreign())
    with pytest.raises(ServingError, match="not metadrift's"):
        reach_cluster(fine, 60)
    with pytest.raises(ServingError, match=r"403 .*cannot get resource .*seldondeployments"):
        reach_cluster(settings(world, tmp_path, name="another"), 60)
    with pytest.raises(ServingError, match=r"403 .*leases"):
        reach_cluster(settings(world, tmp_path, lease="another"), 60)
    with pytest.raises(ServingError, match=r"kubeconfig .* cannot be used"):
        reach_cluster(settings(world, tmp_path, context="nowhere"), 60)


def test_the_command_check_tells_it(
    world: SeldonWorld, broker: KafkaBroker, tmp_path: Path
) -> None:
    for name, level in ((NAME, "ok"), ("another", "error")):
        content = {
            "model": {"name": "m"},
            "state_dir": str(tmp_path / "state"),
            "kafka": {"bootstrap_servers": broker.bootstrap_servers},
            "serving": serving(world, tmp_path, name=name, image="server:{version}"),
        }
        config = tmp_path / "metadrift.yaml"
        config.write_text(yaml.safe_dump(content))
        ran = CliRunner().invoke(app, ["check", "-c", str(config), "--timeout", "20", "--json"])
        told = {f["about"]: f["level"] for f in json.loads(ran.stdout)["findings"]}
        assert told["serving.kubernetes"] == level


def foreign() -> dict[str, Any]:
    return seldon_deployment(NAME, [("1-a", 100)])
