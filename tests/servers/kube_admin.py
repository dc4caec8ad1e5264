"""What the tests do to the API server by an administrator's hand."""

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from tests.servers.kube_api_server import ADMIN, KubeApiServer

_CALL_S = 60.0


class RefusedError(Exception):
    """The API server answered with an error; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


class KubeAdmin:
    """JSON in, JSON out, by path; a token of one's own makes it somebody else than the admin."""

    def __init__(self, server: KubeApiServer, token: str = ADMIN) -> None:
        self._client = httpx.Client(
            base_url=server.address,
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=str(server.authority)),
            timeout=_CALL_S,
            trust_env=False,
        )

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
    ) -> Any:
        """Send a call and return the answer.

        Raises:
            RefusedError: The server said no.
        """
        kind = {"Content-Type": content_type}
        reply = self._client.request(method, path, json=body, headers=kind)
        if reply.is_success:
            return reply.json()
        try:
            message = reply.json()["message"]
        except (ValueError, KeyError, TypeError):
            message = reply.text
        raise RefusedError(reply.status_code, str(message))

    def find(self, path: str) -> Any | None:
        """Return the object at a path, None where there is none."""
        try:
            return self.call("GET", path)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def make_namespace(self, name: str) -> None:
        """Make a namespace."""
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    def token_of(self, namespace: str, account: str) -> str:
        """Return a fresh token of a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        answer = self.call("POST", path, {"spec": {"expirationSeconds": 3600}})
        return str(answer["status"]["token"])

    def merge(self, path: str, change: Mapping[str, object]) -> Any:
        """Merge fields into an object (RFC 7386); None removes one."""
        return self.call("PATCH", path, change, "application/merge-patch+json")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()
