"""Readings of the model servers in a cluster: their own counters, as Prometheus has scraped them.

What is asked for are the counters themselves, not ``increase()``: that extrapolates to the window's
ends, so its requests are no counts, and it leaves out what a server counted before it was first
scraped. Here each server's counters are followed by themselves: one that fell has restarted, and
one that appears has begun, so that all of it is new. What a server counted between its last scrape
and its end nobody knows.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence

from deploy.guards import GuardReading
from deploy.prometheus_api import Answer, PrometheusApi, PrometheusError, Sample
from deploy.rollout_plan import Traffic
from deploy.server_counts import RecentCounts, ServerCounts

EVERY_S = 5.0
"""Least time between two looks, seconds."""
AWAY_S = 15.0
"""The same after one that found nothing: each may cost the caller the time-out."""
REQUESTS = "metadrift_serving_requests_total"
BUCKETS = "metadrift_serving_answer_seconds_bucket"
VERSION = "model_version"
_MOST_SERVERS = 1000
_OF_COUNTERS = ("__name__", "outcome", "le")

Counters = dict[tuple[str, str], int]
"""Values by ``("outcome", its name)`` and ``("le", upper bound)``."""
Server = frozenset[tuple[str, str]]
"""The labels that tell one server from another."""


class PrometheusReadings:
    """Says, while two versions are wanted, how their servers do; called by the keeper's thread.

    Args:
        api: Where to ask.
        servers: Of each version; where fewer are seen, they do not vouch for the others.
        window_s: How far back a reading reaches, seconds.
        labels: Further labels of the servers' series, such as their namespace.
        clock: Seconds that only rise.
    """

    def __init__(
        self,
        api: PrometheusApi,
        servers: int,
        window_s: float,
        labels: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._servers, self._window_s = api, servers, window_s
        self._labels, self._clock = labels, clock
        self._versions: tuple[str, ...] = ()
        self._followed: dict[str, _Followed] = {}
        self._not_before_s = 0.0
        self._told: dict[str, GuardReading] = {}

    def want(self, traffic: Traffic) -> None:
        """Read the versions of this split from now on; what is known of them stays."""
        pair = () if traffic.candidate is None else (traffic.stable, traffic.candidate)
        if set(pair) != set(self._versions):
            self._versions, self._not_before_s, self._told = pair, 0.0, {}
            self._followed = {v: _Followed(self._window_s) for v in pair}

    def __call__(self) -> dict[str, GuardReading]:
        """Return the readings by version, none with a single one."""
        now_s = self._clock()
        if self._versions and now_s >= self._not_before_s:
            self._told = self._look(now_s)
        return self._told

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _look(self, now_s: float) -> dict[str, GuardReading]:
        self._not_before_s = now_s + EVERY_S
        try:
            answer = self._api.query(selector(self._labels, self._versions))
            found = _by_server(answer)
        except PrometheusError as error:
            self._not_before_s = self._clock() + AWAY_S
            return dict.fromkeys(self._versions, GuardReading(problem=str(error)))
        return {
            version: self._reading(version, found, answer.warnings, now_s)
            for version in self._versions
        }

    def _reading(
        self, version: str, found: Mapping[Server, Counters], warnings: str, now_s: float
    ) -> GuardReading:
        own = {server: c for server, c in found.items() if (VERSION, version) in server}
        followed = self._followed[version]
        followed.add(own, now_s)
        problem = None
        if len(own) < self._servers:
            problem = f"Prometheus shows {len(own)} of {self._servers} servers of {version}"
        elif warnings:
            problem = f"Prometheus warns: {warnings}"
        # What those that are seen have done counts all the same: it may be enough to fail.
        seen = followed.recent.reading()
        return GuardReading(seen.requests, seen.errors, seen.latency_ms, problem)


class _Followed:
    """The servers of one version, added up over restarts."""

    def __init__(self, window_s: float) -> None:
        self.recent = RecentCounts(window_s)
        self._servers: dict[Server, Counters] = {}
        self._sums: Counters = {}

    def add(self, seen: Mapping[Server, Counters], now_s: float) -> None:
        """Add what rose; the window begins with the first look, so what was before is left out."""
        before = self._servers
        for server, now in seen.items():
            old = before.get(server, {})
            if any(now.get(key, 0) < value for key, value in old.items()):
                old = {}
            for key, value in now.items():
                self._sums[key] = self._sums.get(key, 0) + value - old.get(key, 0)
        # One that is not seen now may come back with what it had.
        gone = [server for server in before if server not in seen]
        kept = gone[max(0, len(gone) - _MOST_SERVERS) :]
        self._servers = {**{server: before[server] for server in kept}, **seen}
        self.recent.add(now_s, _counts(self._sums))


def selector(labels: Mapping[str, str], versions: Sequence[str] = ()) -> str:
    """Return the query for both metrics, which are then of one moment; no versions: of all.

    >>> selector({"namespace": "models"}, ["1-a", "2-b"]).partition(",")[2]
    'namespace="models",model_version=~"1-a|2-b"}'
    """
    parts = [f'__name__=~"{REQUESTS}|{BUCKETS}"']
    parts += [f"{name}={_quoted(value)}" for name, value in sorted(labels.items())]
    if versions:
        parts.append(f"{VERSION}=~{_quoted('|'.join(map(_literally, versions)))}")
    return f"{{{','.join(parts)}}}"


def servers_seen(answer: Answer) -> int:
    """Return how many model servers an answer to ``selector`` shows.

    Raises:
        PrometheusError: One has counters that cannot be used.
    """
    return len(_by_server(answer))


def _literally(version: str) -> str:
    return re.sub(r"([^\w-])", r"\\\1", version)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _by_server(answer: Answer) -> dict[Server, Counters]:
    found: dict[Server, Counters] = {}
    for sample in answer.samples:
        server = frozenset((k, v) for k, v in sample.labels.items() if k not in _OF_COUNTERS)
        counters = found.setdefault(server, {})
        key = _counter(sample)
        if key in counters:
            raise PrometheusError(
                f"Prometheus shows one counter twice: {dict(sample.labels)}"[:300]
            )
        counters[key] = int(sample.value)
    # Without a request every outcome is there, too: a server without them is of another program.
    return {server: counters for server, counters in found.items() if ("outcome", "ok") in counters}


def _counter(sample: Sample) -> tuple[str, str]:
    label = "le" if sample.labels.get("__name__") == BUCKETS else "outcome"
    text = sample.labels.get(label, "")
    try:
        usable = sample.value >= 0 and (label == "outcome" or float(text) > 0)
    except ValueError:
        usable = False
    if not text or not usable:
        raise PrometheusError(f"Prometheus shows an odd counter: {dict(sample.labels)}"[:300])
    return label, text


def _counts(sums: Mapping[tuple[str, str], int]) -> ServerCounts:
    outcomes = {name: n for (label, name), n in sums.items() if label == "outcome"}
    reached = sorted((float(name), n) for (label, name), n in sums.items() if label == "le")
    answers, before = [], 0
    for bound, upto in reached:
        answers.append((bound, max(0, upto - before)))
        before = max(before, upto)
    return ServerCounts(sum(outcomes.values()), outcomes.get("failed", 0), tuple(answers))
