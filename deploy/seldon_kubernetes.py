"""The Kubernetes backend: a SeldonDeployment (Seldon Core 1) whose predictors are model versions.

Level-triggered: what is read decides what is sent, and nothing is remembered between calls, so a
process that was killed after any call goes on from what is there. The spec is only ever replaced
under a ``test`` that it is still the one that was read, by the owner with the highest epoch.
"""

from deploy.controller import PermanentBackendError, TransientBackendError
from deploy.kubernetes_api import ConflictError, KubernetesApi, Resource
from deploy.rollout_plan import Traffic
from deploy.seldon_objects import (
    MANAGED_BY,
    US,
    JsonObject,
    Locate,
    PredictorTemplate,
    as_object,
    as_wanted,
    deployment_spec,
    new_deployment,
    patch_operations,
    spec_traffic,
)
from deploy.seldon_rules import RuleBreachError, check
from deploy.seldon_standing import Standing, expected_deployments, is_ours, owner_epoch, standing

SELDON_DEPLOYMENTS = Resource("machinelearning.seldon.io", "v1", "seldondeployments")
DEPLOYMENTS = Resource("apps", "v1", "deployments")
VIRTUAL_SERVICES = Resource("networking.istio.io", "v1beta1", "virtualservices")

_TRIES = 5
_CHANGED_S = 1.0
_DELETED_S = 5.0


class SeldonBackend:
    """Splits requests between model versions by one SeldonDeployment behind Istio.

    Args:
        api: Calls within the namespace of the SeldonDeployment.
        name: Of the SeldonDeployment; metadrift makes it, or takes one over that carries its label
            ``app.kubernetes.io/managed-by: metadrift``.
        template: What each predictor looks like.
        locate: Where the model of a version is; None: within the image.
        owner_epoch: Of this owner of the model; a lower one can change nothing any more once this
            one has written.
    """

    def __init__(
        self,
        api: KubernetesApi,
        name: str,
        template: PredictorTemplate,
        *,
        locate: Locate,
        owner_epoch: int,
    ) -> None:
        self._api = api
        self._name = name
        self._template = template
        self._locate = locate
        self._epoch = owner_epoch

    def apply(self, traffic: Traffic) -> None:
        """Ask for ``traffic``; idempotent. The operator takes its time, see ``observed``.

        Raises:
            BackendError: It could not be asked for.
        """
        spec = self._sound_spec(traffic)
        refused: tuple[object, str] | None = None
        for _ in range(_TRIES):
            current = self._read()
            try:
                if current is None:
                    body = new_deployment(self._name, self._epoch, spec)
                    self._api.create(SELDON_DEPLOYMENTS, body)
                    return
                version = as_object(current.get("metadata")).get("resourceVersion")
                if refused is not None and refused[0] == version:
                    # Nobody has changed it, so it was no failed test: the values are refused.
                    raise PermanentBackendError(refused[1])
                operations = patch_operations(current, spec, self._epoch)
                if operations:
                    self._api.patch(SELDON_DEPLOYMENTS, self._name, operations)
                return
            except ConflictError as error:
                if error.status == 422 and current is None:
                    raise PermanentBackendError(str(error)) from error
                refused = (version, str(error)) if error.status == 422 else None
        raise TransientBackendError(
            f"SeldonDeployment {self._name} was changed by others {_TRIES} times in a row",
            retry_in_s=_CHANGED_S,
        )

    def observed(self) -> Traffic | None:
        """Return the split in force.

        None where nothing is served yet, and as long as the routes are not what the spec asks
        for: neither the old split nor the new one is settled then, and ``standing`` says why.

        Raises:
            BackendError: It could not be read.
        """
        found = self.standing()
        return None if found is None else found.live

    def standing(self) -> Standing | None:
        """Return how far the SeldonDeployment has got, None where there is none.

        Raises:
            BackendError: It could not be read.
        """
        current = self._read()
        if current is None:
            return None
        container = self._template.container
        asked = spec_traffic(current.get("spec"))
        names = expected_deployments(asked, self._name, container).values() if asked else ()
        workloads = {name: self._api.get(DEPLOYMENTS, name) for name in names}
        routes = self._routes()
        read = standing(current, workloads, routes, name=self._name, container=container)
        ours = []
        if owner_epoch(current) < self._epoch:
            ours.append(f"it is not yet claimed for owner epoch {self._epoch}")
        if asked is not None and not self._as_templated(current, asked):
            ours.append("a predictor is not what the template says")
        return Standing(read.asked, (*ours, *read.waiting), read.routed)

    def _as_templated(self, current: JsonObject, asked: Traffic) -> bool:
        """Whether nobody has changed a predictor, and the template is still the same."""
        try:
            wanted = deployment_spec(asked, self._template, self._locate)
        except RuleBreachError:
            return False  # ``apply`` says what is wrong with it
        return as_wanted(current.get("spec"), wanted)

    def _routes(self) -> list[JsonObject]:
        both = self._api.get(VIRTUAL_SERVICES, self._name)
        if both is not None:
            return [both]
        # Earlier operators made one for each protocol.
        names = (f"{self._name}-http", f"{self._name}-grpc")
        found = [self._api.get(VIRTUAL_SERVICES, name) for name in names]
        return [each for each in found if each is not None]

    def _read(self) -> JsonObject | None:
        current = self._api.get(SELDON_DEPLOYMENTS, self._name)
        if current is None:
            return None
        if not is_ours(current):
            raise PermanentBackendError(
                f"SeldonDeployment {self._name} exists and is not metadrift's: choose another "
                f"name, or hand it over with the label {MANAGED_BY}={US}"
            )
        if "deletionTimestamp" in as_object(current.get("metadata")):
            raise TransientBackendError(
                f"SeldonDeployment {self._name} is being deleted", retry_in_s=_DELETED_S
            )
        latest = owner_epoch(current)
        if latest > self._epoch:
            raise PermanentBackendError(
                f"SeldonDeployment {self._name} belongs to owner epoch {latest}, we are "
                f"{self._epoch}: another process owns the model now"
            )
        return current

    def _sound_spec(self, traffic: Traffic) -> JsonObject:
        try:
            spec = deployment_spec(traffic, self._template, self._locate)
            check(spec, name=self._name, container=self._template.container)
        except RuleBreachError as error:
            raise PermanentBackendError(f"SeldonDeployment {self._name}: {error}") from error
        return spec
