"""The state file changes by whole transactions or not at all, and has one owner."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.records import Effect
from pipeline.state_file import LEASE_S, NotOwnerError, StateError, StateFile
from pipeline.state_glimpse import glimpse
from tests.pipeline.state_tables import changes, owned, tables_of

ROOT = Path(__file__).parents[2]


def everything(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table, also those that lead to the state."""
    with closing(sqlite3.connect(path)) as db:
        others = {
            name: db.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608
            for name in ("journal", "outbox", "intent")
        }
    return {**tables_of(path), **others}


@pytest.mark.parametrize(
    "broken",
    [
        {"decisions": [object()]},
        {"examples": [("*", 5, object())]},
        {"effects": [Effect("k", "decision", {"not json": object()})]},
        {"scored": [(10, 20, b"a start that is taken")]},
        {"labels": [("no position", 1.0)]},
    ],
)
def test_an_exception_inside_a_commit_leaves_the_earlier_state(
    tmp_path: Path, broken: dict[str, object]
) -> None:
    path = tmp_path / "s.sqlite"
    with closing(owned(path)) as file:
        file.commit(b"one", changes(1), 0.0)
        file.intend(b"two")
        before = everything(path)
        with pytest.raises((sqlite3.Error, TypeError)):
            file.commit(b"two", changes(2, **broken), 0.0)
        assert everything(path) == before
        assert file.intent() == b"two"
        file.commit(b"two", changes(2), 0.0)
        assert file.intent() is None
        assert list(file.journal()) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("point", "survives"), [("before-state", False), ("inside-state", False), ("after-state", True)]
)
def test_a_kill_leaves_a_whole_transaction_or_none(
    tmp_path: Path, point: str, survives: bool
) -> None:
    path = tmp_path / "s.sqlite"
    with closing(owned(path)) as file:
        file.commit(b"one", changes(1), 0.0)
        file.release()
    before = everything(path)
    script = """
import sys
from pathlib import Path
from tests.pipeline.state_tables import changes, owned
owned(Path(sys.argv[1])).commit(b"two", changes(2), 0.0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "METADRIFT_CRASH_AT": point},
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    with closing(owned(path)):  # the dead owner is replaced at once
        assert (everything(path) != before) == survives
    if survives:
        assert [d for _, d in everything(path)["decision"]] == [
            b'{"decision":1}',
            b'{"decision":2}',
        ]


def test_an_unknown_crash_point_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import pipeline.crash_points"],
        env={**os.environ, "METADRIFT_CRASH_AT": "afterwards"},
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "'afterwards' is no crash point; choose from" in done.stderr


# ---------------------------------------------------------------- ownership


def as_other_host(path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFile:
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    return StateFile(path, "m")


def test_a_second_owner_takes_over_after_the_lease_and_the_first_can_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sqlite"
    with closing(owned(path, 100.0)) as old, closing(as_other_host(path, monkeypatch)) as new:
        old.commit(b"one", changes(1), 105.0)
        assert not new.acquire(105.0 + LEASE_S - 0.1)
        assert old.owns()
        assert new.acquire(105.0 + LEASE_S)
        assert new.epoch == old.epoch + 1
        before = everything(path)
        for write in (
            lambda: old.commit(b"two", changes(2), 120.0),
            lambda: old.intend(b"two"),
            lambda: old.heartbeat(120.0),
            lambda: old.remember({"a": "b"}),
            lambda: old.pending(("decision",)),
            lambda: old.done([]),
            old.release,
        ):
            with pytest.raises(NotOwnerError, match="owner_epoch 2"):
                write()
        assert not old.owns()
        assert everything(path) == before
        new.commit(b"two", changes(2), 120.0)


def test_an_owner_that_lives_keeps_the_model_and_one_that_released_gives_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sqlite"
    with closing(owned(path, 0.0)) as old, closing(as_other_host(path, monkeypatch)) as new:
        for now_s in (8.0, 16.0, 24.0):
            old.heartbeat(now_s)
            assert not new.acquire(now_s + LEASE_S - 1)
        old.release()
        assert new.acquire(25.0)


# ---------------------------------------------------------------- the outbox and the rest


def test_an_effect_is_queued_once_by_its_key_and_in_order(tmp_path: Path) -> None:
    with closing(owned(tmp_path / "s.sqlite")) as file:
        effects = [Effect(k, "decision", {"k": k}) for k in ("b", "a", "b")]
        file.commit(b"one", changes(1, effects=effects), 0.0)
        file.commit(b"two", changes(2, effects=[Effect("a", "alias", {})]), 0.0)
        queued = file.pending(("decision", "alias"))
        assert [q.effect.key for q in queued] == ["b", "a"]
        assert [q.effect.kind for q in queued] == ["decision", "decision"]
        file.done(queued[:1])
        assert [q.effect.key for q in file.pending(("decision",))] == ["a"]
        assert file.pending(("alias",)) == []
        assert file.outbox_depth() == 1


def test_what_leaves_the_window_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with closing(owned(path)) as file:
        for number in range(4):
            file.commit(b"", changes(number), 0.0)
        file.commit(b"", changes(4, scored_before=20), 0.0)
    tables = tables_of(path)
    assert [row[0] for row in tables["scored"]] == [20, 30, 40]
    assert [row[0] for row in tables["label"]] == [20, 30, 40]


def test_a_file_of_another_model_or_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    StateFile(path, "m").close()
    with pytest.raises(StateError, match="belongs to model 'm', not 'other': set state_dir"):
        StateFile(path, "other")
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
        db.commit()
    with pytest.raises(StateError, match="state format 99; this release reads 1"):
        StateFile(path, "m")


def test_a_glimpse_needs_no_ownership_and_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with pytest.raises(StateError, match="start the daemon once"):
        glimpse(path)
    assert not path.exists()
    with closing(owned(path, 7.0)) as file:
        file.commit(b"one", changes(1), 8.0)
        seen = glimpse(path)
    assert (seen.core, seen.decisions, seen.outbox) == (b'{"n":1}', [b'{"decision":1}'], 1)
    assert seen.owner is not None
    assert (seen.owner[0], seen.owner[3]) == (1, 8.0)
