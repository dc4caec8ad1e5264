"""A SeldonDeployment as a function of the traffic, and the traffic that its routes carry.

Pure: values in, JSON values out. Predictors are named by model version, and nothing else about them
says whether they are stable or candidate, so a promotion keeps the winner's Deployment: nothing
restarts. The stable version comes first, a rejected candidate is left out (a broken one at weight 0
would hold up all routes). Version and digest reach the server as constructor parameters.

>>> from deploy.rollout_plan import Traffic
>>> template = PredictorTemplate(image="registry/model-server:1")
>>> traffic = Traffic("1-a", "2-b", candidate_weight=25)
>>> spec = deployment_spec(traffic, template, lambda version: None)
>>> [(p["name"], p["traffic"]) for p in spec["predictors"]]
[('1-a', 75), ('2-b', 25)]
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.rollout_plan import Traffic
from deploy.seldon_rules import RuleBreachError, is_shadow, traffic_of

API_VERSION = "machinelearning.seldon.io/v1"
MANAGED_BY = "app.kubernetes.io/managed-by"
OWNER_EPOCH = "metadrift/owner-epoch"
US = "metadrift"
MODEL_FOLDER = "/mnt/models"  # where the operator's initialiser puts what modelUri names

_URI = re.compile(r"(s3|gs|pvc)://[A-Za-z0-9._-]+(/[A-Za-z0-9._@=-]+)*")

JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class ModelArtifact:
    """Where a model server finds a version.

    Attributes:
        uri: Folder of the model: ``s3://``, ``gs://`` or ``pvc://``, plain characters only.
        digest: Of its manifest; the server refuses anything else.
    """

    uri: str
    digest: str

    def __post_init__(self) -> None:
        if not _URI.fullmatch(self.uri) or ".." in self.uri:
            raise ValueError(
                f"model uri is {self.uri!r}: expected s3://, gs:// or pvc:// and a path without "
                "'..', '?' and '#' (resolve models:/ and file: addresses first)"
            )


Locate = Callable[[str], ModelArtifact | None]


@dataclass(frozen=True, slots=True)
class PredictorTemplate:
    """What every predictor looks like.

    Attributes:
        image: Of the model server; ``{version}`` in it becomes the model version, for models that
            are baked into images.
        container: Name of its container.
        replicas: Pods per predictor.
        implementation: Name of a server configured in the operator, which then fetches
            ``modelUri`` for it; None: the image holds the model.
        progress_deadline_s: Seconds until a Deployment that makes no progress counts as stuck.
        env: Further environment of the container, by name.
        resources: ``resources`` of the container.
        service_account: Of the pods, for access to the store; None: the namespace's default.
    """

    image: str
    container: str = "classifier"
    replicas: int = 1
    implementation: str | None = None
    progress_deadline_s: int = 600
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, object] = field(default_factory=dict)
    service_account: str | None = None

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ValueError(f"replicas must be >= 1, got {self.replicas}")
        if self.progress_deadline_s < 1:
            raise ValueError(f"progress_deadline_s must be >= 1, got {self.progress_deadline_s}")


def deployment_spec(traffic: Traffic, template: PredictorTemplate, locate: Locate) -> JsonObject:
    """Return ``spec`` of the SeldonDeployment that splits like ``traffic``.

    Args:
        traffic: Who answers.
        template: What each predictor looks like.
        locate: Where a version's model is; None: within the image.

    Raises:
        RuleBreachError: A model's address is given that nobody would fetch from.
    """
    predictors = [_predictor(traffic.stable, traffic.stable_weight, False, template, locate)]
    if traffic.candidate is not None:
        weight, shadow = traffic.candidate_weight, traffic.shadow
        predictors.append(_predictor(traffic.candidate, weight, shadow, template, locate))
    return {"predictors": predictors}


def new_deployment(name: str, owner_epoch: int, spec: JsonObject) -> JsonObject:
    """Return a SeldonDeployment that is marked as ours."""
    return {
        "apiVersion": API_VERSION,
        "kind": "SeldonDeployment",
        "metadata": {
            "name": name,
            "labels": {MANAGED_BY: US},
            "annotations": {OWNER_EPOCH: str(owner_epoch)},
        },
        "spec": spec,
    }


def patch_operations(current: JsonObject, spec: JsonObject, owner_epoch: int) -> list[JsonObject]:
    """Return the JSON Patch from what was read to what should be, nothing where that is equal.

    Its first operation tests that the object is still the one that was read: the predictors are a
    list, which can only be replaced whole, and a change in between would be lost.
    """
    operations: list[JsonObject] = []
    if not as_wanted(current.get("spec"), spec):
        operations.append(
            {"op": "replace", "path": "/spec/predictors", "value": spec["predictors"]}
        )
    metadata = as_object(current.get("metadata"))
    annotations = as_object(metadata.get("annotations"))
    if annotations.get(OWNER_EPOCH) != str(owner_epoch):
        key, value = OWNER_EPOCH.replace("/", "~1"), str(owner_epoch)
        operations.append(
            {"op": "add", "path": f"/metadata/annotations/{key}", "value": value}
            if annotations
            else {"op": "add", "path": "/metadata/annotations", "value": {OWNER_EPOCH: value}}
        )
    if not operations:
        return []
    read = {"op": "test", "path": "/metadata/resourceVersion"}
    return [{**read, "value": metadata.get("resourceVersion")}, *operations]


def as_wanted(actual: object, wanted: JsonObject) -> bool:
    """Whether a spec has exactly the wanted predictors, in order, each with all that is wanted.

    What others have set beside it (a webhook's defaults, an annotation) does not count: it would be
    taken away, set again, and so on for ever. So what a template no longer says stays until a split
    changes.
    """
    there, needed = _list(as_object(actual).get("predictors")), _list(wanted["predictors"])
    return len(there) == len(needed) and all(map(_covers, there, needed))


def _covers(actual: object, wanted: object) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(actual, Mapping) and all(
            _covers(actual.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        there = _list(actual)
        named = {as_object(each).get("name"): each for each in there}
        if all("name" in as_object(each) for each in wanted):
            return all(_covers(named.get(each["name"]), each) for each in wanted)
        return len(there) == len(wanted) and all(map(_covers, there, wanted))
    # Kubernetes drops a zero and a false on the way (omitempty).
    return actual == wanted or (actual is None and (wanted is False or wanted == 0))


def spec_traffic(spec: object) -> Traffic | None:
    """Return the split that a spec asks for; None where it is none that we would write."""
    listed = as_object(spec).get("predictors")
    predictors = [as_object(p) for p in listed] if isinstance(listed, list) else []
    match predictors:
        case [stable] if not is_shadow(stable):
            return Traffic(str(stable.get("name")))
        case [stable, other] if not is_shadow(stable):
            shadow = is_shadow(other)
            weight = 0 if shadow else traffic_of(other)
            if not 0 <= weight <= 100:
                return None
            return Traffic(str(stable.get("name")), str(other.get("name")), weight, shadow)
        case _:
            return None


def as_object(value: object) -> JsonObject:
    """Return a JSON object, an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _predictor(
    version: str, traffic: int, shadow: bool, template: PredictorTemplate, locate: Locate
) -> JsonObject:
    artifact = locate(version)
    parameters = {"version": version}
    graph: JsonObject = {"name": template.container, "type": "MODEL"}
    if template.implementation is not None:
        graph["implementation"] = template.implementation
    if artifact is not None:
        if template.implementation is None:
            raise RuleBreachError(
                f"version {version} lies at {artifact.uri}, and no implementation is named: "
                "the operator fetches models for implementations only"
            )
        graph["modelUri"] = artifact.uri
        parameters |= {"model_dir": MODEL_FOLDER, "digest": artifact.digest}
    graph["parameters"] = [
        {"name": name, "type": "STRING", "value": value} for name, value in parameters.items()
    ]
    container: JsonObject = {
        "name": template.container,
        "image": template.image.replace("{version}", version),
    }
    if template.env:
        env = sorted(template.env.items())
        container["env"] = [{"name": name, "value": value} for name, value in env]
    if template.resources:
        container["resources"] = dict(template.resources)
    pod: JsonObject = {"containers": [container]}
    if template.service_account is not None:
        pod["serviceAccountName"] = template.service_account
    return {
        "name": version,
        # Both are always said: left out, one that was there before would not count as a change. A
        # shadow without a number gets a copy of every request.
        "traffic": 0 if shadow else traffic,
        "shadow": shadow,
        "replicas": template.replicas,
        "progressDeadlineSeconds": template.progress_deadline_s,
        "labels": {"version": version},
        "graph": graph,
        "componentSpecs": [{"spec": pod}],
    }
