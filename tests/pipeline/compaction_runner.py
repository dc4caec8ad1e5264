"""Compaction to its end, killed at every place that it passes, and what must hold after each kill.

``python -m tests.pipeline.compaction_runner FOLDER ENTRIES``: ``FOLDER/lived`` is a state folder.
For every crash point and every visit to it a copy is compacted by a forked process that dies there;
what is left is examined, compacted to the end, and examined again.
"""

import hashlib
import importlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from adapters.model_file import MANIFEST
from pipeline import checkpoints, compaction, crash_points, model_shelf, shelf_sweep
from pipeline.checkpoints import beginning
from pipeline.compaction import Compaction
from pipeline.fold import shelf_of, state_path
from pipeline.keep_settings import KeepSettings
from pipeline.model_shelf import ModelShelf
from pipeline.shelf_references import named_by_journal, named_by_state, named_in
from pipeline.state_file import StateFile
from tests.pipeline.state_tables import tables_of

MODEL = "small"


def rest(worker: Compaction) -> None:
    """Take turns until nothing is left to do."""
    until_s = time.monotonic() + 60
    while not worker.resting:
        assert time.monotonic() < until_s, "not at rest"
        worker.turn()
    worker.close()


def compact(file: StateFile, shelf: ModelShelf, keep: KeepSettings) -> None:
    """Do all there is to do. Nothing is spared as new."""
    rest(Compaction(file, shelf, keep, grace_s=-60.0))


def named(folder: Path, scratch: Path) -> set[str]:
    """Return all that a recovery, a rollback, a recall or a replay of the journal may need."""
    path = state_path(folder)
    with closing(StateFile(path, MODEL)) as file:
        begin = beginning(path, file, scratch)
    with closing(sqlite3.connect(path)) as db:
        (last,) = db.execute("SELECT max(number) FROM journal").fetchone()
        (first,) = db.execute("SELECT min(number) FROM journal").fetchone()
        assert first <= begin.number + 1 <= last + 1
        found = named_by_state(db) | named_by_journal(db, begin.number, last)
    if begin.path is not None:
        with closing(sqlite3.connect(begin.path)) as db:
            found |= named_by_state(db)
    for name in sorted(found):
        found |= named_in(shelf_of(folder).result_named(name) or b"")
    return found


def examine(folder: Path, scratch: Path) -> None:
    """Assert that everything named is on the shelf, whole."""
    shelf = folder / "shelf"
    for name in named(folder, scratch):
        places = [shelf / kind / name for kind in ("models", "meta-inits", "results")]
        (place,) = [p for p in places if p.exists()]
        sealed = place if place.is_file() else place / MANIFEST
        assert hashlib.sha256(sealed.read_bytes()).hexdigest()[:32] == name
    for model in (shelf / "models").iterdir():
        assert len(list(model.iterdir())) == 2, "a model is there whole or not at all"


def what_is_left(folder: Path) -> dict[str, list[str]]:
    """Return the names of everything that is kept."""
    with closing(sqlite3.connect(state_path(folder))) as db:
        kept = {
            table: [str(n) for (n,) in db.execute(f"SELECT number FROM {table}")]  # noqa: S608
            for table in ("journal", "decision")
        }
    for place in ("checkpoints", "shelf", "shelf/models", "shelf/results"):
        kept[place] = sorted(p.name for p in (folder / place).iterdir())
    return kept


def life(folder: Path, entries: int, crash_at: str) -> int:
    """Compact in a process of its own; return its exit code."""
    child = os.fork()
    if child == 0:
        os.environ["METADRIFT_CRASH_AT"] = crash_at
        importlib.reload(crash_points)  # as at the start of a process
        for module in (checkpoints, compaction, model_shelf, shelf_sweep):
            module.crash_point = crash_points.crash_point  # type: ignore[attr-defined]
        compaction.ROWS, shelf_sweep.ITEMS, shelf_sweep.ENTRIES = 10, 3, 10
        with closing(StateFile(state_path(folder), MODEL)) as file:
            assert file.acquire(0.0)
            compact(file, shelf_of(folder), KeepSettings(journal_entries=entries, shelf_mb=1e6))
            file.release()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Die everywhere; write how often at each place."""
    folder, entries = Path(sys.argv[1]), int(sys.argv[2])
    lived, scratch = folder / "lived", folder / "scratch.sqlite"
    end = folder / "end"
    shutil.copytree(lived, end)
    assert life(end, entries, "") == 0
    examine(end, scratch)
    state, left = tables_of(state_path(lived)), what_is_left(end)
    del state["decision"]
    deaths: dict[str, int] = {}
    for point in crash_points.COMPACTION_POINTS:
        for visit in range(1, 200):
            at = folder / "here"
            shutil.rmtree(at, ignore_errors=True)
            shutil.copytree(lived, at)
            code = life(at, entries, f"{point}:{visit}")
            examine(at, scratch)
            now = tables_of(state_path(at))
            del now["decision"]
            assert now == state, f"{point}:{visit}"
            if code == 0:
                break
            assert code == -signal.SIGKILL, f"{point}:{visit} ended with {code}"
            deaths[point] = visit
            assert life(at, entries, "") == 0
            examine(at, scratch)
            assert what_is_left(at) == left, f"{point}:{visit}"
    (folder / "deaths.json").write_text(json.dumps(deaths))


if __name__ == "__main__":
    main()
