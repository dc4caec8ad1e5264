"""The state file: one SQLite database that changes by whole transactions or not at all.

A transaction appends what happened to the journal and writes the state it led to, so the state is
always the fold of its journal. Small things are one JSON document; big things (the join window,
the buffer) are rows that are inserted and deleted, never rewritten. Every transaction first checks
that this process still owns the model (``owner_epoch``).
"""

import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.crash_points import crash_point
from pipeline.records import Effect
from pipeline.state_changes import Changes, write_changes
from pipeline.state_schema import FORMAT, TABLES

LEASE_S = 10.0
"""An owner that has not been heard of for this long may be replaced."""


class StateError(Exception):
    """The state file cannot be used; says why and what to do."""


class NotOwnerError(StateError):
    """Another process owns the model now; this one must stop."""


@dataclass(frozen=True, slots=True)
class QueuedEffect:
    """An effect that waits in the outbox."""

    number: int
    effect: Effect


class StateFile:
    """An open state file, owned by this process once ``acquire`` has returned.

    Args:
        path: Created when missing.
        model: ``model.name``; a file of another model is refused.

    Raises:
        StateError: The file belongs to another model, or a release wrote it that this one cannot
            read.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self.epoch = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file; see allow_to_shrink
        self._db.execute("PRAGMA journal_mode=WAL")
        with self._write():
            known = self._db.execute("SELECT 1 FROM sqlite_master WHERE name='meta'").fetchone()
            if not known:
                for statement in TABLES.split(";"):
                    self._db.execute(statement)
            elif not self._db.execute(
                "SELECT 1 FROM sqlite_master WHERE name='route'"
            ).fetchone():  # made by a release without routes
                self._db.execute(next(s for s in TABLES.split(";") if "TABLE route " in s))
            if not known:
                self._set_meta("format", str(FORMAT))
                self._set_meta("model", model)
        found = self.meta()
        if found.get("format") != str(FORMAT):
            raise StateError(
                f"{path} has state format {found.get('format')}; this release reads {FORMAT}: "
                "use the release that wrote it, or move the file away to start anew"
            )
        if found.get("model") != model:
            raise StateError(
                f"{path} belongs to model '{found.get('model')}', not '{model}': "
                "set state_dir to another folder"
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _write(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def meta(self) -> dict[str, str]:
        """Return format, model, configuration fingerprint and library versions."""
        return dict(self._db.execute("SELECT key, value FROM meta"))

    def _set_meta(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def remember(self, facts: dict[str, str]) -> None:
        """Replace entries of ``meta``."""
        with self.owned():
            for key, value in facts.items():
                self._set_meta(key, value)

    # ---------------------------------------------------------------- ownership

    def acquire(self, now_s: float) -> bool:
        """Try to own the model; return whether it worked.

        An owner on this host whose process is gone is replaced at once, any other after
        ``LEASE_S`` of silence.
        """
        host, pid = socket.gethostname(), os.getpid()
        with self._write():
            row = self._db.execute("SELECT owner_epoch, host, pid, heard_s FROM owner").fetchone()
            if row is not None:
                _, its_host, its_pid, heard_s = row
                mine = (its_host, its_pid) == (host, pid)
                gone = its_pid == 0 or (its_host == host and not mine and not _alive(its_pid))
                if not mine and not gone and now_s - heard_s < LEASE_S:
                    return False
            self.epoch = 1 + (row[0] if row else 0)
            self._db.execute(
                "INSERT OR REPLACE INTO owner VALUES (1, ?, ?, ?, ?)",
                (self.epoch, host, pid, now_s),
            )
        return True

    def release(self) -> None:
        """Give the model up, so that a successor need not wait."""
        with self.owned():
            self._db.execute("UPDATE owner SET pid = 0")

    def heartbeat(self, now_s: float) -> None:
        """Say that the owner lives.

        Raises:
            NotOwnerError: Another process has taken over.
        """
        with self.owned():
            self._db.execute("UPDATE owner SET heard_s = ?", (now_s,))

    @contextmanager
    def owned(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Open a transaction that only the owner may make.

        Args:
            durable: Have it, and all before it, on disk when it is over.

        Raises:
            NotOwnerError: Another process has taken over; nothing was written.
        """
        if durable:
            self._db.execute("PRAGMA synchronous=FULL")
        with self._write():
            self._check_owner()
            yield self._db

    def _check_owner(self) -> None:
        row = self._db.execute("SELECT owner_epoch FROM owner").fetchone()
        if row is None or row[0] != self.epoch:
            raise NotOwnerError(
                f"another process has owned {self.path} since owner_epoch "
                f"{row[0] if row else 0} (ours was {self.epoch}): stopping"
            )

    # ---------------------------------------------------------------- the fold

    def commit(self, entry: bytes, changes: Changes, now_s: float) -> None:
        """Append ``entry`` to the journal and write the state that it led to, atomically.

        Raises:
            NotOwnerError: Another process has taken over; nothing was written.
        """
        durable = bool(changes.effects)
        self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        db = self._db
        crash_point("before-state")
        with self.owned():
            db.execute("INSERT INTO journal (entry) VALUES (?)", (entry,))
            write_changes(db, changes)
            db.execute("DELETE FROM intent")
            db.execute("UPDATE owner SET heard_s = ?", (now_s,))
            crash_point("inside-state")
        crash_point("after-state")

    def core(self) -> bytes | None:
        """Return the small state, or None before the first commit."""
        row = self._db.execute("SELECT document FROM core").fetchone()
        return None if row is None else bytes(row[0])

    def monitors(self, route: str) -> dict[str, bytes]:
        """Return the snapshots of a route's monitors by name."""
        found = self._db.execute("SELECT name, snapshot FROM monitor WHERE route = ?", (route,))
        return {name: bytes(snapshot) for name, snapshot in found}

    def route_names(self) -> list[str]:
        """Return the tasks that have a row, in order."""
        return [name for (name,) in self._db.execute("SELECT route FROM route ORDER BY route")]

    def route(self, task: str) -> bytes:
        """Return the document of a task's route.

        Raises:
            KeyError: It has no row.
        """
        row = self._db.execute("SELECT document FROM route WHERE route = ?", (task,)).fetchone()
        if row is None:
            raise KeyError(task)
        return bytes(row[0])

    def scored(self) -> Iterator[bytes]:
        """Yield the join window's runs of rows, oldest first."""
        for (rows,) in self._db.execute("SELECT rows FROM scored ORDER BY start"):
            yield bytes(rows)

    def labels(self) -> Iterator[tuple[int, float]]:
        """Yield the labels that joined a row of the window."""
        yield from self._db.execute("SELECT position, label FROM label ORDER BY position")

    def early_labels(self) -> Iterator[tuple[str, float]]:
        """Yield the labels whose event has not come, oldest first."""
        yield from self._db.execute("SELECT id, label FROM early_label ORDER BY number")

    def examples(self, route: str) -> Iterator[bytes]:
        """Yield the examples of a route, oldest first."""
        for (packed,) in self._db.execute(
            "SELECT example FROM example WHERE route = ? ORDER BY number", (route,)
        ):
            yield bytes(packed)

    def journal(self, after: int = 0) -> Iterator[bytes]:
        """Yield what happened, in order, from the entry behind number ``after`` on."""
        for (entry,) in self._db.execute(
            "SELECT entry FROM journal WHERE number > ? ORDER BY number", (after,)
        ):
            yield bytes(entry)

    def entries(self) -> tuple[int, int]:
        """Return the numbers of the journal's first and last entry; (1, 0) while it is empty."""
        first, last = self._db.execute(
            "SELECT (SELECT min(number) FROM journal), (SELECT max(number) FROM journal)"
        ).fetchone()
        return (1, 0) if last is None else (int(first), int(last))

    def decisions(self, after: int = 0) -> list[bytes]:
        """Return the decisions behind number ``after``, oldest first."""
        rows = self._db.execute(
            "SELECT document FROM decision WHERE number > ? ORDER BY number", (after,)
        )
        return [bytes(document) for (document,) in rows]

    def allow_to_shrink(self, most_bytes: int) -> bool:
        """Have SQLite keep track of free pages; return whether it does.

        A file of an earlier release does not, and has to be rewritten once. SQLite does that wholly
        or not at all.

        Args:
            most_bytes: A larger file is left as it is; its free pages are used again, not given
                back.

        Raises:
            NotOwnerError: Another process has taken over.
        """
        self._check_owner()
        (mode,) = self._db.execute("PRAGMA auto_vacuum").fetchone()
        if not mode and self.path.stat().st_size <= most_bytes:
            self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            self._db.execute("VACUUM")
            (mode,) = self._db.execute("PRAGMA auto_vacuum").fetchone()
        return bool(mode)

    def give_back(self, pages: int) -> bool:
        """Give free pages back to the disk, at most so many; return whether more are left.

        Raises:
            NotOwnerError: Another process has taken over.
        """
        self._check_owner()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (mode,) = self._db.execute("PRAGMA auto_vacuum").fetchone()
        if not mode or not free:
            return False
        # A step a page: ``execute`` takes only the first.
        self._db.executescript(f"PRAGMA incremental_vacuum({pages:d})")
        return bool(free > pages)

    # ---------------------------------------------------------------- what is about to happen

    def intend(self, entry: bytes) -> None:
        """Note what the coming step reads, before anything of it can be seen outside.

        After a crash the same records are folded as the same step, so that what is published
        again has the same bytes.
        """
        self._db.execute("PRAGMA synchronous=NORMAL")
        with self.owned():
            self._db.execute("INSERT OR REPLACE INTO intent VALUES (1, ?)", (entry,))

    def intent(self) -> bytes | None:
        """Return the step that had begun when the last owner died, if any."""
        row = self._db.execute("SELECT entry FROM intent").fetchone()
        return None if row is None else bytes(row[0])

    # ---------------------------------------------------------------- the outbox

    def pending(self, kinds: Iterable[str], limit: int = 100) -> list[QueuedEffect]:
        """Return the oldest effects of these kinds that wait to be carried out.

        Raises:
            NotOwnerError: Another process has taken over; the effects are its to carry out.
        """
        self._check_owner()
        wanted = list(kinds)
        marks = ",".join("?" * len(wanted))
        rows = self._db.execute(
            f"SELECT number, key, kind, payload FROM outbox WHERE kind IN ({marks}) "  # noqa: S608
            "ORDER BY number LIMIT ?",
            (*wanted, limit),
        )
        return [QueuedEffect(n, Effect(k, d, msgspec.json.decode(p))) for n, k, d, p in rows]

    def done(self, effects: Iterable[QueuedEffect]) -> None:
        """Forget effects that were carried out.

        Raises:
            NotOwnerError: Another process has taken over; it will find them queued.
        """
        with self.owned():
            self._db.executemany(
                "DELETE FROM outbox WHERE number = ?", [(e.number,) for e in effects]
            )

    def outbox_depth(self) -> int:
        """Return how many effects wait."""
        (n,) = self._db.execute("SELECT count(*) FROM outbox").fetchone()
        return int(n)

    def owns(self) -> bool:
        """Return whether this process still owns the model."""
        row = self._db.execute("SELECT owner_epoch FROM owner").fetchone()
        return row is not None and row[0] == self.epoch


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def wall_s() -> float:
    """Return the host's clock, seconds since the epoch."""
    return time.time()
