"""Small events with all their labels, some early, twice or corrected, for a live daemon."""

import time

from tests.pipeline.live_daemon import LiveModel
from tests.pipeline.small_worlds import Concept, Generator, features


class Stream:
    """Plays small events and all their labels into a live model's topics.

    Some labels come early, some twice, some corrected; every 50th event comes twice.
    """

    def __init__(self, live: LiveModel, seed: int = 1) -> None:
        self.live, self.next, self.labels = live, 0, 0
        self._generator = Generator(seed)

    def play(self, n: int, concept: Concept, *, at_once: int = 25, pause_s: float = 0.0) -> None:
        """Send ``n`` events."""
        for start in range(0, n, at_once):
            rows = self._generator.rows(min(at_once, n - start))
            ids = [f"e{self.next + i}" for i in range(len(rows))]
            events = [
                {"id": name, "features": features(row)} for name, row in zip(ids, rows, strict=True)
            ]
            labels = [
                {"id": name, "label": concept(row)} for name, row in zip(ids, rows, strict=True)
            ]
            self.live.send("labels", [*labels[:1], labels[0]], flush=False)
            self.live.send("events", [*events, events[0]], flush=False)
            self.live.send("labels", [*labels[1:], {"id": ids[-1], "label": "up"}])
            self.next += len(rows)
            self.labels += len(rows)
            time.sleep(pause_s)

    def play_to_death(self, concept: Concept) -> None:
        """Send events until the daemon has died at its crash point."""
        assert self.live.daemon is not None
        for _ in range(300):
            if not self.live.daemon.alive:
                break
            self.play(25, concept, pause_s=0.1)
        self.live.wait_dead()
