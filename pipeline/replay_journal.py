"""Repeats a live run from its journal and the broker's records, and compares the decisions."""

import sqlite3
import tempfile
import time
from itertools import zip_longest
from pathlib import Path

import msgspec

from pipeline.checkpoints import beginning
from pipeline.fold import Fold, shelf_of, state_path
from pipeline.journal import read_entry
from pipeline.kafka_source import KafkaSource
from pipeline.settings import Settings
from pipeline.state_file import StateError, StateFile


def repeat(settings: Settings, state_dir: Path) -> dict[str, object]:
    """Fold the journal of a state folder anew, reading its records from the broker.

    Returns:
        ``begins`` (the number of the first entry that was folded; those before it were compacted
        away), ``steps``, ``decisions``, ``same`` and ``first_difference`` (a decision, or null).

    Raises:
        StateError: There is no state there, the configuration is not the run's, or the journal
            begins where no checkpoint is.
        SourceError: The broker no longer holds the records.
    """
    path = state_path(state_dir)
    if not path.exists():
        raise StateError(f"no state file at {path}: give the state_dir of a live run")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "journal.sqlite"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as live:
            with sqlite3.connect(copy) as to:
                live.backup(to)
            to.close()
        live.close()
        journal = StateFile(copy, settings.model.name)
        again_at = Path(scratch) / "again.sqlite"
        try:
            _refuse_other_settings(settings, journal)
            begin = beginning(path, journal, again_at)
            target = StateFile(again_at, settings.model.name)
        except StateError:
            journal.close()
            raise
        source = KafkaSource(settings.kafka, f"metadrift-{settings.model.name}-replay", {})
        try:
            target.acquire(time.time())
            fold = Fold(settings, target, shelf_of(state_dir), time.time)
            steps = 0
            for entry in journal.journal(begin.number):
                fold.step(read_entry(entry, source.read))
                steps += 1
            before, again = journal.decisions(begin.decisions), target.decisions()
        finally:
            source.close()
            journal.close()
            target.close()
    pairs = zip_longest(before, again)
    differing = next(((b or a or b"").decode() for b, a in pairs if a != b), None)
    return {
        "begins": begin.number + 1,
        "steps": steps,
        "decisions": len(before),
        "same": differing is None,
        "first_difference": differing,
    }


def _refuse_other_settings(settings: Settings, journal: StateFile) -> None:
    """A configuration that the run did not end with may decide otherwise for that reason alone.

    Raises:
        StateError: It differs; names the keys.
    """
    known = journal.meta().get("settings")
    if known is None:
        return
    before, now = msgspec.json.decode(known), settings.state_facts()
    changed = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
    if changed:
        key = changed[0]
        raise StateError(
            f"{key} is {now.get(key)!r}, the run had {before.get(key)!r}"
            + (f" (and {len(changed) - 1} more keys differ)" if changed[1:] else "")
            + ": give the run's own configuration"
        )
