"""Where the demo keeps its files."""

import shutil
from dataclasses import dataclass
from pathlib import Path


class FolderError(Exception):
    """The folder holds something else; says what to do."""


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """The files of one demo, below ``out``."""

    out: Path

    @property
    def config(self) -> Path:
        """Configuration of the daemon."""
        return self.out / "metadrift.yaml"

    @property
    def state(self) -> Path:
        """The daemon's state, models and MLflow store."""
        return self.out / "state"

    @property
    def learning(self) -> Path:
        """Rows that meta-training learns from."""
        return self.out / "learning.parquet"

    @property
    def champion(self) -> Path:
        """The first champion, as a model folder."""
        return self.out / "first-champion"

    @property
    def sent(self) -> Path:
        """The producer's own record."""
        return self.out / "sent.json"

    @property
    def summary(self) -> Path:
        """What happened, and the story's claims."""
        return self.out / "summary.json"

    @property
    def timeline(self) -> Path:
        """The picture."""
        return self.out / "timeline.png"

    def log(self, name: str) -> Path:
        """Return where a process's output goes."""
        return self.out / f"{name}.log"

    def prepare(self) -> None:
        """Make the folder; an earlier demo's files in it are removed.

        Raises:
            FolderError: It holds files and is no earlier demo's.
        """
        if self.out.exists() and any(self.out.iterdir()):
            if not self.config.exists():
                raise FolderError(
                    f"{self.out} is no earlier demo's folder and is not empty: "
                    "name another one with --out"
                )
            for path in (self.state, self.champion):
                shutil.rmtree(path, ignore_errors=True)
            for path in (self.learning, self.sent, self.summary, self.timeline):
                path.unlink(missing_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
