"""Pods that do not come up or do not stay up: counted from what the kubelet says of containers."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from deploy.controller import BackendError, TransientBackendError
from deploy.kubernetes_api import KubernetesApi
from deploy.rollout_plan import Traffic
from deploy.seldon_kubernetes import DEPLOYMENTS
from deploy.seldon_objects import JsonObject, as_object
from deploy.seldon_rules import deployment_name

EVERY_S = 5.0
"""Least time between two looks, seconds."""
CALM_S = 600.0
"""A container that has run for so long does not keep failing; the kubelet thinks so, too."""
STUCK_S = 60.0
"""A container that cannot start has failed once, and once more whenever this has passed."""
CANNOT_START = frozenset(
    {
        *("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"),
        *("ImageInspectError", "RegistryUnavailable", "RunContainerError"),
        *("CreateContainerConfigError", "CreateContainerError"),
    }
)
_SAME = {"ErrImagePull": "ImagePullBackOff"}  # they take turns


@dataclass(frozen=True, slots=True)
class PodFailure:
    """How often the worst container of a version has failed lately, and how.

    Attributes:
        count: Restarts, or minutes in which it could not start.
        reason: In words that stay the same while the trouble does.
    """

    count: int
    reason: str


class PodFailures:
    """Looks at the pods of the versions that are wanted; called by the keeper's thread.

    Args:
        api: Calls within the namespace of the SeldonDeployment.
        name: Of the SeldonDeployment.
        container: Of the model server; names the Deployments, too.
        clock: Seconds that only rise.
        wall: Time of day.

    Attributes:
        problem: Why the pods could not be looked at the last time; "" if they could.
    """

    def __init__(
        self,
        api: KubernetesApi,
        name: str,
        container: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._name, self._container = api, name, container
        self._clock, self._wall = clock, wall
        self._versions: tuple[str, ...] = ()
        self._stuck_since: dict[tuple[str, str], float] = {}
        self._not_before_s = 0.0
        self._told: dict[str, PodFailure] = {}
        self.problem = ""

    def want(self, traffic: Traffic) -> None:
        """Look at the versions of this split from now on."""
        self._versions = tuple(v for v in (traffic.stable, traffic.candidate) if v is not None)
        self._told = {v: failure for v, failure in self._told.items() if v in self._versions}
        self._not_before_s = 0.0

    def __call__(self) -> dict[str, PodFailure]:
        """Return the failures by version; what was seen last where nothing can be read."""
        now_s = self._clock()
        if now_s < self._not_before_s:
            return self._told
        self._not_before_s = now_s + EVERY_S
        try:
            pods = {version: self._pods(version) for version in self._versions}
        except BackendError as error:
            self.problem = str(error)
            if isinstance(error, TransientBackendError):
                self._not_before_s = now_s + max(EVERY_S, error.retry_in_s)
            return self._told
        self.problem = ""
        before, self._stuck_since = self._stuck_since, {}
        worst = {v: self._worst(found, now_s, before) for v, found in pods.items()}
        self._told = {version: failure for version, failure in worst.items() if failure}
        return self._told

    def _pods(self, version: str) -> Sequence[JsonObject]:
        workload = self._api.get(DEPLOYMENTS, deployment_name(self._name, version, self._container))
        labels = as_object(
            as_object(as_object((workload or {}).get("spec")).get("selector")).get("matchLabels")
        )
        if not labels:
            return ()
        return self._api.pods(",".join(f"{key}={value}" for key, value in labels.items()))

    def _worst(
        self,
        pods: Sequence[JsonObject],
        now_s: float,
        stuck_since: Mapping[tuple[str, str], float],
    ) -> PodFailure | None:
        found = []
        for pod in pods:
            metadata = as_object(pod.get("metadata"))
            if metadata.get("deletionTimestamp") is not None:
                continue
            for status in _containers(pod):
                key = (str(metadata.get("uid")), str(status.get("name")))
                reason = as_object(as_object(status.get("state")).get("waiting")).get("reason")
                if reason in CANNOT_START:
                    since = self._stuck_since[key] = stuck_since.get(key, now_s)
                    found.append(_cannot_start(status, str(reason), now_s - since))
                elif (failure := _restarts(status, self._wall())) is not None:
                    found.append(failure)
        return max(found, key=lambda failure: failure.count, default=None)


def _containers(pod: JsonObject) -> Iterator[JsonObject]:
    status = as_object(pod.get("status"))
    for key in ("initContainerStatuses", "containerStatuses"):
        listed = status.get(key)
        yield from map(as_object, listed if isinstance(listed, list) else [])


def _cannot_start(status: JsonObject, reason: str, for_s: float) -> PodFailure:
    what = f"container {status.get('name')} cannot start: {_SAME.get(reason, reason)}"
    return PodFailure(1 + int(for_s / STUCK_S), f"{what}, image {status.get('image')}")


def _restarts(status: JsonObject, now: datetime) -> PodFailure | None:
    """Return how often a container ended, unless that is long past."""
    count = status.get("restartCount")
    if not isinstance(count, int) or count < 1:
        return None
    state, last = as_object(status.get("state")), as_object(status.get("lastState"))
    began = as_object(state.get("running")).get("startedAt")
    if isinstance(began, str):
        ran_s = (now - datetime.fromisoformat(began)).total_seconds()
        if status.get("ready") is True and ran_s >= CALM_S:
            return None
    end = as_object(state.get("terminated")) or as_object(last.get("terminated"))
    how = f"exit code {end.get('exitCode', 'unknown')}, {end.get('reason', 'no reason')}"
    return PodFailure(count, f"container {status.get('name')} ends again and again: {how}")
