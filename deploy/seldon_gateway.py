"""Scoring through a router that sees both arms: one event a request, the arm read from the answer.

A batch would be one draw of the router for all of its rows, so every event is a request of its own;
and who answered is not known beforehand, nor from the weights, only from the answer's tag
``model_version``. Nothing is repeated here: a second try would be a second draw.

Feedback does not go this way: a gateway would give it to either arm.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from deploy.controller import BackendError, PermanentBackendError, TransientBackendError

_AWAY_S = 1.0
_LONGEST_REASON = 300


class RefusedEventError(BackendError):
    """The model server cannot use this event; the message has its reason. Others may be fine."""


@dataclass(frozen=True, slots=True)
class RoutedAnswer:
    """What came back for one event.

    Attributes:
        version: Model version that answered.
        values: Probability by class, or the one value of a regression.
        latency_s: From request to answer, seconds.
    """

    version: str
    values: Mapping[str, float]
    latency_s: float


def predictions_url(address: str, namespace: str, name: str) -> str:
    """Return where a SeldonDeployment answers behind its gateway.

    >>> predictions_url("http://gateway:8003/", "models", "churn")
    'http://gateway:8003/seldon/models/churn/api/v1.0/predictions'
    """
    return f"{address.rstrip('/')}/seldon/{namespace}/{name}/api/v1.0/predictions"


class SeldonGateway:
    """Asks one router; a context manager that closes connections.

    Args:
        url: Of the predictions: ``predictions_url`` of a gateway, or the local router's
            ``http://127.0.0.1:PORT/api/v1.0/predictions``.
        timeout_s: Longest wait for one answer, seconds.
        connections: Most requests at a time; more wait for their turn within ``timeout_s``.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.0,
        connections: int = 16,
    ) -> None:
        self._url = url
        self._client = httpx.Client(
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=connections),
            follow_redirects=False,
            trust_env=False,
        )

    def predict(self, event_id: str, features: Mapping[str, object]) -> RoutedAnswer:
        """Score one event.

        Args:
            event_id: Comes back in the answer's ``puid`` and in the servers' logs.
            features: Raw values by name.

        Raises:
            RefusedEventError: The model server cannot use these features.
            TransientBackendError: No answer in time, or the servers are not well.
            PermanentBackendError: The answer is none of a metadrift model server's.
        """
        message = {"jsonData": dict(features), "meta": {"puid": event_id}}
        began = time.monotonic()
        try:
            reply = self._client.post(self._url, json=message)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise TransientBackendError(
                f"no answer from {self._url}: {reason}", retry_in_s=_AWAY_S
            ) from error
        latency_s = time.monotonic() - began
        body = _json(reply)
        if reply.status_code == 400:
            raise RefusedEventError(f"event {event_id}: {_info(body, reply)}")
        if reply.status_code >= 500 or reply.status_code in {404, 408, 429}:
            # 404: the route is made only when the pods are ready
            raise TransientBackendError(
                f"{self._url} answered {reply.status_code}: {_info(body, reply)}",
                retry_in_s=_AWAY_S,
            )
        if not reply.is_success:
            raise PermanentBackendError(
                f"{self._url} answered {reply.status_code}: {_info(body, reply)}"
            )
        return RoutedAnswer(self._version(body), self._values(body), latency_s)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _version(self, body: object) -> str:
        version = _at(body, "meta", "tags", "model_version")
        if not isinstance(version, str) or not version:
            raise PermanentBackendError(
                f"{self._url} does not say which version answered: serve the models with "
                "metadrift's model server, which tags each answer with model_version"
            )
        return version

    def _values(self, body: object) -> dict[str, float]:
        names, table = _at(body, "data", "names"), _at(body, "data", "ndarray")
        row = table[0] if isinstance(table, list) and len(table) == 1 else None
        if (
            not isinstance(names, list)
            or not isinstance(row, list)
            or len(names) != len(row)
            or not all(_is_finite(value) for value in row)
        ):
            raise PermanentBackendError(
                f"{self._url} answered no row of finite values with their names"
            )
        return {str(name): float(value) for name, value in zip(names, row, strict=True)}


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _at(body: object, *keys: str) -> object:
    for key in keys:
        body = body.get(key) if isinstance(body, dict) else None
    return body


def _json(reply: httpx.Response) -> object:
    try:
        return reply.json()
    except ValueError:
        return None


def _info(body: object, reply: httpx.Response) -> str:
    info = _at(body, "status", "info")
    return (info if isinstance(info, str) else reply.text)[:_LONGEST_REASON]
