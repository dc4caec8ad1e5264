"""What is named: every digest in the state, in what waits, and in the journal that is kept.

Whatever holds the text of a digest keeps the thing of that digest, so a new field or a new table
of a record cannot be forgotten here. Only the list of all versions that ever were is looked
through by use: versions that can serve, come back or be tried again.
"""

import re
import sqlite3
from pathlib import Path

import msgspec

from pipeline.arrivals import ARRIVALS
from pipeline.core_state import Core, decode_core
from pipeline.state_schema import TASK_MEMORY

_DIGEST = re.compile(rb"sha256:([0-9a-f]{32})[0-9a-f]{32}")
_POLL = b"\xa4poll"
"""How the entry of a poll goes on after its first byte; it names nothing, and most are polls."""


def named_in(text: bytes) -> set[str]:
    """Return the names on the shelf of all digests in a document.

    >>> named_in(b'{"digest": "sha256:' + b"0a" * 32 + b'"}')
    {'0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a'}
    """
    return {found.decode() for found in _DIGEST.findall(text)}


def versions_in_use(core: Core) -> set[int]:
    """Return the numbers of the versions that serve, may come back or may be tried again."""
    used: set[int] = set()
    named: set[str] = set()
    for route in core.routes.values():
        used |= {route.champion, *route.earlier, route.rollout_candidate}
        if route.before is not None:
            used |= {route.before.champion, *route.before.earlier}
        for rollout in (route.rollout, route.probation, route.ended):
            if rollout is not None:
                named |= {rollout.stable, rollout.candidate}
    used |= {v.number for v in core.versions.values() if v.name in named}
    return used & core.versions.keys()


def named_by_state(db: sqlite3.Connection) -> set[str]:
    """Return what the state in an open state file names."""
    found: set[str] = set()
    row = db.execute("SELECT document FROM core").fetchone()
    if row is not None:
        core = decode_core(row[0])
        used = versions_in_use(core)
        core.versions = {n: v for n, v in core.versions.items() if n in used}
        found |= named_in(msgspec.json.encode(core))
    memories = db.execute("SELECT snapshot FROM monitor WHERE name = ?", (TASK_MEMORY,))
    routes = db.execute("SELECT document FROM route")
    waiting = db.execute("SELECT payload FROM outbox WHERE kind = 'version'")
    begun = db.execute("SELECT entry FROM intent")
    for rows in (memories, routes, waiting, begun):
        for (document,) in rows:
            found |= named_in(bytes(document))
    return found


def named_by_journal(db: sqlite3.Connection, after: int, upto: int) -> set[str]:
    """Return what the entries behind ``after`` up to ``upto`` name."""
    rows = db.execute(
        "SELECT entry FROM journal WHERE number > ? AND number <= ? AND substr(entry, 2, 5) != ?",
        (after, upto, _POLL),
    )
    return {name for (entry,) in rows for name in named_in(bytes(entry))}


def named_by_arrivals(state_dir: Path) -> set[str]:
    """Return what waits to be taken in at the next start."""
    try:
        return named_in((state_dir / ARRIVALS).read_bytes())
    except FileNotFoundError:
        return set()
