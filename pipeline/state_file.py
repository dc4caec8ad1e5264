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
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pipeline.crash_points import crash_point
from pipeline.records import Effect

FORMAT = 1
"""Of the tables below; a release reads the formats that CHANGELOG.md lists."""

LEASE_S = 10.0
"""An owner that has not been heard of for this long may be replaced."""
BUSIEST = 5
"""Routes of tasks that a reader is shown by name: those with the most labels."""
TASK_MEMORY = "task-memory"
"""Name of a route's task memory among its monitors' rows."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE owner (one INTEGER PRIMARY KEY CHECK (one = 1), owner_epoch INTEGER NOT NULL,
    host TEXT NOT NULL, pid INTEGER NOT NULL, heard_s REAL NOT NULL);
CREATE TABLE core (one INTEGER PRIMARY KEY CHECK (one = 1), document BLOB NOT NULL);
CREATE TABLE monitor (route TEXT, name TEXT, snapshot BLOB NOT NULL,
    PRIMARY KEY (route, name)) WITHOUT ROWID;
CREATE TABLE scored (start INTEGER PRIMARY KEY, stop INTEGER NOT NULL, rows BLOB NOT NULL);
CREATE TABLE label (position INTEGER PRIMARY KEY, label REAL NOT NULL);
CREATE TABLE early_label (number INTEGER PRIMARY KEY, id TEXT UNIQUE, label REAL NOT NULL);
CREATE TABLE example (route TEXT, number INTEGER, example BLOB NOT NULL,
    PRIMARY KEY (route, number)) WITHOUT ROWID;
CREATE TABLE route (route TEXT PRIMARY KEY, labels INTEGER NOT NULL, open INTEGER NOT NULL,
    document BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (number INTEGER PRIMARY KEY, entry BLOB NOT NULL);
CREATE TABLE outbox (number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, kind TEXT NOT NULL,
    payload BLOB NOT NULL);
CREATE TABLE decision (number INTEGER PRIMARY KEY, document BLOB NOT NULL);
CREATE TABLE intent (one INTEGER PRIMARY KEY CHECK (one = 1), entry BLOB NOT NULL);
"""


class StateError(Exception):
    """The state file cannot be used; says why and what to do."""


class NotOwnerError(StateError):
    """Another process owns the model now; this one must stop."""


@dataclass(frozen=True, slots=True)
class QueuedEffect:
    """An effect that waits in the outbox."""

    number: int
    effect: Effect


@dataclass(slots=True)
class Changes:
    """What one step changed, as rows.

    Attributes:
        core: The whole small state, JSON.
        monitors: (route, name) -> snapshot.
        scored: (start, stop, rows) inserted.
        scored_before: Rows that end at or before this position leave, with their labels.
        labels: (position, label) inserted.
        early_added: id -> label.
        early_removed: Ids.
        examples: (route, number, example) written.
        examples_removed: (route, number).
        routes: (task, labels, whether it is open, document) written.
        effects: Appended to the outbox.
        decisions: Appended to the decisions table, JSON.
    """

    core: bytes
    monitors: dict[tuple[str, str], bytes] = field(default_factory=dict)
    scored: list[tuple[int, int, bytes]] = field(default_factory=list)
    scored_before: int = 0
    labels: list[tuple[int, float]] = field(default_factory=list)
    early_added: list[tuple[str, float]] = field(default_factory=list)
    early_removed: list[str] = field(default_factory=list)
    examples: list[tuple[str, int, bytes]] = field(default_factory=list)
    examples_removed: list[tuple[str, int]] = field(default_factory=list)
    routes: list[tuple[str, int, bool, bytes]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    decisions: list[bytes] = field(default_factory=list)


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
        with self._owned():
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
        with self._owned():
            self._db.execute("UPDATE owner SET pid = 0")

    def heartbeat(self, now_s: float) -> None:
        """Say that the owner lives.

        Raises:
            NotOwnerError: Another process has taken over.
        """
        with self._owned():
            self._db.execute("UPDATE owner SET heard_s = ?", (now_s,))

    @contextmanager
    def _owned(self) -> Iterator[None]:
        with self._write():
            self._check_owner()
            yield

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
        with self._owned():
            db.execute("INSERT INTO journal (entry) VALUES (?)", (entry,))
            db.execute("INSERT OR REPLACE INTO core VALUES (1, ?)", (changes.core,))
            db.executemany(
                "INSERT OR REPLACE INTO monitor VALUES (?, ?, ?)",
                [(*key, snapshot) for key, snapshot in changes.monitors.items()],
            )
            db.executemany("INSERT INTO scored VALUES (?, ?, ?)", changes.scored)
            db.executemany("INSERT OR REPLACE INTO label VALUES (?, ?)", changes.labels)
            if changes.scored or changes.scored_before:
                db.execute("DELETE FROM scored WHERE stop <= ?", (changes.scored_before,))
                db.execute("DELETE FROM label WHERE position < ?", (changes.scored_before,))
            db.executemany(
                "DELETE FROM early_label WHERE id = ?", [(i,) for i in changes.early_removed]
            )
            db.executemany(
                "INSERT OR REPLACE INTO early_label (id, label) VALUES (?, ?)", changes.early_added
            )
            db.executemany("INSERT OR REPLACE INTO example VALUES (?, ?, ?)", changes.examples)
            db.executemany(
                "DELETE FROM example WHERE route = ? AND number = ?", changes.examples_removed
            )
            db.executemany("INSERT OR REPLACE INTO route VALUES (?, ?, ?, ?)", changes.routes)
            db.executemany(
                "INSERT OR IGNORE INTO outbox (key, kind, payload) VALUES (?, ?, ?)",
                [(e.key, e.kind, msgspec.json.encode(e.payload)) for e in changes.effects],
            )
            db.executemany(
                "INSERT INTO decision (document) VALUES (?)", [(d,) for d in changes.decisions]
            )
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

    def journal(self) -> Iterator[bytes]:
        """Yield what happened, in order."""
        for (entry,) in self._db.execute("SELECT entry FROM journal ORDER BY number"):
            yield bytes(entry)

    def decisions(self, last: int | None = None) -> list[bytes]:
        """Return the decisions, oldest first; with ``last`` only the newest that many."""
        rows = self._db.execute(
            "SELECT document FROM decision ORDER BY number DESC LIMIT ?",
            (-1 if last is None else last,),
        ).fetchall()
        return [bytes(document) for (document,) in reversed(rows)]

    # ---------------------------------------------------------------- what is about to happen

    def intend(self, entry: bytes) -> None:
        """Note what the coming step reads, before anything of it can be seen outside.

        After a crash the same records are folded as the same step, so that what is published
        again has the same bytes.
        """
        self._db.execute("PRAGMA synchronous=NORMAL")
        with self._owned():
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
        with self._owned():
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


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a reader sees of a state file without owning it."""

    meta: dict[str, str]
    core: bytes | None
    decisions: list[bytes]
    outbox: int
    owner: tuple[int, str, int, float] | None
    memories: dict[str, bytes]
    tasks: int
    busiest: list[tuple[str, int, bool]]


def glimpse(path: Path, decisions: int = 20) -> Glimpse:
    """Read a state file read-only, also while a daemon writes it.

    Raises:
        StateError: There is none.
    """
    if not path.exists():
        raise StateError(f"no state file at {path}: start the daemon once with `metadrift run`")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
        core = db.execute("SELECT document FROM core").fetchone()
        rows = db.execute(
            "SELECT document FROM decision ORDER BY number DESC LIMIT ?", (decisions,)
        ).fetchall()
        owner = db.execute("SELECT owner_epoch, host, pid, heard_s FROM owner").fetchone()
        return Glimpse(
            dict(db.execute("SELECT key, value FROM meta")),
            bytes(core[0]) if core else None,
            [bytes(r[0]) for r in reversed(rows)],
            int(db.execute("SELECT count(*) FROM outbox").fetchone()[0]),
            tuple(owner) if owner else None,
            memories_in(db),
            *_routes_in(db),
        )


def _routes_in(db: sqlite3.Connection) -> tuple[int, list[tuple[str, int, bool]]]:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name='route'").fetchone():
        return 0, []  # made by a release without routes
    (known,) = db.execute("SELECT count(*) FROM route").fetchone()
    top = db.execute(
        "SELECT route, labels, open FROM route ORDER BY labels DESC, route LIMIT ?", (BUSIEST,)
    )
    return int(known), [(task, labels, bool(is_open)) for task, labels, is_open in top]


def memories_in(db: sqlite3.Connection) -> dict[str, bytes]:
    """Return each route's task memory, packed."""
    found = db.execute("SELECT route, snapshot FROM monitor WHERE name = ?", (TASK_MEMORY,))
    return {route: bytes(snapshot) for route, snapshot in found}


def epoch_in(path: Path) -> int:
    """Return the ``owner_epoch`` of a state file; for threads that do not hold it open."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
        row = db.execute("SELECT owner_epoch FROM owner").fetchone()
        return 0 if row is None else int(row[0])


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
