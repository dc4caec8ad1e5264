"""Keeps journal, decisions and shelf within bounds, one small piece of work a turn.

    journal    |...dropped...|base ------ kept ------|newest ------ kept ------|
                             ^ checkpoint            ^ checkpoint              now

When the journal has grown by ``keep.journal_entries`` since the newest checkpoint, or the shelf by
``keep.shelf_mb``, a thread copies the state into a new one. Then the journal begins at the one
before: older entries, older checkpoints, decisions beyond ``keep.decisions`` and what only they
named on the shelf are dropped, and SQLite gives the pages back. What has to be done is read from
the disk each time, so a kill at any point leaves work, and never harm, for the next start.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from pipeline.checkpoints import Checkpoint, checkpoints, folder_of, write_checkpoint
from pipeline.crash_points import crash_point
from pipeline.keep_settings import KeepSettings
from pipeline.model_shelf import ModelShelf, put_s
from pipeline.shelf_sweep import ShelfSweep
from pipeline.state_file import StateFile

GRACE_S = 3600.0
"""What was put on the shelf stays at least this long, named or not: a training command puts a model
there before it announces it, and a server may still be fetching the version that was replaced."""
ROWS = 500
"""Rows dropped in one piece."""
PAGES = 200
"""Pages given back in one piece."""
AGAIN_S = 60.0
"""Wait after a checkpoint that the disk did not take."""
FAR = 3
"""A journal longer than this many times its bound begins at the newest checkpoint at once."""
QUICK_VACUUM = 64 * 2**20
"""Bytes up to which an old state file is rewritten once so that it can shrink: within the lease."""
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What is kept, for the metrics.

    Attributes:
        state_bytes: Of the state file and its checkpoints.
        shelf_bytes: Of models, meta-inits and results.
        journal_entries: Kept in the journal.
    """

    state_bytes: int
    shelf_bytes: int
    journal_entries: int


class Compaction:
    """The compaction of one state folder.

    Args:
        file: Owned by this process.
        shelf: Of the same folder, the one that this process puts models on.
        keep: The bounds.
        grace_s: Seconds that anything stays on the shelf.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        file: StateFile,
        shelf: ModelShelf,
        keep: KeepSettings,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._shelf, self._keep = file, shelf, keep
        self._grace_s, self._clock = grace_s, clock
        self._log = structlog.get_logger("compaction")
        self._thread: threading.Thread | None = None
        self._from_bytes = self._swept_bytes = 0
        self._newest = 0
        self.resting = False
        """Whether nothing is left to do for now."""
        if not file.allow_to_shrink(QUICK_VACUUM):
            self._log.warning(
                "the state file can reuse space but not shrink: with the daemon stopped, say "
                "`sqlite3 state.sqlite 'PRAGMA auto_vacuum=INCREMENTAL; VACUUM'`",
                path=str(file.path),
            )
        self._pieces = self._work()

    def turn(self) -> None:
        """Do one piece of work, if there is any.

        Raises:
            NotOwnerError: Another process has taken over.
        """
        next(self._pieces)

    def use(self) -> DiskUse:
        """Return what is kept now."""
        files = [self._file.path, *folder_of(self._file.path).glob("*.sqlite")]
        first, last = self._file.entries()
        return DiskUse(
            sum(path.stat().st_size for path in files),
            self._swept_bytes + self._shelf.put_bytes,
            last - first + 1,
        )

    def close(self) -> None:
        """Wait for a checkpoint in progress; it takes a second or so."""
        if self._thread is not None:
            self._thread.join(10)

    # ---------------------------------------------------------------- the work

    def _work(self) -> Iterator[None]:
        self._forget_other_lives()
        newest = self._known()[-1:]
        since_s = put_s(newest[0].path) if newest and newest[0].path else 0.0
        self._from_bytes = self._shelf.put_bytes - self._shelf.size(since_s)
        while True:
            base = self._base()
            yield from self._drop_rows(base)
            yield from ShelfSweep(self._file, self._shelf, base, self._grace_s).run()
            self._swept_bytes = self._shelf.size() - self._shelf.put_bytes
            while not self._due():
                self.resting = True
                yield
            self.resting = False
            yield from self._checkpoint()

    def _forget_other_lives(self) -> None:
        """Remove checkpoints of a later time than the state, which came from a backup."""
        _, last = self._file.entries()
        folder = folder_of(self._file.path)
        for path in folder.glob("*.partial"):
            path.unlink()
        for found in checkpoints(self._file.path):
            if found.number > last and found.path is not None:
                self._log.warning("checkpoint of a later time removed", entry=found.number)
                found.path.unlink()

    def _known(self) -> list[Checkpoint]:
        known = checkpoints(self._file.path)
        self._newest = known[-1].number if known else 0
        return known

    def _base(self) -> Checkpoint | None:
        """Return where the journal is to begin; None: where it does now."""
        known = self._known()
        first, _ = self._file.entries()
        if known and known[-1].number - first > FAR * self._keep.journal_entries:
            return known[-1]
        return known[-2] if len(known) > 1 else None

    def _due(self) -> bool:
        _, last = self._file.entries()
        put = self._shelf.put_bytes - self._from_bytes
        full = last - self._newest >= self._keep.journal_entries or put > self._keep.shelf_mb * MB
        return full and last > self._newest

    def _checkpoint(self) -> Iterator[None]:
        failed: list[Exception] = []

        def write() -> None:
            try:
                write_checkpoint(self._file.path)
            except (OSError, sqlite3.Error) as error:
                failed.append(error)

        put = self._shelf.put_bytes
        self._thread = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._thread.start()
        while self._thread.is_alive():
            yield
        self._thread = None
        if not failed:
            self._from_bytes = put
            self._log.info("checkpoint", entry=self._known()[-1].number)
            return
        self._log.warning("no checkpoint: nothing can be dropped yet", error=str(failed[0]))
        until = self._clock() + AGAIN_S
        while self._clock() < until:
            yield

    def _drop_rows(self, base: Checkpoint | None) -> Iterator[None]:
        if base is not None:
            while self._drop_some("journal", base.number):
                yield
            for older in checkpoints(self._file.path):
                if older < base and older.path is not None:
                    older.path.unlink()
                    yield
        while base is not None and self._drop_some(
            "decision", base.decisions, self._keep.decisions
        ):
            yield
        while self._file.give_back(PAGES):
            yield

    def _drop_some(self, table: str, upto: int, keep: int = 1) -> int:
        """Drop the oldest rows up to a number, but not the newest ``keep``; return how many.

        The newest row always stays: SQLite numbers the next one after it.
        """
        with self._file.owned(durable=True) as db:  # the shelf must not be ahead of the state
            done = db.execute(
                f"DELETE FROM {table} WHERE number IN (SELECT number FROM {table} "  # noqa: S608
                f"WHERE number <= min(?, (SELECT max(number) FROM {table}) - ?) "
                "ORDER BY number LIMIT ?)",
                (upto, keep, ROWS),
            )
            crash_point("inside-drop")
        crash_point("after-drop")
        return done.rowcount
