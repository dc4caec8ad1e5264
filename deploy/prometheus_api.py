"""Prometheus' HTTP API: one instant query at a time, bounded in time and size."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_MOST_BYTES = 4 * 2**20
_LONGEST_REASON = 200


class PrometheusError(Exception):
    """There is no answer that can be used; says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The newest value of one series.

    Attributes:
        labels: Its labels, ``__name__`` among them.
        value: Finite.
    """

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What an instant query found.

    Attributes:
        samples: One for each series.
        warnings: What Prometheus itself says may be missing or wrong; "" for nothing.
    """

    samples: tuple[Sample, ...]
    warnings: str = ""


def check_address(url: str, token_file: Path | None) -> None:
    """Look whether an address may be asked.

    Raises:
        ValueError: It is no http address, holds a password, or would carry the token in the clear.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"prometheus is {url!r}: write http:// or https://, host, port and path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("prometheus holds a user or a password: use prometheus_token_file")
    if token_file is not None and parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError(f"prometheus {url!r} would carry the token in the clear: use https")


class PrometheusApi:
    """Asks one server.

    Args:
        url: Its address without ``/api/v1``; see ``check_address``.
        token_file: Holds a bearer token, read anew for each question; None: none is sent.
        timeout_s: Longest wait for a connection and for each part of an answer, and after which an
            answer that still comes is given up, seconds.
    """

    def __init__(self, url: str, token_file: Path | None = None, timeout_s: float = 2.0) -> None:
        check_address(url, token_file)
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._token_file, self._timeout_s = token_file, timeout_s
        # It is asked once in some seconds: a connection kept meanwhile is closed by the other side.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(
            timeout=timeout_s, limits=limits, follow_redirects=False, trust_env=False
        )

    def query(self, promql: str) -> Answer:
        """Return the vector that a query has now.

        Raises:
            PrometheusError: No answer in time, an error, or none that is a vector of finite values.
        """
        status, body = self._get(promql)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise PrometheusError(f"Prometheus answered {status} and no JSON") from None
        if not isinstance(answer, dict) or answer.get("status") != "success" or status != 200:
            said = answer.get("error") if isinstance(answer, dict) else None
            raise PrometheusError(f"Prometheus answered {status}: {said or 'no success'}"[:300])
        data, warned = answer.get("data"), answer.get("warnings")
        if not isinstance(data, dict) or data.get("resultType") != "vector":
            raise PrometheusError("Prometheus answered no vector")
        result = data.get("result")
        if not isinstance(result, list):
            raise PrometheusError("Prometheus answered no vector")
        listed = warned if isinstance(warned, list) else []
        words = "; ".join(map(str, listed))[:_LONGEST_REASON]
        return Answer(tuple(_sample(each) for each in result), words)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _get(self, promql: str) -> tuple[int, bytes]:
        began, body = time.monotonic(), bytearray()
        try:
            headers = self._headers()
            with self._client.stream(
                "GET", self._url, params={"query": promql}, headers=headers
            ) as reply:
                for part in reply.iter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise PrometheusError(f"Prometheus answered over {_MOST_BYTES} bytes")
                    if time.monotonic() - began > self._timeout_s:
                        raise PrometheusError(
                            f"Prometheus was not done answering after {self._timeout_s:g} s"
                        )
                return reply.status_code, bytes(body)
        except (httpx.HTTPError, OSError) as error:
            # ``OSError``: the token's file.
            reason = str(error) or type(error).__name__
            raise PrometheusError(f"Prometheus does not answer: {reason}"[:300]) from error

    def _headers(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        token = self._token_file.read_text(encoding="ascii", errors="replace").strip()
        if not token.isprintable() or not token.isascii() or not token:
            raise PrometheusError(f"{self._token_file} holds no token: write one line of text")
        return {"Authorization": f"Bearer {token}"}


def _sample(found: object) -> Sample:
    labels = found.get("metric") if isinstance(found, dict) else None
    pair = found.get("value") if isinstance(found, dict) else None
    text = pair[1] if isinstance(pair, list) and len(pair) == 2 else None
    try:
        value = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        value = math.nan
    if not isinstance(labels, dict) or not math.isfinite(value):
        raise PrometheusError(f"Prometheus answered a sample that is no number: {found!r:.150}")
    return Sample({str(name): str(text) for name, text in labels.items()}, value)
