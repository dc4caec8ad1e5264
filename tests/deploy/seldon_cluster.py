"""One API server with Seldon's definitions and rules, and small worlds within it for the tests."""

import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from deploy.controller import Convergence, ServingBackend, reconcile
from deploy.kubernetes_api import KubernetesApi
from deploy.rollout_plan import Traffic
from deploy.seldon_kubernetes import SeldonBackend
from deploy.seldon_objects import ModelArtifact, PredictorTemplate
from tests.deploy.scripted_operator import WEBHOOK_BINDING, WEBHOOK_POLICY, ScriptedOperator
from tests.servers.kube_admin import KubeAdmin, RefusedError
from tests.servers.kube_api_server import KubeApiServer

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"
NAME = "metadrift-model"  # as the manifests have it
TEMPLATE = PredictorTemplate(image="registry/model-server:1")
WAIT_S = 120.0

_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_numbers = itertools.count(1)


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: It did not come to hold.
    """
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {WAIT_S:g} s for {what}")
        time.sleep(0.1)


def load_definitions(admin: KubeAdmin, definitions: list[dict[str, Any]]) -> None:
    """Load the custom resource definitions and the webhook's rules, and wait until they act."""
    for definition in definitions:
        admin.call("POST", _DEFINITIONS, definition)
    for definition in definitions:
        path = f"{_DEFINITIONS}/{definition['metadata']['name']}"
        eventually(lambda path=path: _established(admin, path), path)  # type: ignore[misc]
    admin.call("POST", f"{_ADMISSION}/validatingadmissionpolicies", WEBHOOK_POLICY)
    admin.call("POST", f"{_ADMISSION}/validatingadmissionpolicybindings", WEBHOOK_BINDING)
    eventually(lambda: _refuses(admin), "the webhook's rules")


def _established(admin: KubeAdmin, path: str) -> bool:
    conditions = admin.call("GET", path).get("status", {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def _refuses(admin: KubeAdmin) -> bool:
    path = "/apis/machinelearning.seldon.io/v1/namespaces/default/seldondeployments?dryRun=All"
    try:
        admin.call("POST", path, seldon_deployment("probe", [("1-a", 90)]))
    except RefusedError as error:
        # 404 until the server has begun to serve the new resource
        return error.status == 422
    return False


def seldon_deployment(name: str, shares: list[tuple[str, int]]) -> dict[str, Any]:
    """Return a SeldonDeployment as somebody else would write it."""
    predictors = [
        {"name": version, "traffic": traffic, "graph": {"name": "classifier"}}
        for version, traffic in shares
    ]
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": name},
        "spec": {"predictors": predictors},
    }


def in_bucket(version: str) -> ModelArtifact:
    """Return where a version's model is, for Core 2, which always fetches it."""
    return ModelArtifact(f"s3://models/{version}", "ab")


def manifest(name: str) -> list[dict[str, Any]]:
    """Return the documents of one of the project's manifests."""
    return [d for d in yaml.safe_load_all((MANIFESTS / name).read_text()) if d]


class SeldonWorld:
    """A namespace with the project's own Role and ServiceAccount, and an operator that steps.

    Attributes:
        admin: The tests' hand.
        namespace: Its namespace.
        token: Of the daemon's service account.
        operator: The operator's part.
    """

    def __init__(self, server: KubeApiServer) -> None:
        self._open = ExitStack()
        self._server = server
        self.admin = self._open.enter_context(KubeAdmin(server))
        self.namespace = f"world-{next(_numbers)}"
        self.admin.make_namespace(self.namespace)
        for document in manifest("base/access.yaml"):
            self.make(document)
        self.token = self.admin.token_of(self.namespace, "metadrift")
        self.operator = ScriptedOperator(self.admin, self.namespace, NAME)

    def api(self, address: str | None = None, timeout_s: float = 60.0) -> KubernetesApi:
        """Return a connection as the daemon's service account."""
        direct = address is None
        return self._open.enter_context(
            KubernetesApi.with_token(
                self._server.address if address is None else address,
                self.token,
                self.namespace,
                authority=self._server.authority if direct else None,
                timeout_s=timeout_s,
            )
        )

    def kubeconfig(self, address: str | None = None) -> dict[str, object]:
        """Return the kubeconfig of the daemon's service account, also by way of a proxy."""
        cluster = (
            {"server": address}
            if address
            else {
                "server": self._server.address,
                "certificate-authority": str(self._server.authority),
            }
        )
        context = {"cluster": "tests", "user": "metadrift"}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "metadrift", "user": {"token": self.token}}],
            "contexts": [{"name": "tests", "context": context}],
            "current-context": "tests",
        }

    def backend(self, api: KubernetesApi | None = None, owner_epoch: int = 1) -> SeldonBackend:
        """Return a backend; by default over a new connection."""
        return SeldonBackend(
            self.api() if api is None else api,
            NAME,
            TEMPLATE,
            locate=lambda version: None,
            owner_epoch=owner_epoch,
        )

    def settle(self, target: Traffic, backend: ServingBackend) -> Convergence:
        """Tick until ``target`` is live, the operator taking a step after each tick.

        Raises:
            TimeoutError: It did not come to be.
        """
        deadline = time.monotonic() + WAIT_S
        while True:
            state = reconcile(target, backend)
            if state.live:
                return state
            if time.monotonic() > deadline:
                raise TimeoutError(f"{target} is not live after {WAIT_S:g} s: {state}")
            self.operator.step()

    def spec_weights(self) -> dict[str, int]:
        """Return traffic by predictor as the spec has it; a shadow has -1."""
        found = self.admin.find(self.operator.path)
        if found is None:
            return {}
        return {
            p["name"]: -1 if p.get("shadow") else p.get("traffic", 0)
            for p in found["spec"]["predictors"]
        }

    def make(self, document: dict[str, Any]) -> None:
        """Make an object of a manifest in this namespace."""
        group = document["apiVersion"]
        root = f"/apis/{group}" if "/" in group else f"/api/{group}"
        path = f"{root}/namespaces/{self.namespace}/{document['kind'].lower()}s"
        for subject in document.get("subjects", []):
            subject["namespace"] = self.namespace
        self.admin.call("POST", path, document)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()
