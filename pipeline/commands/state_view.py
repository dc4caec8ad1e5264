"""The state folder as commands see it: read-only, also while a daemon writes it."""

import socket
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.common import EXIT_CONFIG, fail

if TYPE_CHECKING:
    from pipeline.core_state import Core
    from pipeline.settings import Settings
    from pipeline.state_glimpse import Glimpse

STATE_FILE = "state.sqlite"


def state_file(state_dir: Path) -> Path:
    """Return the state file's path (as ``pipeline.fold.state_path``, without its imports)."""
    return state_dir / STATE_FILE


def glimpse_here(settings: "Settings", decisions: int = 20) -> "Glimpse":
    """Read the state file; one that cannot be read ends the command with exit code 2."""
    from pipeline.state_file import StateError
    from pipeline.state_glimpse import glimpse

    try:
        return glimpse(state_file(settings.state_dir), decisions)
    except (StateError, sqlite3.Error) as error:
        fail(f"state_dir: {settings.state_dir}: {error}", EXIT_CONFIG)


def core_here(settings: "Settings") -> "Core | None":
    """Return the small state, or None where no daemon has run yet."""
    from pipeline.state_file import StateError
    from pipeline.status import core_of

    if not state_file(settings.state_dir).exists():
        return None
    try:
        return core_of(settings, glimpse_here(settings))
    except StateError as error:
        fail(str(error), EXIT_CONFIG)


def daemon_runs(settings: "Settings") -> bool:
    """Whether a daemon owns this state now."""
    from pipeline.state_file import wall_s
    from pipeline.status import owner_status

    if not state_file(settings.state_dir).exists():
        return False
    owner = owner_status(glimpse_here(settings, 0), wall_s(), socket.gethostname())
    return owner.state in ("running", "silent")
