"""A thread that keeps the servers beside the daemon as the committed state wants them.

It is level-triggered: it looks, applies and looks again, whatever happened in between. The loop
never waits for it. What it sees goes back as a value, which the loop journals like every input.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from deploy.controller import reconcile
from deploy.rollout_plan import Traffic
from pipeline.records import ServingSeen
from pipeline.serving_backends import LONGEST_REASON, Kept

TURN_S = 0.5
"""Longest time between two looks, seconds."""
HOPELESS_S = 30.0
"""The same after an error that only a person can mend; a new target is tried at once."""


class TrafficKeeper:
    """Follows one target, from one thread.

    Args:
        kept: The backend; closed by the thread when it ends.
        may_act: Whether this process still owns the model; asked before every look.
    """

    def __init__(self, kept: Kept, may_act: Callable[[], bool]) -> None:
        self._kept, self._may_act = kept, may_act
        self._wanted: Traffic | None = None
        self._tried: Traffic | None = None
        self._told = ServingSeen()
        self._news: ServingSeen | None = None
        self._defect: Exception | None = None
        self._lock, self._wake, self._stop = threading.Lock(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._thread.start()

    def want(self, traffic: Traffic) -> None:
        """Set the target: what the committed state calls for."""
        if traffic != self._wanted:
            self._wanted = traffic
            self._wake.set()

    def news(self) -> ServingSeen | None:
        """Return what was seen since the last call, if it differs from what was told before.

        Raises:
            Exception: The thread has ended by a defect; what it was.
        """
        with self._lock:
            if self._defect is not None:
                raise self._defect
            seen, self._news = self._news, None
            return seen

    def close(self, within_s: float) -> bool:
        """Stop and end the servers; return whether they ended in time.

        Those that did not end with this process.
        """
        self._stop.set()
        self._wake.set()
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._wake.wait(self._look())
                self._wake.clear()
        except Exception as error:  # noqa: BLE001 - raised again in the loop, which ends by it
            with self._lock:
                self._defect = error
        finally:
            self._kept.close()

    def _look(self) -> float:
        """Look and apply once; return the seconds until the next time."""
        target = self._wanted
        if target is None or not self._may_act():
            return TURN_S
        hindered = self._kept.may_act()
        if hindered is not None:
            self._tell(ServingSeen(None, self._kept.failures(), hindered[:LONGEST_REASON]))
            return self._kept.turn_s or TURN_S
        if target != self._tried:
            self._tried = target
            self._kept.new_target(target)
        found = reconcile(target, self._kept.backend)
        problem = found.error or ("" if found.live else self._kept.waits())
        self._tell(
            ServingSeen(
                found.observed,
                self._kept.failures(),
                problem[:LONGEST_REASON],
                self._kept.readings(),
            )
        )
        if found.retry_in_s is None:
            return self._kept.turn_s or (HOPELESS_S if found.error else TURN_S)
        return min(found.retry_in_s, self._kept.turn_s or TURN_S)

    def _tell(self, seen: ServingSeen) -> None:
        with self._lock:
            if seen != self._told:
                self._told = self._news = replace(seen, at_ms=round(time.time() * 1000))
