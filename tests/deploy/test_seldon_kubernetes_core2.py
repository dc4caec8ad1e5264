"""The Core 2 dialect against a real API server; the scheduler's part is played step by step."""

import os
import re
from collections.abc import Iterator, Sequence

import pytest

from deploy.controller import PermanentBackendError, reconcile
from deploy.kubernetes_api import ConflictError, KubernetesApi, Resource
from deploy.rollout_plan import Traffic
from deploy.seldon_core2 import MODEL_OF, SeldonCore2Backend, version_of_route
from deploy.seldon_objects import MANAGED_BY, OWNER_EPOCH, US
from tests.deploy.cluster_ticker import Ticker
from tests.deploy.seldon_cluster import NAME, WAIT_S, SeldonWorld, in_bucket, manifest
from tests.servers.faulty_proxy import Fault, FaultyProxy
from tests.servers.kube_api_server import KubeApiServer

pytestmark = pytest.mark.integration

STABLE = Traffic("1-a")
CANARY = Traffic("1-a", "2-b", candidate_weight=5)
LIFE = (
    STABLE,
    Traffic("1-a", "2-b", shadow=True),
    CANARY,
    Traffic("1-a", "2-b", candidate_weight=50),
    Traffic("2-b", "1-a", shadow=True),
    Traffic("2-b"),
)
MOST_TICKS = 400
FULL = os.environ.get("METADRIFT_FAULTS") == "full"


class ScriptedScheduler:
    """Says of models and experiments that they are ready, one step after they were made.

    Attributes:
        broken: Versions whose model never loads.
    """

    def __init__(self, world: SeldonWorld) -> None:
        self.broken: set[str] = set()
        self._admin = world.admin
        self._folder = f"/apis/mlops.seldon.io/v1alpha1/namespaces/{world.namespace}"

    def step(self) -> None:
        for plural in ("models", "experiments"):
            for item in self.items(plural):
                name = item["metadata"]["name"]
                ready = name.removeprefix(f"{NAME}-") not in self.broken
                condition = {"type": "Ready", "status": "True" if ready else "False"}
                generation = item["metadata"]["generation"]
                status = {"conditions": [condition], "observedGeneration": generation}
                path = f"{self._folder}/{plural}/{name}/status"
                self._admin.merge(path, {"status": status})

    def items(self, plural: str) -> list[dict[str, object]]:
        return list(self._admin.call("GET", f"{self._folder}/{plural}")["items"])

    def models(self) -> set[str]:
        return {str(m["metadata"]["name"]) for m in self.items("models")}  # type: ignore[index]

    def path(self, model: str) -> str:
        return f"{self._folder}/models/{model}"

    def routed(self) -> set[str]:
        """Return the models that the experiment names."""
        found = self._admin.find(f"{self._folder}/experiments/{NAME}")
        spec = {} if found is None else found["spec"]
        named = [*spec.get("candidates", []), *([spec["mirror"]] if "mirror" in spec else [])]
        return {str(each["name"]) for each in named}

    def spec(self) -> dict[str, object]:
        path = f"{self._folder}/experiments/{NAME}"
        return dict(self._admin.call("GET", path)["spec"])


@pytest.fixture
def core2(world: SeldonWorld) -> Iterator[SeldonWorld]:
    """A world with the Role for Core 2 as well."""
    for document in manifest("core2/access.yaml"):
        world.make(document)
    yield world


def backend(world: SeldonWorld, address: str | None = None, epoch: int = 1) -> SeldonCore2Backend:
    return SeldonCore2Backend(
        world.api(address),
        NAME,
        locate=in_bucket,
        requirements=("python",),
        owner_epoch=epoch,
    )


def settle(target: Traffic, made: SeldonCore2Backend, scheduler: ScriptedScheduler) -> None:
    for _ in range(int(WAIT_S)):
        if reconcile(target, made).live:
            return
        scheduler.step()
    raise TimeoutError(f"{target} is not live")


def test_models_come_before_they_are_routed_to_and_go_after(core2: SeldonWorld) -> None:
    scheduler, made = ScriptedScheduler(core2), backend(core2)
    assert made.observed() is None
    for target in LIFE:
        settle(target, made, scheduler)
        assert made.observed() == target
    assert scheduler.models() == {f"{NAME}-2-b"}
    assert scheduler.spec() == {"candidates": [{"name": f"{NAME}-2-b", "weight": 100}]}


def test_a_model_that_never_loads_is_never_routed_to_and_is_removed(core2: SeldonWorld) -> None:
    scheduler, made = ScriptedScheduler(core2), backend(core2)
    settle(STABLE, made, scheduler)
    scheduler.broken.add("9-never")
    stuck = Traffic("1-a", "9-never", candidate_weight=5)
    for _ in range(3):
        assert not reconcile(stuck, made).live
        scheduler.step()
    assert scheduler.spec() == {"candidates": [{"name": f"{NAME}-1-a", "weight": 100}]}
    settle(STABLE, made, scheduler)
    assert scheduler.models() == {f"{NAME}-1-a"}


def test_what_is_still_routed_to_stays_loaded_while_another_loads(core2: SeldonWorld) -> None:
    scheduler, made = ScriptedScheduler(core2), backend(core2)
    settle(CANARY, made, scheduler)
    scheduler.broken.add("9-never")
    for _ in range(3):
        assert not reconcile(Traffic("1-a", "9-never", candidate_weight=5), made).live
        scheduler.step()
        routed = {str(each["name"]) for each in scheduler.spec()["candidates"]}  # type: ignore[attr-defined]
        assert routed == {f"{NAME}-1-a", f"{NAME}-2-b"} <= scheduler.models()


def test_a_change_that_the_scheduler_has_not_seen_is_not_live(core2: SeldonWorld) -> None:
    scheduler, made = ScriptedScheduler(core2), backend(core2)
    settle(CANARY, made, scheduler)
    further = Traffic("1-a", "2-b", candidate_weight=50)
    made.apply(further)
    assert made.observed() is None, "Ready is said of what the experiment was before"
    scheduler.step()
    assert made.observed() == further


def test_a_candidate_that_fails_later_is_taken_out_though_stable_is_unready(
    core2: SeldonWorld,
) -> None:
    scheduler, made = ScriptedScheduler(core2), backend(core2)
    settle(CANARY, made, scheduler)
    scheduler.broken |= {"1-a", "2-b"}
    scheduler.step()
    assert made.observed() is None
    made.apply(STABLE)
    assert scheduler.spec() == {"candidates": [{"name": f"{NAME}-1-a", "weight": 100}]}


@pytest.mark.parametrize("fault", [f for f in Fault if f not in (Fault.TIMEOUT, Fault.KILLED)])
def test_each_call_going_wrong_leads_to_the_same_end(
    core2: SeldonWorld, seldon_server: KubeApiServer, fault: Fault
) -> None:
    scheduler = ScriptedScheduler(core2)
    seen: set[tuple[int, str, str]] = set()
    with FaultyProxy(seldon_server.port, seldon_server.authority) as proxy:
        made = backend(core2, proxy.address)
        for stretch, target in enumerate(LIFE):

            def once(method: str, path: str, stretch: int = stretch) -> Fault | None:
                kind = (stretch, method, path)
                new = kind not in seen
                seen.add(kind)
                return fault if new else None

            proxy.plan = once
            settle(target, made, scheduler)
        assert {method for method, _ in proxy.faults} == {"GET", "POST", "PATCH", "DELETE"}
    assert scheduler.models() == {f"{NAME}-2-b"}
    assert scheduler.spec() == {"candidates": [{"name": f"{NAME}-2-b", "weight": 100}]}


def test_killed_after_each_call_the_next_process_reaches_the_same_end(
    core2: SeldonWorld, seldon_server: KubeApiServer
) -> None:
    """With SIGKILL, between the server's work and its reply; the suite does so at each write."""
    scheduler, seen, stretch = ScriptedScheduler(core2), set[tuple[int, str, str]](), 0

    def once(method: str, path: str) -> Fault | None:
        kind = (stretch, method, path)
        if kind in seen or (method == "GET" and not FULL):
            return None
        seen.add(kind)
        return Fault.KILLED

    kills, ticks = 0, 0
    with FaultyProxy(seldon_server.port, seldon_server.authority) as proxy:
        proxy.plan, ticker = once, Ticker("core2", core2, proxy.address)
        proxy.killed = ticker.kill
        try:
            for stretch, target in enumerate(LIFE):  # noqa: B007 - the plan reads it
                while not (live := ticker.tick(target)):
                    ticks += 1
                    assert ticks < MOST_TICKS, f"{target} is not reached"
                    kills += live is None
                    assert scheduler.routed() <= scheduler.models(), "routed to what is not there"
                    scheduler.step()
        finally:
            ticker.close()
        print(f"{len(proxy.faults)} calls went wrong")
        assert kills == len(proxy.faults) >= (4 if FULL else 1) * len(LIFE)
        assert {"POST", "PATCH", "DELETE"} <= {method for method, _ in proxy.faults}
    assert scheduler.models() == {f"{NAME}-2-b"}
    assert scheduler.spec() == {"candidates": [{"name": f"{NAME}-2-b", "weight": 100}]}


OURS = {MANAGED_BY: US, MODEL_OF: NAME}


@pytest.mark.parametrize(
    "labels", [{}, {MANAGED_BY: "helm"}, {MANAGED_BY: US, MODEL_OF: "another"}, {MODEL_OF: NAME}]
)
def test_a_model_of_others_is_refused_and_left_alone(
    core2: SeldonWorld, labels: dict[str, str]
) -> None:
    scheduler, made = ScriptedScheduler(core2), backend(core2)
    settle(STABLE, made, scheduler)
    core2.make(
        {
            "apiVersion": "mlops.seldon.io/v1alpha1",
            "kind": "Model",
            "metadata": {"name": f"{NAME}-2-b", "labels": labels},
            "spec": {"storageUri": "s3://theirs/model", "requirements": ["sklearn"]},
        }
    )
    scheduler.step()  # theirs is ready, too
    wanted = rf"Model {NAME}-2-b exists and is not metadrift's.*{MODEL_OF}={NAME}"
    seen = reconcile(CANARY, made)
    assert re.search(wanted, seen.error or "") and seen.retry_in_s is None
    assert scheduler.routed() == {f"{NAME}-1-a"}
    settle(STABLE, made, scheduler)
    assert scheduler.models() == {f"{NAME}-1-a", f"{NAME}-2-b"}, "theirs was deleted"
    core2.admin.merge(scheduler.path(f"{NAME}-2-b"), {"metadata": {"labels": OURS}})
    settle(CANARY, made, scheduler)  # handed over


def test_a_model_that_is_no_longer_ours_does_not_hold_up_an_abort(core2: SeldonWorld) -> None:
    scheduler, made = ScriptedScheduler(core2), backend(core2)
    settle(CANARY, made, scheduler)
    core2.admin.merge(scheduler.path(f"{NAME}-2-b"), {"metadata": {"labels": {MODEL_OF: None}}})
    assert made.observed() is None, "who knows what it holds"
    settle(STABLE, made, scheduler)
    assert scheduler.routed() == {f"{NAME}-1-a"}


def test_a_later_owner_shuts_the_earlier_one_out(core2: SeldonWorld) -> None:
    scheduler = ScriptedScheduler(core2)
    old, new = backend(core2), backend(core2, epoch=2)
    settle(STABLE, old, scheduler)
    settle(STABLE, new, scheduler)
    with pytest.raises(PermanentBackendError, match="belongs to owner epoch 2, we are 1"):
        old.apply(CANARY)


def test_an_experiment_of_others_is_left_alone(core2: SeldonWorld) -> None:
    theirs = {
        "apiVersion": "mlops.seldon.io/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": NAME},
        "spec": {"candidates": [{"name": "theirs", "weight": 100}]},
    }
    core2.make(theirs)
    with pytest.raises(PermanentBackendError, match="is not metadrift's"):
        backend(core2).apply(STABLE)


def test_without_its_role_it_can_do_nothing(world: SeldonWorld) -> None:
    with pytest.raises(PermanentBackendError, match="403"):
        backend(world).apply(STABLE)


def test_a_model_without_an_address_is_named(core2: SeldonWorld) -> None:
    made = SeldonCore2Backend(
        core2.api(), NAME, locate=lambda version: None, requirements=(), owner_epoch=1
    )
    with pytest.raises(PermanentBackendError, match="no address for the model of version 1-a"):
        made.apply(STABLE)


class Overtaken(KubernetesApi):
    """A later owner writes between our read and our write."""

    def patch(
        self, resource: Resource, name: str, operations: Sequence[dict[str, object]]
    ) -> dict[str, object]:
        path = f"/metadata/annotations/{OWNER_EPOCH.replace('/', '~1')}"
        super().patch(resource, name, [{"op": "add", "path": path, "value": "2"}])
        return super().patch(resource, name, operations)


def test_an_owner_that_is_overtaken_between_reading_and_writing_changes_nothing(
    core2: SeldonWorld,
) -> None:
    scheduler, made = ScriptedScheduler(core2), backend(core2)
    settle(STABLE, made, scheduler)
    before = scheduler.spec()
    made.apply(CANARY)  # its model is made
    scheduler.step()
    made._api.__class__ = Overtaken
    with pytest.raises(PermanentBackendError, match="belongs to owner epoch 2, we are 1"):
        made.apply(CANARY)
    assert scheduler.spec() == before


class Refusing(KubernetesApi):
    """Takes no change of the Experiment, whatever it holds."""

    def patch(
        self, resource: Resource, name: str, operations: Sequence[dict[str, object]]
    ) -> dict[str, object]:
        raise ConflictError(f"Kubernetes could not change {name}: 422 no such weight", status=422)


def test_a_value_that_is_refused_is_told_and_not_tried_again(core2: SeldonWorld) -> None:
    scheduler, made = ScriptedScheduler(core2), backend(core2)
    settle(STABLE, made, scheduler)
    made._api.__class__ = Refusing
    made.apply(CANARY)  # its model is made
    scheduler.step()
    with pytest.raises(PermanentBackendError, match="422 no such weight"):
        made.apply(CANARY)


def test_the_answering_version_is_read_from_the_route() -> None:
    assert version_of_route(f":{NAME}-2-1a2b_4:", NAME) == "2-1a2b"
    assert version_of_route(f":other_1:{NAME}-1-a_2:", NAME) == "1-a"
    assert version_of_route(":other_1:", NAME) is None
    assert version_of_route("", NAME) is None
