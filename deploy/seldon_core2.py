"""The Core 2 dialect: a ``Model`` for each version and one ``Experiment`` that splits between them.

Clients ask the experiment, by the header ``seldon-model: <name>.experiment``, so their address
stays when versions change. A model that is not ready is never routed to: first it is loaded, then
the experiment names it; on the way out the experiment drops it first, then it is unloaded.

What the API server shows is what was *asked for*: whether requests are split that way it does not
say, and edits of an experiment have left old routes behind (SeldonIO/seldon-core#5181). The answers
do: each carries the model in ``x-seldon-route``, see ``version_of_route``, and the rollout's
sample-ratio test stops on arms that do not come in their shares.
"""

import re
from collections.abc import Mapping

from deploy.controller import PermanentBackendError, TransientBackendError
from deploy.kubernetes_api import ConflictError, KubernetesApi, Resource
from deploy.rollout_plan import Traffic
from deploy.seldon_objects import MANAGED_BY, OWNER_EPOCH, US, JsonObject, Locate, as_object
from deploy.seldon_rules import LONGEST_NAME
from deploy.seldon_standing import is_ours, owner_epoch

MODELS = Resource("mlops.seldon.io", "v1alpha1", "models")
EXPERIMENTS = Resource("mlops.seldon.io", "v1alpha1", "experiments")
MODEL_OF = "metadrift/model-of"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_TRIES = 5


class SeldonCore2Backend:
    """Splits requests between model versions by one Experiment.

    Args:
        api: Calls within the namespace of the experiment.
        name: Of the experiment, and first part of the models' names.
        locate: Where the model of a version is; Core 2 always fetches it.
        requirements: What the models need of a server (``Model.spec.requirements``).
        owner_epoch: Of this owner of the model; see ``SeldonBackend``.
    """

    def __init__(
        self,
        api: KubernetesApi,
        name: str,
        *,
        locate: Locate,
        requirements: tuple[str, ...],
        owner_epoch: int,
    ) -> None:
        self._api = api
        self._name = name
        self._locate = locate
        self._requirements = requirements
        self._epoch = owner_epoch
        self._ours = f"{MANAGED_BY}={US},{MODEL_OF}={name}"

    def apply(self, traffic: Traffic) -> None:
        """Go as far towards ``traffic`` as the models' state allows; idempotent.

        Raises:
            BackendError: A call failed.
        """
        experiment = self._experiment()
        # Whatever the experiment names already may stay in it, ready or not: a candidate must not
        # go on answering because the stable model is being moved.
        routed = _named(experiment)
        loaded = [self._load(v) or self._model(v) in routed for v in _versions(traffic)]
        if all(loaded):
            self._split(traffic)
            experiment = self._experiment()
        # What the experiment still names must stay loaded, whatever is asked for.
        named = _named(experiment) | {self._model(v) for v in _versions(traffic)}
        for model in self._api.list(MODELS, self._ours):
            if _name(model) not in named:
                self._api.delete(MODELS, _name(model))

    def observed(self) -> Traffic | None:
        """Return the split that the experiment asks for, once it and its models are ready.

        Raises:
            BackendError: It could not be read.
        """
        experiment = self._experiment()
        if experiment is None or not _ready(experiment) or owner_epoch(experiment) < self._epoch:
            return None
        traffic = self._traffic_of(as_object(experiment.get("spec")))
        if traffic is None:
            return None
        wanted = {self._model(v) for v in _versions(traffic)}
        # What is not ours is not loaded, and ``apply`` says what is wrong with it.
        ready = {_name(m): _ready(m) for m in self._api.list(MODELS, self._ours)}
        return traffic if ready.keys() == wanted and all(ready.values()) else None

    def _load(self, version: str) -> bool:
        """Make the version's model where it is missing; return whether it is ready."""
        name = self._model(version)
        current = self._api.get(MODELS, name)
        if current is not None:
            if not self._is_ours(current):
                raise PermanentBackendError(
                    f"Model {name} exists and is not metadrift's: remove it, choose another name "
                    f"for the experiment, or hand it over with the labels {MANAGED_BY}={US} and "
                    f"{MODEL_OF}={self._name}"
                )
            return _ready(current)
        if not _LABEL.fullmatch(name) or len(name) > LONGEST_NAME:
            raise PermanentBackendError(
                f"Model name {name!r}: use at most {LONGEST_NAME} of a-z, 0-9 and -"
            )
        artifact = self._locate(version)
        if artifact is None:
            raise PermanentBackendError(
                f"no address for the model of version {version}: Core 2 fetches models itself"
            )
        metadata = {"name": name, "labels": {MANAGED_BY: US, MODEL_OF: self._name}}
        spec = {"storageUri": artifact.uri, "requirements": [*self._requirements]}
        body: JsonObject = {
            "apiVersion": "mlops.seldon.io/v1alpha1",
            "kind": "Model",
            "metadata": metadata,
            "spec": spec,
        }
        try:
            self._api.create(MODELS, body)
        except ConflictError as error:
            if error.status == 422:
                raise PermanentBackendError(str(error)) from error
        return False

    def _split(self, traffic: Traffic) -> None:
        spec = self._spec_of(traffic)
        refused: tuple[object, str] | None = None
        for _ in range(_TRIES):
            current = self._experiment()
            version = as_object((current or {}).get("metadata")).get("resourceVersion")
            if refused is not None and refused[0] == version:
                # Nobody has changed it, so it was no failed test: the values are refused.
                raise PermanentBackendError(refused[1])
            try:
                if current is None:
                    self._api.create(EXPERIMENTS, self._new(spec))
                    return
                same = self._traffic_of(as_object(current.get("spec"))) == traffic
                if not (same and owner_epoch(current) == self._epoch):
                    self._api.patch(EXPERIMENTS, self._name, self._operations(current, spec))
                return
            except ConflictError as error:
                if current is None and error.status == 422:
                    raise PermanentBackendError(str(error)) from error
                refused = (version, str(error)) if error.status == 422 else None
        raise TransientBackendError(
            f"Experiment {self._name} was changed by others {_TRIES} times in a row",
            retry_in_s=1.0,
        )

    def _operations(self, current: JsonObject, spec: JsonObject) -> list[JsonObject]:
        metadata = as_object(current.get("metadata"))
        key = OWNER_EPOCH.replace("/", "~1")
        return [
            {
                "op": "test",
                "path": "/metadata/resourceVersion",
                "value": metadata.get("resourceVersion"),
            },
            {"op": "replace", "path": "/spec", "value": spec},
            {"op": "add", "path": f"/metadata/annotations/{key}", "value": str(self._epoch)},
        ]

    def _experiment(self) -> JsonObject | None:
        current = self._api.get(EXPERIMENTS, self._name)
        if current is None:
            return None
        latest = owner_epoch(current)
        if not is_ours(current) or latest < 0:
            raise PermanentBackendError(
                f"Experiment {self._name} exists and is not metadrift's: choose another name"
            )
        if latest > self._epoch:
            raise PermanentBackendError(
                f"Experiment {self._name} belongs to owner epoch {latest}, we are {self._epoch}: "
                "another process owns the model now"
            )
        return current

    def _new(self, spec: JsonObject) -> JsonObject:
        return {
            "apiVersion": "mlops.seldon.io/v1alpha1",
            "kind": "Experiment",
            "metadata": {
                "name": self._name,
                "labels": {MANAGED_BY: US},
                "annotations": {OWNER_EPOCH: str(self._epoch)},
            },
            "spec": spec,
        }

    def _spec_of(self, traffic: Traffic) -> JsonObject:
        candidates = [{"name": self._model(traffic.stable), "weight": traffic.stable_weight}]
        if traffic.candidate is None:
            return {"candidates": candidates}
        other = self._model(traffic.candidate)
        if traffic.shadow:
            return {"candidates": candidates, "mirror": {"name": other, "percent": 100}}
        candidates.append({"name": other, "weight": traffic.candidate_weight})
        return {"candidates": candidates}

    def _traffic_of(self, spec: JsonObject) -> Traffic | None:
        listed, mirror = spec.get("candidates"), as_object(spec.get("mirror"))
        shares = [as_object(each) for each in listed] if isinstance(listed, list) else []
        versions = [str(s.get("name")).removeprefix(f"{self._name}-") for s in shares]
        weights = [w if isinstance(w := s.get("weight"), int) else 0 for s in shares]
        if sum(weights) != 100 or min(weights) < 0:
            return None
        match versions:
            case [stable] if mirror:
                copied = str(mirror.get("name")).removeprefix(f"{self._name}-")
                whole = mirror.get("percent") == 100
                return Traffic(stable, copied, shadow=True) if whole else None
            case [stable]:
                return Traffic(stable)
            case [stable, candidate] if not mirror:
                return Traffic(stable, candidate, weights[1])
            case _:
                return None

    def _is_ours(self, model: JsonObject) -> bool:
        labels = as_object(as_object(model.get("metadata")).get("labels"))
        return is_ours(model) and labels.get(MODEL_OF) == self._name

    def _model(self, version: str) -> str:
        return f"{self._name}-{version}"


def version_of_route(header: str, name: str) -> str | None:
    """Return the version that answered, from the header ``x-seldon-route``; None: not ours.

    The header lists the models that a request went through, with the number of their deployment.

    >>> version_of_route(":sorting-2-1a2b3c4d_1:", "sorting")
    '2-1a2b3c4d'
    """
    for model in filter(None, header.split(":")):
        plain, _, number = model.rpartition("_")
        found = plain if number.isdecimal() else model
        if found.startswith(f"{name}-"):
            return found.removeprefix(f"{name}-")
    return None


def _versions(traffic: Traffic) -> tuple[str, ...]:
    return (traffic.stable,) if traffic.candidate is None else (traffic.stable, traffic.candidate)


def _named(experiment: JsonObject | None) -> set[str]:
    if experiment is None:
        return set()
    spec = as_object(experiment.get("spec"))
    listed = spec.get("candidates")
    names = [as_object(each) for each in listed] if isinstance(listed, list) else []
    return {str(each["name"]) for each in [*names, as_object(spec.get("mirror"))] if "name" in each}


def _name(model: JsonObject) -> str:
    return str(as_object(model.get("metadata")).get("name"))


def _ready(resource: Mapping[str, object]) -> bool:
    """Whether the operator calls this very generation of a resource ready."""
    status = as_object(resource.get("status"))
    generation = as_object(resource.get("metadata")).get("generation")
    if status.get("observedGeneration") not in {None, generation}:
        return False
    listed = status.get("conditions")
    conditions = [as_object(c) for c in listed] if isinstance(listed, list) else []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
