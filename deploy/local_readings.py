"""Readings of the local backend's model servers: tries from HAProxy, latency from the server."""

import time
from collections.abc import Callable

from deploy.guards import GuardReading
from deploy.haproxy_socket import HaproxyError, ServerTries
from deploy.loopback import get
from deploy.seldon_local import LocalBackend
from deploy.seldon_process import SeldonProcess
from deploy.server_counts import RecentCounts, ServerCounts

EVERY_S = 2.0
"""Least time between two looks, seconds."""
_PAGE_S = 2.0
_BUCKET = "metadrift_serving_answer_seconds_bucket{"
_LONGEST_PROBLEM = 300


class LocalReadings:
    """Says, while two versions are served, how their servers do; called by the backend's thread.

    HAProxy sees what a server cannot count itself: connections refused, answers that never came.
    A try that failed counts although another server answered the request in the end.

    Args:
        backend: Whose servers they are.
        window_s: How far back a reading reaches, seconds.
        clock: Seconds that only rise.
    """

    def __init__(
        self,
        backend: LocalBackend,
        window_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend, self._window_s, self._clock = backend, window_s, clock
        self._recent: dict[tuple[str, str], RecentCounts] = {}
        self._looked_s = -EVERY_S
        self._told: dict[str, GuardReading] = {}

    def __call__(self) -> dict[str, GuardReading]:
        """Return the readings by version, at most ``EVERY_S`` old; none with a single version."""
        processes, now_s = self._backend.processes(), self._clock()
        if len(processes) < 2:
            self._recent.clear()
            self._told = {}
        elif now_s - self._looked_s >= EVERY_S:
            self._looked_s = now_s
            self._told = self._look(processes, now_s)
        return self._told

    def _look(self, processes: dict[str, SeldonProcess], now_s: float) -> dict[str, GuardReading]:
        router = self._backend.router
        try:
            routes, tries = router.routes(), router.tries()
        except HaproxyError as error:
            problem = GuardReading(problem=str(error)[:_LONGEST_PROBLEM])
            return dict.fromkeys(processes, problem)
        ports = {} if routes is None else {routes.stable: "stable", routes.candidate: "candidate"}
        found, windows = {}, {}
        for version, process in processes.items():
            arm = ports.get(process.port)
            if arm is None:
                found[version] = GuardReading(problem=f"no request is routed to {version}")
                continue
            window = self._recent.get((version, arm)) or RecentCounts(self._window_s)
            windows[version, arm] = window
            found[version] = _read(process, tries[arm], window, now_s)
        self._recent = windows
        return found


def _read(
    process: SeldonProcess, tries: ServerTries, window: RecentCounts, now_s: float
) -> GuardReading:
    try:
        status, page = get(process.metrics_port, "/metrics", _PAGE_S)
        if status != 200:
            raise ValueError(f"it answered {status}")
        answers = _buckets(page.decode(errors="replace"))
    except (OSError, ValueError) as error:
        # A server that does not answer here may not answer there: its failed tries still count.
        answers = ()
        if not process.alive:
            return GuardReading(problem=f"the server of {process.version} has ended: {error}"[:300])
    window.add(now_s, ServerCounts(tries.done, tries.done - tries.answered, answers))
    return window.reading()


def _buckets(page: str) -> tuple[tuple[float, int], ...]:
    """Return the histogram of a metrics page, bucket by bucket instead of cumulated."""
    found, before = [], 0
    for line in page.splitlines():
        if line.startswith(_BUCKET):
            bound = line.partition('le="')[2].partition('"')[0]
            upto = int(float(line.rpartition(" ")[2]))
            found.append((float(bound), upto - before))
            before = upto
    return tuple(found)
