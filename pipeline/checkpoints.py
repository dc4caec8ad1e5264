"""Checkpoints: the state as it was after one entry of the journal, from which a fold can begin.

A checkpoint is a state file of its own, ``checkpoints/<entry>.sqlite`` beside the live one, that
holds the state and no journal. It is copied out of one read transaction, so it is the fold of the
entries up to its own, whoever owns the model meanwhile, and it gets its name only once it is whole
and on disk.
"""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.crash_points import crash_point
from pipeline.state_file import StateError, StateFile
from pipeline.state_schema import TABLES

STATE_TABLES = ("core", "monitor", "scored", "label", "early_label", "example", "route")
DECISIONS = "decisions"
"""In a checkpoint's ``meta``: number of the last decision before it."""


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """A place at which a fold can begin.

    Attributes:
        number: The last entry of the journal that it holds; 0: nothing has happened yet.
        decisions: Number of the last decision before it.
        path: Of the file; None at 0.
    """

    number: int
    decisions: int = 0
    path: Path | None = None


def folder_of(state: Path) -> Path:
    """Return where the checkpoints of a state file lie."""
    return state.with_name("checkpoints")


def checkpoints(state: Path) -> list[Checkpoint]:
    """Return the checkpoints of a state file, oldest first.

    One that is gone when it is looked at (the daemon drops the oldest) is left out.
    """
    found = []
    for path in folder_of(state).glob("*.sqlite"):
        try:
            with closing(_read_only(path)) as db:
                row = db.execute("SELECT value FROM meta WHERE key = ?", (DECISIONS,)).fetchone()
        except sqlite3.OperationalError:
            if path.exists():
                raise
            continue
        found.append(Checkpoint(int(path.stem), int(row[0]), path))
    return sorted(found)


def write_checkpoint(state: Path) -> Checkpoint:
    """Copy the state as it is now into a checkpoint of its own; the daemon may go on writing.

    Raises:
        OSError: The disk does not take it.
        sqlite3.Error: Likewise.
    """
    folder = folder_of(state)
    folder.mkdir(exist_ok=True)
    scratch = folder / f"{os.getpid()}.partial"
    scratch.unlink(missing_ok=True)
    uri = f"{scratch.absolute().as_uri()}?mode=rwc"
    with closing(sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=MEMORY")
        for statement in TABLES.split(";"):
            db.execute(statement)
        db.execute("ATTACH ? AS live", (f"{state.absolute().as_uri()}?mode=ro",))
        db.execute("BEGIN")
        (number,) = db.execute("SELECT coalesce(max(number), 0) FROM live.journal").fetchone()
        (decisions,) = db.execute("SELECT coalesce(max(number), 0) FROM live.decision").fetchone()
        for table in ("meta", *STATE_TABLES):
            db.execute(f"INSERT INTO {table} SELECT * FROM live.{table}")  # noqa: S608
        db.execute("INSERT INTO meta VALUES (?, ?)", (DECISIONS, str(decisions)))
        db.execute("COMMIT")
    _to_disk(scratch)
    crash_point("before-checkpoint")
    made = Checkpoint(number, decisions, folder / f"{number}.sqlite")
    scratch.replace(folder / f"{number}.sqlite")
    _to_disk(folder)
    crash_point("after-checkpoint")
    return made


def beginning(state: Path, journal: StateFile, target: Path) -> Checkpoint:
    """Put the state in which what is left of a journal begins at ``target``.

    Args:
        state: The live state file, whose checkpoints are used.
        journal: It, or a copy of it.
        target: Made, where the journal does not begin at its first entry.

    Returns:
        The checkpoint; number 0 where the whole journal is left.

    Raises:
        StateError: Entries are gone and no checkpoint stands in for them.
    """
    first, last = journal.entries()
    if first <= 1:
        return Checkpoint(0)
    for found in checkpoints(state):
        if found.path is None or not first - 1 <= found.number <= last:
            continue
        try:
            shutil.copyfile(found.path, target)
        except FileNotFoundError:  # the daemon has just dropped it
            continue
        return found
    raise StateError(
        f"the journal of {state} begins at entry {first} and no checkpoint in {folder_of(state)} "
        "leads there: put the folder `checkpoints` of the same time beside it"
    )


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
