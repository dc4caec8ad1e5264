"""A temporary folder with a short path that does not outlive its process by much.

Whoever is killed cannot remove its folder. So each is locked while its owner lives, and the next
owner of such a folder removes those that nobody holds any more. The lock also keeps
systemd-tmpfiles from clearing out a folder that has not changed for days.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "metadrift-serving-"


class ScratchFolder:
    """A new folder, locked until ``remove``; made after those of dead owners were removed.

    Attributes:
        path: Where it is.

    Raises:
        OSError: There is no temporary folder to make it in.
    """

    def __init__(self) -> None:
        _sweep()
        self.path, self._lock = _locked()

    def remove(self) -> None:
        """Remove it and what is in it; harmless when it is gone."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked() -> tuple[Path, int | None]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _lock(path)
        # Another's sweep may have come between the two lines.
        if lock is not None and path.exists():
            return path, lock


def _lock(path: Path) -> int | None:
    """Return the open folder with its lock; None: another holds it, or it is none of ours."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(folder).st_uid == os.getuid():
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder
    except BlockingIOError:
        pass  # its owner lives
    os.close(folder)
    return None


def _sweep() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        lock = _lock(path)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
