"""The tables of a state file, and changes for tests of the file alone."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.records import Effect
from pipeline.state_changes import Changes
from pipeline.state_file import StateFile

FOLDED = (*("core", "monitor", "scored", "label", "early_label", "example", "route", "decision"),)
"""The tables that hold the state; the others hold what leads to it or what it calls for."""

Tables = dict[str, list[tuple[object, ...]]]


def tables_of(path: Path) -> Tables:
    """Return the rows of the tables that hold the state, in key order."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return {
            name: sorted(db.execute(f"SELECT * FROM {name}").fetchall(), key=repr)  # noqa: S608
            for name in FOLDED
        }


def changes(number: int, **others: object) -> Changes:
    """Some change of every table."""
    effect = Effect(f"key-{number}", "decision", {"n": number})
    made = Changes(
        core=b'{"n":%d}' % number,
        monitors={("*", "error-0"): b"snapshot %d" % number},
        scored=[(number * 10, number * 10 + 10, b"rows")],
        labels=[(number * 10, 1.0)],
        early_added=[(f"early{number}", 2.0)],
        examples=[("*", number, b"example")],
        effects=[effect],
        decisions=[b'{"decision":%d}' % number],
    )
    for name, value in others.items():
        setattr(made, name, value)
    return made


def owned(path: Path, now_s: float = 0.0) -> StateFile:
    file = StateFile(path, "m")
    assert file.acquire(now_s)
    return file
