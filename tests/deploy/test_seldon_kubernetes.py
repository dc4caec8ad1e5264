"""The SeldonDeployment backend against a real API server, under the project's own Role."""

import contextlib
from pathlib import Path

import pytest
import yaml

from deploy.controller import PermanentBackendError, TransientBackendError, reconcile
from deploy.kubernetes_api import ConflictError, KubernetesApi, Resource
from deploy.rollout_plan import Traffic
from deploy.seldon_kubernetes import SELDON_DEPLOYMENTS, SeldonBackend
from deploy.seldon_objects import MANAGED_BY, PredictorTemplate
from tests.deploy.seldon_cluster import NAME, SeldonWorld, seldon_deployment
from tests.servers.kube_admin import RefusedError
from tests.servers.kube_api_server import KubeApiServer
from tests.servers.ports import LOOPBACK, free_ports

pytestmark = pytest.mark.integration

STABLE = Traffic("1-a")
SHADOW = Traffic("1-a", "2-b", shadow=True)
CANARY = Traffic("1-a", "2-b", candidate_weight=5)
FURTHER = Traffic("1-a", "2-b", candidate_weight=25)
PROBATION = Traffic("2-b", "1-a", shadow=True)
PROMOTED = Traffic("2-b")
BROKEN = "9-never"


def deployment_uid(world: SeldonWorld, version: str) -> str:
    path = f"/apis/apps/v1/namespaces/{world.namespace}/deployments/{NAME}-{version}-0-classifier"
    return str(world.admin.call("GET", path)["metadata"]["uid"])


def test_a_candidate_is_added_stepped_promoted_and_the_old_one_goes(world: SeldonWorld) -> None:
    backend = world.backend()
    assert backend.observed() is None
    for target, weights in (
        (STABLE, {"1-a": 100}),
        (SHADOW, {"1-a": 100}),
        (CANARY, {"1-a": 95, "2-b": 5}),
        (FURTHER, {"1-a": 75, "2-b": 25}),
        (PROBATION, {"2-b": 100}),
    ):
        assert world.settle(target, backend).live
        assert world.operator.weights() == weights
    winner = deployment_uid(world, "2-b")
    assert world.settle(PROMOTED, backend).live
    assert world.operator.weights() == {"2-b": 100}
    assert world.operator.deployments() == {"2-b"}
    assert deployment_uid(world, "2-b") == winner, "the winner's pods were replaced"
    before = world.admin.call("GET", world.operator.path)["metadata"]["resourceVersion"]
    backend.apply(PROMOTED)
    after = world.admin.call("GET", world.operator.path)["metadata"]["resourceVersion"]
    assert after == before, "applying what is there wrote something"


def test_a_roll_back_removes_the_candidate(world: SeldonWorld) -> None:
    backend = world.backend()
    for target in (STABLE, FURTHER, STABLE):
        world.settle(target, backend)
    assert world.operator.weights() == {"1-a": 100}
    assert world.operator.deployments() == {"1-a"}


def test_a_candidate_that_never_becomes_ready_blocks_the_routes_and_is_removed(
    world: SeldonWorld,
) -> None:
    """Setting it to 0 would not help: the routes wait for every predictor."""
    world.operator.broken.add(BROKEN)
    backend = world.backend()
    world.settle(STABLE, backend)
    stuck = Traffic("1-a", BROKEN, candidate_weight=5)
    for _ in range(4):
        state = reconcile(stuck, backend)
        assert not state.live
        world.operator.step()
    assert world.operator.weights() == {"1-a": 100}, "the stable version lost requests"
    backend.apply(Traffic("1-a", BROKEN, candidate_weight=0))
    world.operator.step()
    assert backend.observed() is None
    world.settle(STABLE, backend)
    assert world.spec_weights() == {"1-a": 100}
    world.settle(CANARY, backend)


def test_seldon_4224_creating_for_ever_is_told_with_its_reason(world: SeldonWorld) -> None:
    world.operator.broken.add(BROKEN)
    backend = world.backend()
    world.settle(STABLE, backend)
    backend.apply(Traffic("1-a", BROKEN, candidate_weight=5))
    for _ in range(3):
        world.operator.step()
    found = backend.standing()
    name = f"{NAME}-{BROKEN}-0-classifier"
    assert found is not None and found.live is None
    assert f"Deployment {name}: 1 of 1 pods are up to date, 0 available" in found.waiting
    path = f"/apis/apps/v1/namespaces/{world.namespace}/deployments/{name}"
    deployment = world.admin.call("GET", path)
    assert deployment["spec"]["progressDeadlineSeconds"] == 600
    stuck = {
        "type": "Progressing",
        "status": "False",
        "reason": "ProgressDeadlineExceeded",
        "message": "has timed out progressing",
    }
    world.admin.merge(f"{path}/status", {"status": {"conditions": [stuck]}})
    found = backend.standing()
    assert found is not None
    assert f"Deployment {name} is stuck: has timed out progressing" in found.waiting
    status = world.admin.call("GET", world.operator.path)["status"]
    assert status["state"] == "Available", "which is why it is not asked"


def test_seldon_4067_a_weight_of_zero_is_not_called_live_when_it_is_lost(
    world: SeldonWorld,
) -> None:
    backend = world.backend()
    world.settle(STABLE, backend)
    all_to_candidate = Traffic("1-a", "2-b", candidate_weight=100)
    world.settle(all_to_candidate, backend)
    path = f"/apis/networking.istio.io/v1beta1/namespaces/{world.namespace}/virtualservices/{NAME}"
    routes = world.admin.call("GET", path)
    for rule in routes["spec"]["http"]:
        for route in rule["route"]:
            route.pop("weight", None)
    world.admin.call("PUT", path, routes)
    assert backend.observed() is None
    world.settle(STABLE, backend)
    assert world.spec_weights() == {"1-a": 100}, "a rejected candidate is left out, not at 0"


def test_seldon_5181_stale_routes_are_not_called_live(world: SeldonWorld) -> None:
    backend = world.backend()
    world.settle(STABLE, backend)
    world.settle(CANARY, backend)
    world.operator.asleep = True
    backend.apply(FURTHER)
    found = backend.standing()
    assert found is not None and found.live is None
    assert dict(found.routed) == {"1-a": 95, "2-b": 5}
    assert "a route still carries 1-a 95 %, 2-b 5 %" in found.waiting
    # Back to what the routes still carry: the spec has to follow all the same.
    assert reconcile(CANARY, backend).live
    assert world.spec_weights() == {"1-a": 95, "2-b": 5}


def test_seldon_1461_nothing_is_live_before_its_route_exists(world: SeldonWorld) -> None:
    """The route is made only after the pods are ready; until then the gateway answers 503."""
    backend = world.backend()
    backend.apply(STABLE)
    world.operator.step()
    assert backend.observed() is None
    world.settle(STABLE, backend)


def test_seldon_1461_an_object_changed_between_reading_and_writing_is_read_again(
    world: SeldonWorld,
) -> None:
    world.settle(STABLE, world.backend())
    api = InterferedApi(world, times=2)
    backend = world.backend(api)
    backend.apply(CANARY)
    assert api.conflicts == 2
    assert world.spec_weights() == {"1-a": 95, "2-b": 5}
    annotations = world.admin.call("GET", world.operator.path)["metadata"]["annotations"]
    assert annotations["theirs"] == "2", "the other hand's change was lost"


def test_an_object_that_others_keep_changing_is_left_for_a_later_tick(world: SeldonWorld) -> None:
    world.settle(STABLE, world.backend())
    api = InterferedApi(world, times=1000)
    with pytest.raises(TransientBackendError, match="changed by others 5 times in a row"):
        world.backend(api).apply(CANARY)
    assert world.spec_weights() == {"1-a": 100}


class InterferedApi(KubernetesApi):
    """Somebody else changes the object between our reading and writing it, ``times`` times."""

    def __init__(self, world: SeldonWorld, times: int) -> None:
        inner = world.api()
        self.__dict__.update(inner.__dict__)
        self._world = world
        self._times = times
        self.conflicts = 0
        self._changes = 0

    def patch(self, resource, name, operations):  # type: ignore[no-untyped-def]
        if self._changes < self._times:
            self._changes += 1
            annotations = {"metadata": {"annotations": {"theirs": str(self._changes)}}}
            self._world.admin.merge(self._world.operator.path, annotations)
        try:
            return super().patch(resource, name, operations)
        except ConflictError:
            self.conflicts += 1
            raise


def test_what_the_server_refuses_is_permanent_and_says_why(world: SeldonWorld) -> None:
    """The rules are checked before sending, so only a value that they do not know gets there."""
    template = PredictorTemplate(image="i", resources={"limits": {"memory": "plenty"}})
    backend = SeldonBackend(world.api(), NAME, template, locate=lambda version: None, owner_epoch=1)
    with pytest.raises(PermanentBackendError, match="resources"):
        backend.apply(STABLE)
    assert world.admin.find(world.operator.path) is None
    world.settle(STABLE, world.backend())
    with pytest.raises(PermanentBackendError, match="resources"):
        backend.apply(CANARY)
    assert world.spec_weights() == {"1-a": 100}


def test_a_broken_rule_never_reaches_the_server(world: SeldonWorld) -> None:
    with pytest.raises(PermanentBackendError, match="name '2_B': use a-z, 0-9 and -"):
        world.backend().apply(Traffic("1-a", "2_B", candidate_weight=5))
    assert world.admin.find(world.operator.path) is None


def test_the_webhook_refuses_what_the_rules_refuse_and_lets_one_thing_through(
    world: SeldonWorld,
) -> None:
    path = world.operator.path.rsplit("/", 1)[0] + "?dryRun=All"

    def answer(shares: list[tuple[str, int]]) -> int:
        try:
            world.admin.call("POST", path, seldon_deployment("probe", shares))
        except RefusedError as error:
            return error.status
        return 201

    assert answer([("1-a", 90)]) == 422
    assert answer([("1-a", 70), ("2-b", 20)]) == 422
    assert answer([("1-a", 50), ("1-a", 50)]) == 422
    assert answer([("1-a", 100)]) == answer([("1-a", 0)]) == 201
    assert answer([("1-a", 150), ("2-b", -50)]) == 201


def test_a_foreign_object_is_left_alone_until_it_is_handed_over(world: SeldonWorld) -> None:
    folder = world.operator.path.rsplit("/", 1)[0]
    world.admin.call("POST", folder, seldon_deployment(NAME, [("theirs", 100)]))
    backend = world.backend()
    state = reconcile(STABLE, backend)
    assert "is not metadrift's" in (state.error or "") and state.retry_in_s is None
    assert world.spec_weights() == {"theirs": 100}
    world.admin.merge(world.operator.path, {"metadata": {"labels": {MANAGED_BY: "metadrift"}}})
    world.settle(STABLE, backend)


def test_a_predictor_changed_by_hand_and_a_new_template_are_both_put_right(
    world: SeldonWorld,
) -> None:
    backend = world.backend()
    world.settle(CANARY, backend)
    by_hand = [{"op": "replace", "path": "/spec/predictors/0/replicas", "value": 7}]
    kind = "application/json-patch+json"
    world.admin.call("PATCH", world.operator.path, by_hand, kind)
    assert backend.observed() is None
    world.settle(CANARY, backend)
    template = PredictorTemplate(image="registry/model-server:2")
    newer = SeldonBackend(world.api(), NAME, template, locate=lambda version: None, owner_epoch=1)
    assert newer.observed() is None
    world.settle(CANARY, newer)
    for predictor in world.admin.call("GET", world.operator.path)["spec"]["predictors"]:
        pod = predictor["componentSpecs"][0]["spec"]
        assert predictor["replicas"] == 1
        assert pod["containers"][0]["image"] == "registry/model-server:2"


def test_the_owner_with_the_highest_epoch_is_the_only_one_that_writes(world: SeldonWorld) -> None:
    old, new = world.backend(owner_epoch=4), world.backend(owner_epoch=5)
    world.settle(CANARY, old)
    assert new.observed() is None, "it is not claimed yet"
    world.settle(CANARY, new)
    with pytest.raises(PermanentBackendError, match="belongs to owner epoch 5, we are 4"):
        old.apply(STABLE)
    with pytest.raises(PermanentBackendError, match="another process owns the model"):
        old.observed()
    assert world.spec_weights() == {"1-a": 95, "2-b": 5}


def test_a_missing_definition_says_that_the_operator_is_missing(world: SeldonWorld) -> None:
    """Reading finds nothing, and making one says that there is no such resource."""
    unknown = Resource("machinelearning.seldon.io", "v9", "seldondeployments")
    api = world.api()
    with contextlib.suppress(PermanentBackendError):  # the Role may refuse first
        assert api.get(unknown, NAME) is None
    with pytest.raises(PermanentBackendError, match=r"40[34]"):
        api.create(unknown, {"metadata": {"name": NAME}})


def test_a_server_that_is_away_is_transient(world: SeldonWorld) -> None:
    (port,) = free_ports(1)
    backend = world.backend(world.api(f"http://{LOOPBACK}:{port}", timeout_s=5.0))
    with pytest.raises(TransientBackendError, match="could not read seldondeployments"):
        backend.apply(STABLE)


def test_a_kubeconfig_file_leads_to_the_server(
    world: SeldonWorld, seldon_server: KubeApiServer, tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "one", "user": "daemon"}}],
                "users": [{"name": "daemon", "user": {"token": world.token}}],
                "clusters": [
                    {
                        "name": "one",
                        "cluster": {
                            "server": seldon_server.address,
                            "certificate-authority": str(seldon_server.authority),
                        },
                    }
                ],
            }
        )
    )
    with KubernetesApi.from_kubeconfig(path, world.namespace) as api:
        world.settle(STABLE, world.backend(api))
    path.write_text("{")
    with pytest.raises(PermanentBackendError, match="cannot be used"):
        KubernetesApi.from_kubeconfig(path, world.namespace)
    with pytest.raises(PermanentBackendError, match="cannot be used"):
        KubernetesApi.from_kubeconfig(tmp_path / "none", world.namespace)


def test_a_pods_service_account_leads_to_the_server(
    world: SeldonWorld,
    seldon_server: KubeApiServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As within a pod, but for the folder that Kubernetes mounts."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(PermanentBackendError, match="run in a pod"):
        KubernetesApi.in_cluster()
    mounted = "kubernetes.config.incluster_config"
    for name, text in (("token", world.token), ("namespace", world.namespace)):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(f"{mounted}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{mounted}.SERVICE_CERT_FILENAME", str(seldon_server.authority))
    monkeypatch.setattr("deploy.kubernetes_api._NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", LOOPBACK)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(seldon_server.port))
    with KubernetesApi.in_cluster() as api:
        assert api.namespace == world.namespace
        world.settle(STABLE, world.backend(api))


def test_a_wrong_token_is_looked_at_again_later(world: SeldonWorld) -> None:
    world.token = "nobody"  # noqa: S105
    with pytest.raises(TransientBackendError, match="401") as caught:
        world.backend().apply(STABLE)
    assert caught.value.retry_in_s == 60.0


def test_an_unknown_field_is_refused_rather_than_dropped(world: SeldonWorld) -> None:
    body = seldon_deployment(NAME, [("1-a", 100)])
    body["spec"]["predictorz"] = []
    with pytest.raises(PermanentBackendError, match="predictorz"):
        world.api().create(SELDON_DEPLOYMENTS, body)
