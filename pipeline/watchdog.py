"""Ends the process when its loop has not come round for too long."""

import threading
from collections.abc import Callable


class Watchdog:
    """A thread that waits to be fed.

    Args:
        limit_s: Longest silence.
        end: What to do then; logs and exits in the daemon.
    """

    def __init__(self, limit_s: float, end: Callable[[], None]) -> None:
        self._limit_s, self._end = limit_s, end
        self._fed = threading.Event()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def feed(self) -> None:
        """Say that the loop came round."""
        self._fed.set()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._fed.set()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            if not self._fed.wait(self._limit_s):
                self._end()
                return
            self._fed.clear()
