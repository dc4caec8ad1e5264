"""What was counted of a model server lately, from counters that only rise: errors and latency."""

from collections import deque
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from deploy.guards import GuardReading

QUANTILE = 0.95


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """Counters of one version's server at one moment, each since some start.

    Attributes:
        requests: That the router gave it and that are over, each try by itself.
        errors: Of them, those without a proper answer; what the client sent wrongly is none.
        answers: By upper bound in seconds, rising: answers that took at most that long and longer
            than the bound before; the last bound may be infinite. Empty: not measured.
    """

    requests: int
    errors: int
    answers: tuple[tuple[float, int], ...] = ()


class RecentCounts:
    """A sliding window over the counters of one server.

    Args:
        window_s: How far back it reaches, seconds.

    >>> recent = RecentCounts(60.0)
    >>> recent.add(0.0, ServerCounts(100, 7, ((0.1, 90), (0.2, 3))))
    >>> recent.add(30.0, ServerCounts(140, 9, ((0.1, 110), (0.2, 21))))
    >>> reading = recent.reading()
    >>> reading.requests, reading.errors, round(reading.latency_ms)
    (40, 2, 189)
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, ServerCounts]] = deque()

    def add(self, now_s: float, counts: ServerCounts) -> None:
        """Take what was counted; counters that fell begin anew, as after a restart.

        Answers that were not measured this time stand as they did: compared with nothing, the next
        ones would bring their whole past into the window.
        """
        if self._seen and not counts.answers:
            counts = replace(counts, answers=self._seen[-1][1].answers)
        if self._seen and not _follows(self._seen[-1][1], counts):
            self._seen.clear()
        self._seen.append((now_s, counts))
        # The newest one outside stays: the window begins there.
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - self._window_s:
            self._seen.popleft()

    def reading(self) -> GuardReading:
        """Return what was counted within the window."""
        if not self._seen:
            return GuardReading()
        (_, before), (_, now) = self._seen[0], self._seen[-1]
        old = dict(before.answers)
        fresh = [(bound, count - old.get(bound, 0)) for bound, count in now.answers]
        requests = now.requests - before.requests
        errors = min(requests, now.errors - before.errors)
        return GuardReading(requests, max(0, errors), _quantile_ms(fresh))


def _follows(before: ServerCounts, now: ServerCounts) -> bool:
    old = dict(before.answers)
    return now.requests >= before.requests and all(n >= old.get(b, 0) for b, n in now.answers)


def _quantile_ms(answers: list[tuple[float, int]]) -> float | None:
    """Return the 95th percentile, linear within its bucket, as Prometheus' histogram_quantile."""
    total = sum(count for _, count in answers)
    if not total:
        return None
    rank = QUANTILE * total
    bounds = [0.0, *(bound for bound, _ in answers)]
    reached = accumulate(count for _, count in answers)
    for (low, high), (_, count), upto in zip(pairwise(bounds), answers, reached, strict=True):
        if upto >= rank:
            if high == float("inf"):
                return 1000.0 * low
            return 1000.0 * (low + (high - low) * (rank - (upto - count)) / count)
    return None
