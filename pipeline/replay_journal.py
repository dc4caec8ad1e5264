"""Repeats a live run from its journal and the broker's records, and compares the decisions."""

import sqlite3
import tempfile
import time
from pathlib import Path

from pipeline.fold import Fold, shelf_of, state_path
from pipeline.journal import read_entry
from pipeline.kafka_source import KafkaSource
from pipeline.settings import Settings
from pipeline.state_file import StateError, StateFile


def repeat(settings: Settings, state_dir: Path) -> dict[str, object]:
    """Fold the journal of a state folder anew, reading its records from the broker.

    Returns:
        ``steps``, ``decisions``, ``same`` and ``first_difference`` (a decision's key, or null).

    Raises:
        StateError: There is no state there.
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
        target = StateFile(Path(scratch) / "again.sqlite", settings.model.name)
        source = KafkaSource(settings.kafka, f"metadrift-{settings.model.name}-replay", {})
        try:
            target.acquire(time.time())
            fold = Fold(settings, target, shelf_of(state_dir), time.time)
            steps = 0
            for entry in journal.journal():
                fold.step(read_entry(entry, source.read))
                steps += 1
            before, again = journal.decisions(), target.decisions()
        finally:
            source.close()
            journal.close()
            target.close()
    differing = [b for b, a in zip(before, again, strict=False) if a != b]
    same = before == again
    return {
        "steps": steps,
        "decisions": len(before),
        "same": same,
        "first_difference": differing[0].decode() if differing else None,
    }
