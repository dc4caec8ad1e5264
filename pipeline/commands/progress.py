"""Progress bars on standard error, one per kind of work."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Bars:
    """Shows one bar per thing that is told about."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bars: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def tell(self, what: str, done: int, of: int) -> None:
        """Say how far something is."""
        if what not in self._bars:
            self._bars[what] = self._progress.add_task(what, total=of)
        self._progress.update(self._progress.tasks[self._bars[what]].id, completed=done, total=of)
