"""The lease against a real API server: one holder, taken over only after silence, fenced by it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from deploy.kubernetes_api import KubernetesApi, Resource
from deploy.kubernetes_lease import LEASES, KubernetesLease
from tests.deploy.seldon_cluster import NAME, SeldonWorld
from tests.servers.faulty_proxy import Fault, FaultyProxy
from tests.servers.kube_api_server import KubeApiServer

pytestmark = pytest.mark.integration

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def spec(world: SeldonWorld) -> dict[str, object]:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/leases/{NAME}"
    return dict(world.admin.call("GET", path)["spec"])


def test_the_first_holds_it_and_the_second_waits_for_silence(world: SeldonWorld) -> None:
    first = KubernetesLease(world.api(), NAME, "pod-1", duration_s=15)
    second = KubernetesLease(world.api(), NAME, "pod-2", duration_s=15)
    assert first.hold(0.0, NOON) and first.held(14.9) and not first.held(15.0)
    assert not second.hold(1000.0, NOON), "its clock began when it saw the record"
    assert first.hold(5.0, NOON + timedelta(seconds=5))
    assert not second.hold(1014.9, NOON), "the record changed in between"
    assert not second.hold(1029.8, NOON)
    assert second.hold(1029.9, NOON)
    assert spec(world)["holderIdentity"] == "pod-2" and spec(world)["leaseTransitions"] == 1
    assert not first.hold(20.0, NOON) and not first.held(20.0)


def test_giving_it_up_lets_the_next_in_at_once(world: SeldonWorld) -> None:
    first, second = (KubernetesLease(world.api(), NAME, f"pod-{i}") for i in (1, 2))
    assert first.hold(0.0, NOON)
    assert not second.hold(0.0, NOON)
    second.release(NOON)
    assert spec(world)["holderIdentity"] == "pod-1", "only the holder can give it up"
    first.release(NOON)
    assert not first.held(0.0)
    assert second.hold(0.1, NOON)


def test_of_two_that_try_at_once_one_has_it(world: SeldonWorld) -> None:
    gone = KubernetesLease(world.api(), NAME, "pod-0", duration_s=1)
    assert gone.hold(0.0, NOON)
    pods = [KubernetesLease(world.api(), NAME, f"pod-{i}", duration_s=1) for i in (1, 2)]
    assert [pod.hold(0.0, NOON) for pod in pods] == [False, False]
    assert [pod.hold(1.0, NOON) for pod in pods] == [True, False]


def test_a_lost_reply_is_found_out_at_the_next_try(
    world: SeldonWorld, seldon_server: KubeApiServer
) -> None:
    with (
        FaultyProxy(seldon_server.port, seldon_server.authority) as proxy,
        world.api(proxy.address) as api,
    ):
        lease = KubernetesLease(api, NAME, "pod-1")
        proxy.plan = lambda method, path: Fault.LOST_REPLY if method == "POST" else None
        with pytest.raises(Exception, match="could not create"):
            lease.hold(0.0, NOON)
        assert not lease.held(0.0)
        assert lease.hold(1.0, NOON) and spec(world)["leaseTransitions"] == 0


def test_a_lease_that_a_person_deleted_is_made_again(world: SeldonWorld) -> None:
    lease = KubernetesLease(world.api(), NAME, "pod-1")
    assert lease.hold(0.0, NOON)
    path = f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/{LEASES.plural}/{NAME}"
    world.admin.call("DELETE", path)
    assert lease.hold(1.0, NOON) and spec(world)["holderIdentity"] == "pod-1"


def test_another_duration_is_written_with_the_next_renewal(world: SeldonWorld) -> None:
    assert KubernetesLease(world.api(), NAME, "pod-1", duration_s=15).hold(0.0, NOON)
    longer = KubernetesLease(world.api(), NAME, "pod-1", duration_s=60)
    second = KubernetesLease(world.api(), NAME, "pod-2", duration_s=15)
    assert longer.hold(10.0, NOON) and spec(world)["leaseTransitions"] == 0
    assert not second.hold(10.0, NOON)
    assert longer.held(69.9) and not second.hold(69.9, NOON), "both would act"
    assert second.hold(70.0, NOON)


class Touched(KubernetesApi):
    """Somebody writes a note on the lease between our read and our write."""

    def patch(
        self, resource: Resource, name: str, operations: Sequence[dict[str, object]]
    ) -> dict[str, object]:
        note = {"op": "add", "path": "/metadata/annotations", "value": {"note": "by a person"}}
        super().patch(resource, name, [note])
        return super().patch(resource, name, operations)


def test_a_note_on_the_lease_takes_it_from_nobody(world: SeldonWorld) -> None:
    lease = KubernetesLease(world.api(), NAME, "pod-1", duration_s=15)
    assert lease.hold(0.0, NOON)
    with world.api() as api:
        api.__class__ = Touched
        lease._api = api
        assert lease.hold(5.0, NOON), "it is ours for ten seconds more"
        assert not lease.held(15.0), "but this was no renewal"
        assert not KubernetesLease(api, NAME, "pod-2").hold(5.0, NOON)
