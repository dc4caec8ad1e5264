"""How far a SeldonDeployment has got: pure readings of what the API server shows.

``status.state`` says Available throughout an update, and ``observedGeneration`` is never set, so
neither tells when a split is in force. Three other things together do:

1. ``status.deploymentStatus`` names the Deployment of every predictor;
2. each of those Deployments runs the predictor's image and has itself rolled out;
3. the routes of the VirtualService carry the weights that the spec asks for.

The operator changes routes only when every Deployment is ready, so the second may hold up the
third.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deploy.rollout_plan import Traffic
from deploy.seldon_objects import MANAGED_BY, OWNER_EPOCH, US, JsonObject, as_object, spec_traffic
from deploy.seldon_rules import deployment_name


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a SeldonDeployment stands.

    Attributes:
        asked: The split that its spec asks for; None where it is none that we would write.
        waiting: What keeps that split from being in force, a sentence each.
        routed: Percent of the requests by predictor, as the routes have it now.
    """

    asked: Traffic | None
    waiting: tuple[str, ...] = ()
    routed: Mapping[str, int] = field(default_factory=dict)

    @property
    def live(self) -> Traffic | None:
        """The split in force; None while the routes are not what the spec asks for."""
        return None if self.waiting else self.asked


@dataclass(frozen=True, slots=True)
class RouteSplit:
    """What one route does with the requests that match it.

    Attributes:
        weights: Percent by predictor.
        mirror: Predictor that gets copies of them all.
    """

    weights: Mapping[str, int]
    mirror: str | None = None


def expected_split(traffic: Traffic) -> RouteSplit:
    """Return the route that carries ``traffic``."""
    weights = {traffic.stable: traffic.stable_weight}
    if traffic.candidate is None or traffic.shadow:
        return RouteSplit(weights, traffic.candidate)
    return RouteSplit({**weights, traffic.candidate: traffic.candidate_weight})


def expected_deployments(traffic: Traffic, name: str, container: str) -> dict[str, str]:
    """Return the name of each predictor's Deployment, by predictor."""
    versions = [traffic.stable, *([traffic.candidate] if traffic.candidate else [])]
    return {version: deployment_name(name, version, container) for version in versions}


def owner_epoch(deployment: JsonObject) -> int:
    """Return the epoch of the owner that wrote last, -1 where none has."""
    annotations = as_object(as_object(deployment.get("metadata")).get("annotations"))
    try:
        return int(str(annotations.get(OWNER_EPOCH, -1)))
    except ValueError:
        return -1


def is_ours(deployment: JsonObject) -> bool:
    """Whether the object is marked as managed by metadrift."""
    return as_object(as_object(deployment.get("metadata")).get("labels")).get(MANAGED_BY) == US


def standing(
    deployment: JsonObject,
    workloads: Mapping[str, JsonObject | None],
    virtual_services: Sequence[JsonObject],
    *,
    name: str,
    container: str,
) -> Standing:
    """Return how far ``deployment`` has got.

    Args:
        deployment: The SeldonDeployment as read.
        workloads: What was read of each expected Deployment, by its name; None: not there.
        virtual_services: Those that route its requests.
        name: Of the SeldonDeployment.
        container: Of the model server.
    """
    asked = spec_traffic(deployment.get("spec"))
    splits = [split for each in virtual_services for split in route_splits(each, name)]
    routed = dict(splits[0].weights) if splits else {}
    if asked is None:
        return Standing(None, ("the spec holds another split than metadrift writes",), routed)
    waiting = []
    reported = as_object(as_object(deployment.get("status")).get("deploymentStatus"))
    images = _images(deployment, container)
    for version, workload in expected_deployments(asked, name, container).items():
        found = workloads.get(workload)
        if workload not in reported:
            waiting.append(f"the operator reports no Deployment {workload} yet")
        elif found is not None and _runs(found, container) != images.get(version):
            waiting.append(f"Deployment {workload} still runs {_runs(found, container)}")
        else:
            waiting += rollout_waits(workload, found)
    if not splits:
        waiting.append("no VirtualService routes to it yet")
    wanted = expected_split(asked)
    waiting += [f"a route still carries {_words(s)}" for s in splits if s != wanted]
    return Standing(asked, tuple(dict.fromkeys(waiting)), routed)


def rollout_waits(name: str, workload: JsonObject | None) -> list[str]:
    """Return what a Deployment still waits for, as ``kubectl rollout status`` would judge it."""
    if workload is None:
        return [f"Deployment {name} does not exist yet"]
    spec, status = as_object(workload.get("spec")), as_object(workload.get("status"))
    generation = _number(as_object(workload.get("metadata")).get("generation"))
    if _number(status.get("observedGeneration")) < generation:
        return [f"Deployment {name} has a change that its controller has not seen"]
    for condition in map(as_object, _list(status.get("conditions"))):
        if condition.get("reason") == "ProgressDeadlineExceeded":
            return [f"Deployment {name} is stuck: {condition.get('message', 'no progress')}"]
    wanted = _number(spec.get("replicas", 1))
    counts = {key: _number(status.get(key)) for key in ("updatedReplicas", "availableReplicas")}
    if counts["updatedReplicas"] < wanted or counts["availableReplicas"] < wanted:
        return [
            f"Deployment {name}: {counts['updatedReplicas']} of {wanted} pods are up to date, "
            f"{counts['availableReplicas']} available"
        ]
    if _number(status.get("replicas")) > counts["updatedReplicas"]:
        return [f"Deployment {name} still has old pods"]
    return []


def route_splits(virtual_service: JsonObject, name: str) -> list[RouteSplit]:
    """Return what each HTTP route of a VirtualService does.

    Destinations are Services named ``<name>-<predictor>``, with or without the cluster's domain.
    """
    splits = []
    for rule in map(as_object, _list(as_object(virtual_service.get("spec")).get("http"))):
        routes = [as_object(each) for each in _list(rule.get("route"))]
        weights: dict[str, int] = {}
        for route in routes:
            predictor = _predictor_of(as_object(route.get("destination")), name)
            # Istio gives a lone destination everything; beside others, no weight is none.
            alone = 100 if len(routes) == 1 else 0
            weight = _number(route.get("weight", alone)) or alone
            weights[predictor] = weights.get(predictor, 0) + weight
        mirror = as_object(rule.get("mirror"))
        percent = as_object(rule.get("mirrorPercentage")).get("value", 100)
        copied = bool(mirror) and percent == 100
        splits.append(RouteSplit(weights, _predictor_of(mirror, name) if copied else None))
    return splits


def _images(deployment: JsonObject, container: str) -> dict[str, str | None]:
    """Return the image that each predictor asks for, by its name."""
    predictors = map(as_object, _list(as_object(deployment.get("spec")).get("predictors")))
    images = {}
    for predictor in predictors:
        components = _list(predictor.get("componentSpecs"))
        pod = as_object(as_object(components[0]).get("spec")) if components else {}
        images[str(predictor.get("name"))] = _image(pod, container)
    return images


def _runs(workload: JsonObject, container: str) -> str | None:
    template = as_object(as_object(workload.get("spec")).get("template"))
    return _image(as_object(template.get("spec")), container)


def _image(pod: JsonObject, container: str) -> str | None:
    for each in map(as_object, _list(pod.get("containers"))):
        if each.get("name") == container:
            return str(each.get("image"))
    return None


def _predictor_of(destination: JsonObject, name: str) -> str:
    service = str(destination.get("host", "")).partition(".")[0]
    return service.removeprefix(f"{name}-")


def _words(split: RouteSplit) -> str:
    parts = [f"{version} {weight} %" for version, weight in split.weights.items()]
    return (
        ", ".join([*parts, *([f"copies to {split.mirror}"] if split.mirror else [])]) or "nothing"
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
