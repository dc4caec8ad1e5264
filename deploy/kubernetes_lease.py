"""A Kubernetes Lease beside the state file's ``owner_epoch``: one replica acts in the cluster.

The state file decides who owns a model. The lease keeps a second replica, which cannot see that
file while the volume is elsewhere, from acting meanwhile. It is Kubernetes' own leader election:
the holder renews; another takes over only when the record has not changed for the whole duration
by its *own* clock, so clocks need not agree. Every write tests that nothing has changed since the
read, so of two that try at once one loses.

The reads and writes are made by ``hold``, as often as the caller likes; time is an argument.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from deploy.controller import PermanentBackendError, TransientBackendError
from deploy.kubernetes_api import ConflictError, KubernetesApi, Resource
from deploy.seldon_objects import JsonObject, as_object

LEASES = Resource("coordination.k8s.io", "v1", "leases")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A record as it was first seen.

    Attributes:
        version: ``resourceVersion`` of the lease.
        at_s: Our clock when we saw it first, seconds.
    """

    version: str
    at_s: float


class KubernetesLease:
    """Holds, or waits for, one Lease.

    Args:
        api: Calls within the lease's namespace.
        name: Of the lease.
        holder: Who we are; unique among the replicas (the pod's name).
        duration_s: How long a record that does not change keeps others out, whole seconds.
    """

    def __init__(self, api: KubernetesApi, name: str, holder: str, *, duration_s: int = 15) -> None:
        if duration_s < 1:
            raise ValueError(f"duration_s must be >= 1, got {duration_s}")
        self._api = api
        self._name = name
        self._holder = holder
        self._duration_s = duration_s
        self._seen: _Seen | None = None
        self._renewed_s: float | None = None

    def hold(self, now_s: float, wall: datetime) -> bool:
        """Take, renew or wait for the lease; return whether it is ours.

        Call it several times within ``duration_s``. A failed call leaves what ``held`` says to the
        clock: until the duration is over nobody else can have it.

        Args:
            now_s: A clock that never goes back, seconds.
            wall: Time of day, for people who read the lease; it must move on between calls, since a
                renewal that changes nothing is none.

        Raises:
            BackendError: The API server could not be asked, or refuses the record.
        """
        current = self._api.get(LEASES, self._name)
        try:
            if current is None:
                spec = self._record(wall, transitions=0)
                self._api.create(LEASES, self._body(spec))
            else:
                operations = self._claim(current, now_s, wall)
                if operations is None:
                    self._renewed_s = None
                    return False
                self._api.patch(LEASES, self._name, operations)
        except ConflictError as error:
            if current is None and error.status == 422:
                raise PermanentBackendError(str(error)) from error
            if current is None or error.status == 404 or _holder(current) != self._holder:
                self._renewed_s = None  # another was quicker, or can be
            # A record of ours that somebody touched is still ours until the duration is over.
            return self.held(now_s)
        self._renewed_s = now_s
        return True

    def held(self, now_s: float) -> bool:
        """Whether the lease is still ours by our own clock, without asking."""
        return self._renewed_s is not None and now_s - self._renewed_s < self._duration_s

    def release(self, wall: datetime) -> None:
        """Give the lease up, so that the next holder need not wait; harmless if it is not ours.

        Raises:
            BackendError: The API server could not be asked.
        """
        self._renewed_s = None
        current = self._api.get(LEASES, self._name)
        if current is None or _holder(current) != self._holder:
            return
        spec = {**as_object(current.get("spec")), "holderIdentity": "", "renewTime": _time(wall)}
        try:
            self._api.patch(LEASES, self._name, self._replace(current, spec))
        except ConflictError as error:
            raise TransientBackendError(str(error), retry_in_s=error.retry_in_s) from error

    def _claim(self, current: JsonObject, now_s: float, wall: datetime) -> list[JsonObject] | None:
        spec, version = as_object(current.get("spec")), _version(current)
        holder = _holder(current)
        transitions = spec.get("leaseTransitions")
        count = transitions if isinstance(transitions, int) else 0
        if holder == self._holder:
            # A restart under the same name does not count as a change of hands. The duration may be
            # another since: others wait as long as is written, and we believe in our own.
            renewed = {"renewTime": _time(wall), "leaseDurationSeconds": self._duration_s}
            return self._replace(current, {**spec, **renewed})
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(version, now_s)
        written = spec.get("leaseDurationSeconds")
        duration = written if isinstance(written, int) else self._duration_s
        if holder and now_s - self._seen.at_s < duration:
            return None
        return self._replace(current, self._record(wall, transitions=count + 1))

    def _record(self, wall: datetime, *, transitions: int) -> JsonObject:
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": self._duration_s,
            "acquireTime": _time(wall),
            "renewTime": _time(wall),
            "leaseTransitions": transitions,
        }

    def _body(self, spec: JsonObject) -> JsonObject:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name},
            "spec": spec,
        }

    def _replace(self, current: JsonObject, spec: JsonObject) -> list[JsonObject]:
        return [
            {"op": "test", "path": "/metadata/resourceVersion", "value": _version(current)},
            {"op": "add", "path": "/spec", "value": spec},
        ]


def _holder(current: JsonObject) -> str:
    return str(as_object(current.get("spec")).get("holderIdentity") or "")


def _version(current: JsonObject) -> str:
    return str(as_object(current.get("metadata")).get("resourceVersion"))


def _time(wall: datetime) -> str:
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
