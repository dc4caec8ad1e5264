"""What a model server has done, counted in memory that all its processes share.

Seldon's own counters read, change and write back without a lock between, so that one of two
requests at the same time can erase the other's count, and a reward of 0 is not counted at all.
"""

import bisect
import math
import multiprocessing
from collections.abc import Mapping

_LOCK_S = 5.0

BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the histogram of the time to answer, seconds; one more is infinite."""

_METRICS = {
    "ok": ('requests_total{outcome="ok"', "counter"),
    "refused": ('requests_total{outcome="refused"', "counter"),
    "failed": ('requests_total{outcome="failed"', "counter"),
    "rows": ("rows_total{", "counter"),
    "feedback": ("feedback_total{", "counter"),
    "reward": ("reward_sum{", "gauge"),
}


class Counters:
    """Sums by name; made before the server forks, so that its processes share them.

    >>> counters = Counters({"model_version": "3-ab"})
    >>> counters.add({"feedback": 1, "reward": 0.0})
    >>> [line for line in counters.text().splitlines() if "feedback" in line][-1]
    'metadrift_serving_feedback_total{model_version="3-ab"} 1.0'

    Args:
        labels: On every sample.
    """

    _SECONDS = len(_METRICS)
    _BUCKETS = _SECONDS + 1

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._at = {name: i for i, name in enumerate(_METRICS)}
        self._sums = multiprocessing.Array("d", self._BUCKETS + len(BOUNDS_S) + 1)
        self._labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())

    def add(self, amounts: Mapping[str, float], seconds: float | None = None) -> None:
        """Add to several sums at once.

        Args:
            amounts: By name.
            seconds: How long an answer took, if there was one.

        Raises:
            TimeoutError: Another process of the server died while it was adding.
        """
        lock = self._sums.get_lock()
        if not lock.acquire(timeout=_LOCK_S):
            raise TimeoutError("the counters are locked by a process that has ended: restart")
        try:
            for name, amount in amounts.items():
                self._sums[self._at[name]] += amount
            if seconds is not None:
                self._sums[self._SECONDS] += seconds
                self._sums[self._BUCKETS + bisect.bisect_left(BOUNDS_S, seconds)] += 1
        finally:
            lock.release()

    def value(self, name: str) -> float:
        """Return one sum."""
        return float(self._sums[self._at[name]])

    def text(self) -> str:
        """Return all sums in Prometheus' text format."""
        lines, described = [], set[str]()
        for name, (sample, kind) in _METRICS.items():
            metric = f"metadrift_serving_{sample.partition('{')[0]}"
            if metric not in described:
                described.add(metric)
                lines.append(f"# TYPE {metric} {kind}")
            comma = "" if sample.endswith("{") else ","
            lines.append(f"metadrift_serving_{sample}{comma}{self._labels}}} {self.value(name)!r}")
        return "\n".join([*lines, *self._histogram()]) + "\n"

    def _histogram(self) -> list[str]:
        metric, count = "metadrift_serving_answer_seconds", 0
        lines = [f"# TYPE {metric} histogram"]
        for i, bound in enumerate((*BOUNDS_S, math.inf)):
            count += int(self._sums[self._BUCKETS + i])
            le = "+Inf" if bound == math.inf else f"{bound:g}"
            lines.append(f'{metric}_bucket{{le="{le}",{self._labels}}} {count}')
        lines.append(f"{metric}_sum{{{self._labels}}} {float(self._sums[self._SECONDS])!r}")
        return [*lines, f"{metric}_count{{{self._labels}}} {count}"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
