"""The parts that Seldon Core's operator and Kubernetes' Deployment controller play, step by step.

It behaves as the operator of Seldon Core 1.17.1 was seen to: a predictor gets its Deployment at
once, named ``<deployment>-<predictor>-0-<container>``; the routes are made, and later changed, only
when *every* predictor's Deployment is ready; what is no longer listed goes after that;
``status.state`` says Available throughout an update, and ``observedGeneration`` is never set. Pods
become ready one step after their Deployment was made, those of ``broken`` versions never.

The webhook's part is played by the API server itself: ``WEBHOOK_POLICY`` holds its rules as a
ValidatingAdmissionPolicy, so what it refuses is refused at the time of writing, with 422 as there.
It lets the traffic 150 and -50 pass, as the webhook does.
"""

from typing import Any

from tests.servers.kube_admin import KubeAdmin

ROUTES = "networking.istio.io/v1beta1"
SELDON = "machinelearning.seldon.io/v1"

_SHADOW = "has(p.shadow) && p.shadow"
_SERVING = f"object.spec.predictors.filter(p, !({_SHADOW}))"

WEBHOOK_POLICY: dict[str, Any] = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingAdmissionPolicy",
    "metadata": {"name": "seldon-webhook"},
    "spec": {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": ["machinelearning.seldon.io"],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["seldondeployments"],
                }
            ]
        },
        "variables": [
            {"name": "answering", "expression": f"{_SERVING}.size()"},
            {"name": "size", "expression": "object.spec.predictors.size()"},
            {
                "name": "total",
                "expression": f"{_SERVING}.map(p, has(p.traffic) ? p.traffic : 0).sum()",
            },
        ],
        "validations": [
            {"expression": "variables.size > 0", "message": "Graph contains no predictors"},
            {
                "expression": "object.spec.predictors.all(p, "
                "object.spec.predictors.exists_one(q, q.name == p.name))",
                "message": "Duplicate predictor name",
            },
            {
                "expression": "variables.size - variables.answering <= 1",
                "message": "Multiple shadows are not allowed",
            },
            {
                "expression": "variables.size != 1 || variables.answering == 1",
                "message": "Shadow can not exist as only predictor",
            },
            {
                "expression": "variables.answering <= 1 || variables.total == 100",
                "message": "Traffic must sum to 100 for multiple predictors",
            },
            {
                "expression": "variables.size != 1 || variables.total <= 0 "
                "|| variables.total >= 100",
                "message": "Traffic must sum be 100 for a single predictor when set",
            },
        ],
    },
}
WEBHOOK_BINDING: dict[str, Any] = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingAdmissionPolicyBinding",
    "metadata": {"name": "seldon-webhook"},
    "spec": {"policyName": "seldon-webhook", "validationActions": ["Deny"]},
}


class ScriptedOperator:
    """Reconciles one SeldonDeployment, one step a call.

    Attributes:
        broken: Versions whose pods never become ready.
        asleep: The operator does nothing, as while it restarts.
        drops_zero: Weights of 0 are left out of the routes (Go's omitempty).
    """

    def __init__(self, admin: KubeAdmin, namespace: str, name: str) -> None:
        self.broken: set[str] = set()
        self.asleep = False
        self.drops_zero = True
        self._admin = admin
        self._namespace = namespace
        self._name = name
        self._deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        self._routes = f"/apis/{ROUTES}/namespaces/{namespace}/virtualservices"
        self.path = f"/apis/{SELDON}/namespaces/{namespace}/seldondeployments/{name}"

    def step(self) -> None:
        """Look at the SeldonDeployment once and do what follows from it."""
        found = self._admin.find(self.path)
        if found is None or self.asleep:
            return
        predictors = found["spec"]["predictors"]
        # A list, so that every Deployment is made before any is waited for.
        ready = [self._bring_up(predictor) for predictor in predictors]
        known = dict((found.get("status") or {}).get("deploymentStatus") or {})
        wanted = {self._deployment_name(p) for p in predictors}
        reported: dict[str, object] = {
            name: {"replicas": 1, "availableReplicas": int(ok)}
            for name, ok in zip([self._deployment_name(p) for p in predictors], ready, strict=True)
        }
        state = "Available" if known or all(ready) else "Creating"
        if all(ready):
            self._route(predictors)
            for name in set(known) - wanted:
                self._remove(f"{self._deployments}/{name}")
                reported[name] = None
        status = {"state": state, "deploymentStatus": reported}
        self._admin.merge(f"{self.path}/status", {"status": status})

    def weights(self) -> dict[str, int]:
        """Return the percent by predictor that the routes carry now."""
        found = self._admin.find(f"{self._routes}/{self._name}")
        if found is None:
            return {}
        routes = found["spec"]["http"][0]["route"]
        return {r["destination"]["subset"]: r.get("weight", 0) for r in routes}

    def deployments(self) -> set[str]:
        """Return the versions that have a Deployment."""
        items = self._admin.call("GET", self._deployments)["items"]
        return {item["metadata"]["labels"]["seldon-version"] for item in items}

    def _bring_up(self, predictor: dict[str, Any]) -> bool:
        path = f"{self._deployments}/{self._deployment_name(predictor)}"
        found = self._admin.find(path)
        if found is None:
            self._admin.call("POST", self._deployments, self._deployment(predictor))
            return False
        pod = self._deployment(predictor)["spec"]["template"]
        if pod["spec"]["containers"][0]["image"] != _image(found):
            found["spec"]["template"] = pod
            self._admin.call("PUT", path, found)
            return False
        if predictor["name"] in self.broken:
            self._admin.merge(f"{path}/status", {"status": _pods(found, available=0)})
            return False
        self._admin.merge(f"{path}/status", {"status": _pods(found, available=1)})
        return True

    def _route(self, predictors: list[dict[str, Any]]) -> None:
        rule: dict[str, Any] = {"route": []}
        for predictor in predictors:
            service = f"{self._name}-{predictor['name']}.{self._namespace}.svc.cluster.local"
            target = {"host": service, "subset": predictor["name"], "port": {"number": 8000}}
            if predictor.get("shadow"):
                rule["mirror"] = target
                continue
            weight = predictor.get("traffic", 0)
            kept = {} if weight == 0 and self.drops_zero else {"weight": weight}
            rule["route"].append({"destination": target, **kept})
        spec = {"hosts": ["*"], "gateways": ["seldon-gateway"], "http": [rule, rule]}
        found = self._admin.find(f"{self._routes}/{self._name}")
        body = {
            "apiVersion": ROUTES,
            "kind": "VirtualService",
            "metadata": {"name": self._name},
            "spec": spec,
        }
        if found is None:
            self._admin.call("POST", self._routes, body)
        elif found["spec"] != spec:
            body["metadata"] = {**body["metadata"], **_version(found)}
            self._admin.call("PUT", f"{self._routes}/{self._name}", body)

    def _deployment(self, predictor: dict[str, Any]) -> dict[str, Any]:
        name = self._deployment_name(predictor)
        pod = predictor["componentSpecs"][0]["spec"]
        labels = {"seldon-deployment-id": self._name, "seldon-version": predictor["name"]}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": predictor.get("replicas", 1),
                "progressDeadlineSeconds": predictor.get("progressDeadlineSeconds", 600),
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }

    def _deployment_name(self, predictor: dict[str, Any]) -> str:
        containers = predictor["componentSpecs"][0]["spec"]["containers"]
        return f"{self._name}-{predictor['name']}-0-{'-'.join(c['name'] for c in containers)}"

    def _remove(self, path: str) -> None:
        if self._admin.find(path) is not None:
            self._admin.call("DELETE", path)


def _pods(deployment: dict[str, Any], *, available: int) -> dict[str, object]:
    replicas = deployment["spec"]["replicas"]
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": replicas,
        "updatedReplicas": replicas,
        "readyReplicas": available * replicas,
        "availableReplicas": available * replicas,
        "unavailableReplicas": replicas - available * replicas,
    }


def _image(deployment: dict[str, Any]) -> str:
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def _version(found: dict[str, Any]) -> dict[str, str]:
    return {"resourceVersion": found["metadata"]["resourceVersion"]}
