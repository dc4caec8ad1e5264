"""The Kubernetes API: the one file that imports its client.

Objects come and go as JSON, by resource and name within one namespace. Every call has a timeout and
none is repeated here: whoever asks knows what a repetition would mean.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from deploy.controller import PermanentBackendError, TransientBackendError

JsonObject = dict[str, object]

_AWAY_S = 5.0
_CHANGED_S = 0.5
_TOKEN_S = 60.0
_LONGEST_MESSAGE = 500
_CONFLICTS = {409, 422}
_OBJECT_AT = re.compile(r"(?: object)? at 0x[0-9a-f]+")
_LOOPBACK = {"127.0.0.1", "[::1]", "localhost"}
_load_incluster: Callable[..., None] = config.load_incluster_config  # untyped in the client
_load_file: Callable[..., None] = config.load_kube_config  # likewise
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ConflictError(TransientBackendError):
    """The object is not what the call took it to be: read it again.

    Attributes:
        status: 404 gone; 409 exists already, or a stale write; 422 a failed test of a JSON Patch,
            or a value that is refused.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message, retry_in_s=_CHANGED_S)
        self.status = status


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object.

    Attributes:
        group: API group.
        version: Of the group.
        plural: Its name in addresses.
    """

    group: str
    version: str
    plural: str


class KubernetesApi:
    """Calls within one namespace; a context manager that closes its connections.

    Args:
        configuration: Where the API server is and who we are.
        namespace: Where the objects live.
        timeout_s: Longest wait for one call, seconds.

    Raises:
        PermanentBackendError: The address would carry the token over a network in the clear.
    """

    def __init__(
        self, configuration: client.Configuration, namespace: str, *, timeout_s: float = 5.0
    ) -> None:
        address = urllib3.util.parse_url(configuration.host)
        if address.scheme != "https" and address.host not in _LOOPBACK:
            raise PermanentBackendError(
                f"{configuration.host} would carry our token in the clear: use https"
            )
        # urllib3 would repeat a lost GET, follow redirects with our token, and take a minute.
        configuration.retries = False
        self.namespace = namespace
        self._timeout_s = timeout_s
        self._client = client.ApiClient(configuration)
        self._client.user_agent = "metadrift"
        self._objects = client.CustomObjectsApi(self._client)

    @classmethod
    def in_cluster(cls, *, timeout_s: float = 5.0) -> Self:
        """Connect from within a pod, as its service account, in its own namespace.

        Raises:
            PermanentBackendError: This is no pod.
        """
        configuration = client.Configuration()
        try:
            _load_incluster(client_configuration=configuration)
            namespace = _NAMESPACE_FILE.read_text().strip()
        except (config.ConfigException, OSError) as error:
            raise PermanentBackendError(
                f"no service account to reach Kubernetes with ({error}): run in a pod, or name a "
                "kubeconfig file"
            ) from error
        return cls(configuration, namespace, timeout_s=timeout_s)

    @classmethod
    def from_kubeconfig(
        cls, path: Path, namespace: str, *, context: str | None = None, timeout_s: float = 5.0
    ) -> Self:
        """Connect as a kubeconfig file says.

        Raises:
            PermanentBackendError: The file cannot be used.
        """
        configuration = client.Configuration()
        try:
            _load_file(str(path), context, client_configuration=configuration)
        except (config.ConfigException, OSError, yaml.YAMLError) as error:
            raise PermanentBackendError(f"kubeconfig {path} cannot be used: {error}") from error
        return cls(configuration, namespace, timeout_s=timeout_s)

    @classmethod
    def with_token(
        cls,
        address: str,
        token: str,
        namespace: str,
        *,
        authority: Path | None = None,
        timeout_s: float = 5.0,
    ) -> Self:
        """Connect to an address with a bearer token; ``authority`` holds the CA's certificate."""
        configuration = client.Configuration(
            host=address,
            api_key={"BearerToken": f"Bearer {token}"},
            ssl_ca_cert=None if authority is None else str(authority),
        )
        return cls(configuration, namespace, timeout_s=timeout_s)

    def get(self, resource: Resource, name: str) -> JsonObject | None:
        """Return an object, None where it does not exist.

        Raises:
            BackendError: It could not be read.
        """
        with _calling(f"read {resource.plural} {name}"):
            try:
                return _json(
                    self._objects.get_namespaced_custom_object(
                        *self._place(resource), name, _request_timeout=self._timeout_s
                    )
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise

    def list(self, resource: Resource, label_selector: str) -> Sequence[JsonObject]:
        """Return the objects with a label.

        Raises:
            BackendError: They could not be read.
        """
        with _calling(f"list {resource.plural}"):
            found = _json(
                self._objects.list_namespaced_custom_object(
                    *self._place(resource),
                    label_selector=label_selector,
                    _request_timeout=self._timeout_s,
                )
            )
        items = found.get("items")
        return [_json(each) for each in items] if isinstance(items, list) else []

    def pods(self, label_selector: str) -> Sequence[JsonObject]:
        """Return the pods with these labels, 500 at most.

        Raises:
            BackendError: They could not be read.
        """
        with _calling("list pods"):
            found = client.CoreV1Api(self._client).list_namespaced_pod(
                self.namespace,
                label_selector=label_selector,
                limit=500,
                _request_timeout=self._timeout_s,
            )
            plain: Callable[[object], object] = self._client.sanitize_for_serialization  # untyped
            items = _json(plain(found)).get("items")
        return [_json(each) for each in items] if isinstance(items, list) else []

    def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Make an object, with every field known to the server or none at all.

        Raises:
            ConflictError: It exists already, or a value is refused.
            BackendError: It could not be made.
        """
        with _calling(f"create a {resource.plural} object"):
            return _json(
                self._objects.create_namespaced_custom_object(
                    *self._place(resource),
                    body,
                    field_validation="Strict",
                    _request_timeout=self._timeout_s,
                )
            )

    def patch(self, resource: Resource, name: str, operations: Sequence[JsonObject]) -> JsonObject:
        """Change an object by a JSON Patch (RFC 6902): all of its operations or none.

        Raises:
            ConflictError: A ``test`` failed, the object is gone, or a value is refused.
            BackendError: It could not be changed.
        """
        with _calling(f"change {resource.plural} {name}"):
            try:
                return _json(
                    self._objects.patch_namespaced_custom_object(
                        *self._place(resource),
                        name,
                        [*operations],
                        field_validation="Strict",
                        # Lists are replaced whole by a merge patch, and strategic merge is
                        # refused for custom resources.
                        _content_type="application/json-patch+json",
                        _request_timeout=self._timeout_s,
                    )
                )
            except ApiException as error:
                if error.status == 404:
                    raise ConflictError(f"{resource.plural} {name} is gone", status=404) from error
                raise

    def delete(self, resource: Resource, name: str) -> None:
        """Remove an object; harmless where it does not exist.

        Raises:
            BackendError: It could not be removed.
        """
        with _calling(f"delete {resource.plural} {name}"):
            try:
                self._objects.delete_namespaced_custom_object(
                    *self._place(resource), name, _request_timeout=self._timeout_s
                )
            except ApiException as error:
                if error.status != 404:
                    raise

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _place(self, resource: Resource) -> tuple[str, str, str, str]:
        return resource.group, resource.version, self.namespace, resource.plural


@contextlib.contextmanager
def _calling(what: str) -> Iterator[None]:
    """Turn what the client raises into the backends' errors."""
    try:
        yield
    except ApiException as error:
        status = int(error.status or 0)
        message = f"Kubernetes could not {what}: {_reason(error)}"
        if status in _CONFLICTS:
            raise ConflictError(message, status=status) from error
        if status == 401:  # tokens rotate; the next one may do
            raise TransientBackendError(message, retry_in_s=_TOKEN_S) from error
        if status in {0, 408, 429} or status >= 500:
            raise TransientBackendError(message, retry_in_s=_retry_after(error)) from error
        raise PermanentBackendError(message) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        # The same trouble reads the same, so that it is told once.
        said = _OBJECT_AT.sub("", str(error))[:_LONGEST_MESSAGE]
        message = f"Kubernetes could not {what}: {said}"
        raise TransientBackendError(message, retry_in_s=_AWAY_S) from error


def _reason(error: ApiException) -> str:
    text = error.body if isinstance(error.body, str) else ""
    with contextlib.suppress(ValueError):
        answer = json.loads(text)
        if isinstance(answer, dict) and isinstance(answer.get("message"), str):
            text = answer["message"]
    return f"{error.status} {text or error.reason}"[:_LONGEST_MESSAGE]


def _retry_after(error: ApiException) -> float:
    wanted = (error.headers or {}).get("Retry-After", "")
    return min(float(wanted), _TOKEN_S) if str(wanted).isdecimal() else _AWAY_S


def _json(answer: object) -> JsonObject:
    if not isinstance(answer, dict):
        raise TransientBackendError("Kubernetes answered no object", retry_in_s=_AWAY_S)
    return answer
