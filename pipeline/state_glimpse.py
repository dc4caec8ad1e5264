"""What a reader sees of a state file without owning it, also while a daemon writes it."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.state_file import StateError
from pipeline.state_schema import TASK_MEMORY

BUSIEST = 5
"""Routes of tasks that a reader is shown by name: those with the most labels."""


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
