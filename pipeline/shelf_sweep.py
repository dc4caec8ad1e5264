"""Drops from the shelf what nothing names any more, a little at a time."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pipeline.checkpoints import Checkpoint
from pipeline.crash_points import crash_point
from pipeline.model_shelf import ModelShelf, put_s
from pipeline.shelf_references import (
    named_by_arrivals,
    named_by_journal,
    named_by_state,
    named_in,
)
from pipeline.state_file import StateFile

ENTRIES = 5000
"""Journal entries looked through in one piece."""
ITEMS = 20
"""Things on the shelf looked at in one piece."""


class ShelfSweep:
    """One pass over the shelf.

    A model or result stays while the state, the checkpoint where the journal begins, a kept entry
    of the journal or what waits to be told to the registry names it, and for ``grace_s`` after it
    was last put there: between that and the transaction that names it, nothing does.

    Args:
        file: Owned by this process.
        shelf: Swept.
        base: Where the kept journal begins.
        grace_s: Seconds by the host's clock.
    """

    def __init__(
        self, file: StateFile, shelf: ModelShelf, base: Checkpoint | None, grace_s: float
    ) -> None:
        self._file, self._shelf, self._base, self._grace_s = file, shelf, base, grace_s
        self._named: set[str] = set()
        self._marked = 0

    def run(self) -> Iterator[None]:
        """Do one piece of work between any two yields.

        Raises:
            NotOwnerError: Another process has taken over.
        """
        yield from self._mark()
        things = self._shelf.things()
        for start in range(0, len(things), ITEMS):
            self._drop(things[start : start + ITEMS])
            yield
        self._shelf.tidy(time.time() - self._grace_s)

    def _mark(self) -> Iterator[None]:
        if self._base is not None and self._base.path is not None:
            uri = f"{self._base.path.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
                self._named |= named_by_state(db)
            yield
        first, last = self._file.entries()
        self._marked = first - 1
        while self._marked < last:
            upto = min(self._marked + ENTRIES, last)
            with self._file.owned() as db:
                self._named |= named_by_journal(db, self._marked, upto)
            self._marked = upto
            yield
        for name in sorted(self._named):
            result = self._shelf.result_named(name)
            if result is not None:
                self._named |= named_in(result)
                yield

    def _drop(self, things: list[Path]) -> None:
        before_s = time.time() - self._grace_s
        things = [t for t in things if t.name not in self._named and put_s(t) < before_s]
        if not things:
            return
        with self._file.owned() as db:  # nobody can take over or commit while it is open
            (last,) = db.execute("SELECT coalesce(max(number), 0) FROM journal").fetchone()
            newly = named_by_state(db) | named_by_journal(db, self._marked, last)
            newly |= named_by_arrivals(self._file.path.parent)
            for name in newly - self._named:
                newly |= named_in(self._shelf.result_named(name) or b"")
            self._named |= newly
            self._marked = last
            for thing in things:
                if thing.name not in self._named and put_s(thing) < before_s:
                    crash_point("before-shelf-drop")
                    self._shelf.drop(thing)
