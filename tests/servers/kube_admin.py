"""What the tests do to the API server by an administrator's hand."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

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
        self._server = server
        self._token = token
        self._context = ssl.create_default_context(cafile=str(server.authority))

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
        request = urllib.request.Request(
            self._server.address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": content_type},
        )
        try:
            with urllib.request.urlopen(request, timeout=_CALL_S, context=self._context) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            try:
                message = json.loads(text)["message"]
            except (ValueError, KeyError, TypeError):
                message = text
            raise RefusedError(error.code, str(message)) from None

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

    def patch_status(self, path: str, status: Mapping[str, object]) -> None:
        """Merge fields into an object's status."""
        self.call("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")
