"""The cluster that serves beside the daemon: connection, backend, lease.

Nothing ends with this process: closing gives up the lease and the connections and leaves the split
in the cluster as it was last asked for. Pods that end again and again, or cannot start, are counted
as failures (v1); for whatever else keeps a candidate from being served there is
``rollout.longest_unserved_s``, and ``waits`` says what it waited for.
"""

import hashlib
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog

from deploy.controller import BackendError, ServingBackend, TransientBackendError
from deploy.kubernetes_api import KubernetesApi
from deploy.kubernetes_lease import LEASES, KubernetesLease
from deploy.pod_failures import PodFailures
from deploy.prometheus_api import PrometheusApi, PrometheusError
from deploy.prometheus_readings import PrometheusReadings, selector, servers_seen
from deploy.rollout_plan import Traffic
from deploy.seldon_core2 import EXPERIMENTS, MODEL_OF, MODELS, SeldonCore2Backend
from deploy.seldon_kubernetes import SELDON_DEPLOYMENTS, VIRTUAL_SERVICES, SeldonBackend
from deploy.seldon_objects import Locate, ModelArtifact, PredictorTemplate
from deploy.seldon_standing import is_ours
from pipeline.model_shelf import ModelShelf
from pipeline.records import ServerFailures
from pipeline.serving_backends import LONGEST_REASON, Kept, ServingError
from pipeline.serving_settings import KubernetesSettings
from pipeline.settings import Settings

_T = TypeVar("_T")

TURN_S = 1.0
"""Longest time between two looks, seconds; several within the shortest lease."""


class HeldLease:
    """The lease as the keeper's thread holds it, turn by turn.

    Args:
        lease: The Lease, and ``None`` where none is asked for.
        clock: Never goes back, seconds.
        wall: Time of day.
    """

    def __init__(
        self,
        lease: KubernetesLease | None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._lease, self._clock, self._wall = lease, clock, wall

    def may_act(self) -> str | None:
        """Take, renew or wait; return None, or why nothing may be changed now."""
        if self._lease is None:
            return None
        try:
            held = self._lease.hold(self._clock(), self._wall())
        except BackendError as error:
            # Until the duration is over nobody else can have it.
            return None if self._lease.held(self._clock()) else str(error)
        return None if held else "another process holds the lease: waiting for it"

    def held(self) -> bool:
        """Whether it is still ours by our own clock."""
        return self._lease is None or self._lease.held(self._clock())

    def release(self) -> None:
        """Let the next holder in at once.

        Raises:
            BackendError: The API server could not be asked; the lease runs out by itself.
        """
        if self._lease is not None:
            self._lease.release(self._wall())


class LeasedBackend:
    """A backend that changes nothing once the lease has run out between asking and writing.

    After an error that may pass it asks nothing before the time that the error names: an API server
    that is busy (429, ``Retry-After``) is left alone, though the lease is renewed meanwhile. A new
    target, such as an abort's, is tried at once, and where that goes wrong, again at the next look.

    Args:
        backend: Changes and reads.
        lease: Looked at before each change.
        clock: Never goes back, seconds.
    """

    def __init__(
        self,
        backend: ServingBackend,
        lease: HeldLease,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend, self._lease, self._clock = backend, lease, clock
        self._busy: tuple[float, str] | None = None
        self._hurried = False

    def new_target(self) -> None:
        """Forget how long to wait: that was said of another target."""
        self._busy, self._hurried = None, True

    def apply(self, traffic: Traffic) -> None:
        """Make the live split equal ``traffic``; idempotent.

        Raises:
            BackendError: It could not, or the lease is no longer ours.
        """
        if not self._lease.held():
            raise TransientBackendError("the lease ran out before the change", retry_in_s=TURN_S)
        self._patiently(lambda: self._backend.apply(traffic))

    def observed(self) -> Traffic | None:
        """Return the split that is live, as the backend does.

        Raises:
            BackendError: It could not be read.
        """
        return self._patiently(self._backend.observed)

    def _patiently(self, call: Callable[[], _T]) -> _T:
        now_s = self._clock()
        if self._busy is not None and now_s < self._busy[0]:
            raise TransientBackendError(self._busy[1], retry_in_s=self._busy[0] - now_s)
        try:
            return call()
        except TransientBackendError as error:
            wait_s = min(error.retry_in_s, TURN_S) if self._hurried else error.retry_in_s
            self._busy, self._hurried = (now_s + wait_s, str(error)), False
            if wait_s == error.retry_in_s:
                raise
            raise TransientBackendError(str(error), retry_in_s=wait_s) from error


class ToldFailures:
    """Failures of the versions' pods in the journal's words; the log says when none can be read.

    Args:
        pods: Looks at them.
    """

    def __init__(self, pods: PodFailures) -> None:
        self._pods = pods
        self._problem = ""
        self.want = pods.want

    def __call__(self) -> dict[str, ServerFailures]:
        """Return the failures by version."""
        found = self._pods()
        if self._pods.problem and self._pods.problem != self._problem:
            structlog.get_logger("serving").warning(
                "pods are not looked at: one that keeps failing is not told",
                error=self._pods.problem,
            )
        self._problem = self._pods.problem
        return {v: ServerFailures(f.count, f.reason[:LONGEST_REASON]) for v, f in found.items()}


def open_kubernetes(
    settings: Settings, shelf: ModelShelf, digests: Mapping[str, str], owner_epoch: int
) -> Kept:
    """Return the backend for the cluster that the settings name; nothing is asked of it yet.

    Args:
        settings: The configuration, ``serving.backend`` being ``kubernetes``.
        shelf: Its folders' names are those below ``serving.kubernetes.models``.
        digests: Of the versions by name; looked at when a version is to be served.
        owner_epoch: Of this owner of the state file; a lower one can change nothing any more.

    Raises:
        ServingError: There is no way to the cluster.
    """
    chosen = settings.serving.kubernetes
    api = _connect(chosen)
    lease = HeldLease(
        None
        if chosen.lease is None
        else KubernetesLease(
            api, chosen.lease, holder_of(settings.state_dir), duration_s=chosen.lease_s
        )
    )
    backend, waits = _backend(chosen, api, _locate(chosen, shelf, digests), owner_epoch)
    leased, readings = LeasedBackend(backend, lease), _readings(settings)
    pods = ToldFailures(PodFailures(api, chosen.name, chosen.container))

    def close() -> None:
        with ExitStack() as closing:
            closing.callback(api.close)
            if readings is not None:
                closing.callback(readings.close)
            try:
                lease.release()
            except BackendError as error:
                structlog.get_logger("serving").warning(
                    "the lease was not given up and runs out by itself", error=str(error)
                )

    def new_target(wanted: Traffic) -> None:
        leased.new_target()
        pods.want(wanted)
        if readings is not None:
            readings.want(wanted)

    return Kept(
        leased,
        failures=pods if chosen.dialect == "v1" else dict,
        close=close,
        may_act=lease.may_act,
        waits=waits,
        turn_s=TURN_S,
        readings=dict if readings is None else readings,
        new_target=new_target,
    )


def _readings(settings: Settings) -> PrometheusReadings | None:
    chosen = settings.serving.kubernetes
    if chosen.prometheus is None:
        return None
    api = PrometheusApi(chosen.prometheus, chosen.prometheus_token_file)
    window_s = settings.rollout.guard_window_s
    return PrometheusReadings(api, chosen.replicas, window_s, chosen.prometheus_labels)


def reach_prometheus(settings: Settings, timeout_s: float) -> tuple[int, str]:
    """Ask what a turn would ask; return how many model servers it shows, and its warnings.

    Raises:
        ServingError: Prometheus does not answer, or refuses, or shows what cannot be used.
    """
    chosen = settings.serving.kubernetes
    api = PrometheusApi(str(chosen.prometheus), chosen.prometheus_token_file, timeout_s)
    try:
        answer = api.query(selector(chosen.prometheus_labels))
        return servers_seen(answer), answer.warnings
    except PrometheusError as error:
        raise ServingError(str(error)) from error
    finally:
        api.close()


def holder_of(state_dir: Path) -> str:
    """Return who we are to others who want the lease: this host (the pod) and this state folder."""
    folder = hashlib.sha256(str(state_dir.absolute()).encode()).hexdigest()[:8]
    return f"{socket.gethostname()}_{folder}"


def reach_cluster(settings: Settings, timeout_s: float) -> str:
    """Read what a turn would read; return what was found.

    Raises:
        ServingError: The API server does not answer, or refuses; says which right is missing.
    """
    chosen = settings.serving.kubernetes
    v1 = chosen.dialect == "v1"
    what = SELDON_DEPLOYMENTS if v1 else EXPERIMENTS
    api = _connect(chosen, timeout_s)
    try:
        found = api.get(what, chosen.name)
        if v1:
            api.get(VIRTUAL_SERVICES, chosen.name)
            api.pods(f"seldon-deployment-id={chosen.name}")
        else:
            api.list(MODELS, f"{MODEL_OF}={chosen.name}")
        if chosen.lease is not None:
            api.get(LEASES, chosen.lease)
    except BackendError as error:
        raise ServingError(str(error)) from error
    finally:
        api.close()
    where = f"{what.plural} {chosen.name} in {api.namespace}"
    if found is None:
        return f"the API server answers; {where} will be made"
    if not is_ours(found):
        raise ServingError(f"{where} is not metadrift's: choose another serving.kubernetes.name")
    return f"the API server answers; {where} is there"


def _connect(chosen: KubernetesSettings, timeout_s: float = 5.0) -> KubernetesApi:
    try:
        if chosen.kubeconfig is None:
            return KubernetesApi.in_cluster(timeout_s=timeout_s)
        return KubernetesApi.from_kubeconfig(
            chosen.kubeconfig, str(chosen.namespace), context=chosen.context, timeout_s=timeout_s
        )
    except BackendError as error:
        raise ServingError(f"serving.kubernetes: {error}") from error


def _locate(chosen: KubernetesSettings, shelf: ModelShelf, digests: Mapping[str, str]) -> Locate:
    def locate(version: str) -> ModelArtifact | None:
        # What the cluster still serves may be of a version that this state never knew.
        digest = digests.get(version)
        if chosen.models is None or digest is None:
            return None
        return ModelArtifact(f"{chosen.models}/{shelf.model_folder(digest).name}", digest)

    return locate


def _backend(
    chosen: KubernetesSettings, api: KubernetesApi, locate: Locate, owner_epoch: int
) -> tuple[ServingBackend, Callable[[], str]]:
    if chosen.dialect == "core2":
        core2 = SeldonCore2Backend(
            api,
            chosen.name,
            locate=locate,
            requirements=chosen.requirements,
            owner_epoch=owner_epoch,
        )
        return core2, lambda: "the experiment or a model of it is not ready"
    template = PredictorTemplate(
        image=str(chosen.image),
        container=chosen.container,
        replicas=chosen.replicas,
        implementation=chosen.implementation,
        resources=chosen.resources,
        service_account=chosen.service_account,
    )
    seldon = SeldonBackend(api, chosen.name, template, locate=locate, owner_epoch=owner_epoch)

    def waits() -> str:
        try:
            standing = seldon.standing()
        except BackendError as error:
            return str(error)
        return "; ".join(standing.waiting) if standing is not None else "nothing is there yet"

    return seldon, waits
