"""Compaction bounds the disk, decides nothing, and loses nothing that is named."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path

import msgspec
import pytest

from adapters.bake_off import RecipeResult
from adapters.bake_off_codec import encode_results
from adapters.model_file import Model
from pipeline.checkpoints import beginning, checkpoints, write_checkpoint
from pipeline.compaction import Compaction
from pipeline.crash_points import COMPACTION_POINTS
from pipeline.fold import refold, shelf_of, state_path
from pipeline.keep_settings import KeepSettings
from pipeline.records import Input, Outcome
from pipeline.settings import Settings
from pipeline.shelf_references import named_in
from pipeline.state_file import NotOwnerError, StateError, StateFile
from tests.pipeline.compaction_runner import compact, examine, rest, what_is_left
from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import quick_settings
from tests.pipeline.small_worlds import first, lane_start, second
from tests.pipeline.state_tables import FOLDED, Tables, changes, owned, tables_of

ROOT = Path(__file__).parents[2]
KEEP = KeepSettings(journal_entries=30)


class CompactedLoop(Loop):
    """A loop that is compacted beside its steps, as the daemon does.

    A step waits for the checkpoint that it began: how long the journal gets is no matter of speed.
    """

    compaction: Compaction | None = None

    def __init__(self, settings: Settings, keep: KeepSettings) -> None:
        super().__init__(settings, meta_init=lane_start())
        self.compaction = Compaction(self.file, self.fold.shelf, keep, grace_s=0.0)

    def step(self, happened: Input) -> Outcome:
        outcome = super().step(happened)
        for _ in range(20 if self.compaction is not None else 0):
            self.compaction.turn()
        if self.compaction is not None:
            self.compaction.close()
        return outcome


def live(loop: Loop, changes_of_concept: int, seen: Callable[[], None] = lambda: None) -> None:
    """Let the concept change time and again, each time with an episode and a promotion."""
    loop.stream(200, first, delay=0)
    for concept, _ in zip(cycle((second, first)), range(changes_of_concept), strict=False):
        loop.stream(200, concept, delay=0)
        seen()


def folded_from(folder: Path, settings: Settings, loop: Loop, scratch: Path) -> Tables:
    """Fold what is left of a journal; return the state it leads to."""
    path = state_path(folder)
    with closing(StateFile(path, "small")) as journal:
        begin = beginning(path, journal, scratch)
        assert begin.number > 0, "the whole journal is left"
        with closing(StateFile(scratch, "small")) as target:
            assert target.acquire(0.0)
            shelf, read = shelf_of(folder), loop.topics.read
            refold(settings, journal, target, shelf, read, begin.number)
            decided = [*journal.decisions(begin.decisions)], target.decisions()
    assert decided[0] == decided[1]
    assert decided[0], "nothing was decided since the checkpoint"
    return tables_of(scratch)


def same_but_for_decisions(one: Tables, other: Tables) -> None:
    for table in FOLDED:
        if table != "decision":
            assert one[table] == other[table], table


def shelf_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in (folder / "shelf").rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def long_lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, Loop, list[int]]]:
    """The same long stream with and without compaction, and bytes on disk as it went."""
    folder = tmp_path_factory.mktemp("long")
    shelf: list[int] = []
    with (
        Loop(quick_settings(folder / "plain"), meta_init=lane_start()) as plain,
        CompactedLoop(quick_settings(folder / "compacted"), KEEP) as compacted,
    ):
        live(plain, 8)

        def at_rest() -> None:
            rest(compacted.compaction)
            shelf.append(shelf_bytes(folder / "compacted"))

        live(compacted, 8, at_rest)
        yield plain, compacted, shelf


def test_the_disk_stays_bounded_and_nothing_is_decided_otherwise(
    long_lives: tuple[Loop, Loop, list[int]],
) -> None:
    plain, compacted, shelf = long_lives
    same_but_for_decisions(plain.tables(), compacted.tables())
    assert plain.kinds() == compacted.kinds()
    assert plain.kinds().count("episode-opened") >= 6
    assert plain.kinds().count("promotion") >= 4

    first_entry, last = compacted.file.entries()
    assert last == plain.file.entries()[1] > 3 * KEEP.journal_entries
    assert last - first_entry < 2.2 * KEEP.journal_entries
    assert len(checkpoints(compacted.file.path)) == 2
    assert max(shelf[4:]) < 1.3 * max(shelf[:4]), "the shelf goes on growing"
    assert shelf[-1] < 0.7 * shelf_bytes(plain.settings.state_dir)
    assert compacted.compaction is not None
    use = compacted.compaction.use()
    assert use.journal_entries == last - first_entry + 1
    assert use.shelf_bytes == shelf_bytes(compacted.settings.state_dir)
    assert use.state_bytes > compacted.file.path.stat().st_size


def test_what_is_left_of_the_journal_folds_to_the_same_state(
    long_lives: tuple[Loop, Loop, list[int]], tmp_path: Path
) -> None:
    _, compacted, _ = long_lives
    folder = compacted.settings.state_dir
    examine(folder, tmp_path / "scratch.sqlite")
    again = folded_from(folder, compacted.settings, compacted, tmp_path / "again.sqlite")
    same_but_for_decisions(again, compacted.tables())


def test_what_asks_for_a_registration_names_the_model(
    long_lives: tuple[Loop, Loop, list[int]],
) -> None:
    _, compacted, _ = long_lives
    waiting = compacted.file.pending(("version",))
    assert len(waiting) > 1
    versions, shelf = compacted.fold.state.core.versions, compacted.fold.shelf
    for queued in waiting:
        digest = versions[int(str(queued.effect.payload["number"]))].digest
        (name,) = named_in(msgspec.json.encode(queued.effect.payload))
        assert shelf.model_folder(digest).name == name
        assert shelf.model_folder(digest).exists()


def test_a_journal_without_its_beginning_needs_its_checkpoint(
    long_lives: tuple[Loop, Loop, list[int]], tmp_path: Path
) -> None:
    _, compacted, _ = long_lives
    folder = tmp_path / "copy"
    shutil.copytree(compacted.settings.state_dir, folder)
    for found in checkpoints(state_path(folder)):
        assert found.path is not None
        found.path.unlink()
    with (
        closing(StateFile(state_path(folder), "small")) as journal,
        pytest.raises(StateError, match=r"begins at entry \d+ and no checkpoint .* put the"),
    ):
        beginning(state_path(folder), journal, tmp_path / "again.sqlite")


# ---------------------------------------------------------------- kills


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Loop, int]:
    """A life with a checkpoint in its middle; the entry of the checkpoint."""
    folder = tmp_path_factory.mktemp("kills")
    with Loop(quick_settings(folder / "lived"), meta_init=lane_start()) as loop:
        live(loop, 2)
        made = write_checkpoint(loop.file.path)
        live(loop, 2)
        loop.file.release()
    return folder, loop, made.number


def test_a_kill_at_any_write_leaves_all_that_is_named_and_the_rest_is_done_later(
    lived: tuple[Path, Loop, int], tmp_path: Path
) -> None:
    folder, loop, entry = lived
    entries = str(entry * 2 // 3)
    command = [sys.executable, "-m", "tests.pipeline.compaction_runner", str(folder), entries]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    deaths = json.loads((folder / "deaths.json").read_text())
    assert set(deaths) == set(COMPACTION_POINTS)
    assert deaths["inside-drop"] >= 3
    assert deaths["inside-shelf-drop"] >= 3
    before, after = what_is_left(folder / "lived"), what_is_left(folder / "end")
    assert after["journal"][0] == str(entry + 1)
    assert after["journal"][-1] == before["journal"][-1]
    assert set(after["shelf/models"]) < set(before["shelf/models"])
    assert set(after["shelf/results"]) < set(before["shelf/results"])
    assert after["shelf"] == ["meta-inits", "models", "results"]
    again = folded_from(folder / "end", loop.settings, loop, tmp_path / "again.sqlite")
    same_but_for_decisions(again, tables_of(state_path(folder / "lived")))


# ---------------------------------------------------------------- other states


def test_a_state_of_an_earlier_release_opens_compacts_and_shrinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_before(results: tuple[RecipeResult, ...], keep: Callable[[Model], str]) -> bytes:
        for result in results:
            if result.model is not None:
                keep(result.model)
        return encode_results(results)

    monkeypatch.setattr("pipeline.fold.encode_results", as_before)
    settings = quick_settings(tmp_path / "old")
    with Loop(settings, meta_init=lane_start()) as loop:
        live(loop, 2)
        state = loop.tables()
        assert loop.refolded(tmp_path) == state
        loop.file.release()
    path = state_path(settings.state_dir)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum=NONE")
        db.execute("UPDATE journal SET number = number + 100000")
        db.execute("INSERT INTO journal SELECT number - 100000, zeroblob(3000) FROM journal")
        db.execute("VACUUM")
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    size = path.stat().st_size
    with closing(StateFile(path, "small")) as file:
        assert file.acquire(0.0)
        compact(file, shelf_of(settings.state_dir), KEEP)
        first_entry, last = file.entries()
        assert first_entry == last, "it was far longer than its bound"
    same_but_for_decisions(tables_of(path), state)
    examine(settings.state_dir, tmp_path / "scratch.sqlite")
    assert path.stat().st_size < 0.8 * size
    with Loop(settings) as loop:
        live(loop, 1)
        assert loop.file.entries()[1] > last


def test_an_owner_that_lost_the_model_drops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    shelf = shelf_of(tmp_path)
    with closing(owned(path)) as old, closing(StateFile(path, "m")) as new:
        for number in range(50):
            old.commit(b"entry", changes(number), 0.0)
        shelf.put_result(b"nobody names me")
        compaction = Compaction(old, shelf, KeepSettings(journal_entries=10), grace_s=-60.0)
        assert new.acquire(0.0)
        with pytest.raises(NotOwnerError, match="owner_epoch 2"):
            for _ in range(1000):
                compaction.turn()
        compaction.close()
        assert new.entries() == (1, 50)
        assert len(shelf.things()) == 1


def test_a_checkpoint_that_the_disk_does_not_take_is_tried_again(tmp_path: Path) -> None:
    now = [0.0]
    with closing(owned(tmp_path / "state.sqlite")) as file:
        for number in range(20):
            file.commit(b"entry", changes(number), 0.0)
        (tmp_path / "checkpoints").write_text("a file in its way")
        keep = KeepSettings(journal_entries=10)
        compaction = Compaction(file, shelf_of(tmp_path), keep, -60.0, lambda: now[0])
        for _ in range(100):
            compaction.turn()
            compaction.close()
        assert not compaction.resting
        assert file.entries() == (1, 20)
        (tmp_path / "checkpoints").unlink()
        now[0] = 61.0
        rest(compaction)
        assert [c.number for c in checkpoints(file.path)] == [20]


def test_a_checkpoint_of_a_later_time_than_a_restored_state_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with closing(owned(path)) as file:
        for number in range(20):
            file.commit(b"entry", changes(number), 0.0)
        write_checkpoint(path).path.rename(tmp_path / "checkpoints" / "99.sqlite")  # type: ignore[union-attr]
        compact(file, shelf_of(tmp_path), KeepSettings(journal_entries=10))
        assert [c.number for c in checkpoints(path)] == [20]


def test_new_things_are_spared_and_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    with closing(owned(tmp_path / "state.sqlite")) as file:
        file.commit(b"entry", changes(1), 0.0)
        shelf = shelf_of(tmp_path)
        shelf.put_result(b"just put there")
        (tmp_path / "shelf" / "tmp1234").mkdir()
        (tmp_path / "shelf" / "results" / "ab.12").write_bytes(b"half")
        (tmp_path / "shelf" / "00.gone").mkdir()
        rest(Compaction(file, shelf, KeepSettings(), grace_s=60.0))
        assert len(shelf.things()) == 1
        assert (tmp_path / "shelf" / "tmp1234").exists()
        assert not (tmp_path / "shelf" / "00.gone").exists()
        compact(file, shelf, KeepSettings())
        assert shelf.things() == []
        left = sorted(p.name for p in (tmp_path / "shelf").rglob("*"))
        assert left == ["meta-inits", "models", "results"]
