"""What one step changed, as rows, and how they go into the tables."""

import sqlite3
from dataclasses import dataclass, field

import msgspec

from pipeline.records import Effect


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


def write_changes(db: sqlite3.Connection, changes: Changes) -> None:
    """Write them, within a transaction of the caller's."""
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
    db.executemany("DELETE FROM early_label WHERE id = ?", [(i,) for i in changes.early_removed])
    db.executemany(
        "INSERT OR REPLACE INTO early_label (id, label) VALUES (?, ?)", changes.early_added
    )
    db.executemany("INSERT OR REPLACE INTO example VALUES (?, ?, ?)", changes.examples)
    db.executemany("DELETE FROM example WHERE route = ? AND number = ?", changes.examples_removed)
    db.executemany("INSERT OR REPLACE INTO route VALUES (?, ?, ?, ?)", changes.routes)
    db.executemany(
        "INSERT OR IGNORE INTO outbox (key, kind, payload) VALUES (?, ?, ?)",
        [(e.key, e.kind, msgspec.json.encode(e.payload)) for e in changes.effects],
    )
    db.executemany("INSERT INTO decision (document) VALUES (?)", [(d,) for d in changes.decisions])
