"""When a kind of label-free signal speaks, and when it is silent after it spoke."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUIET_EVENTS = 64

Matrix = NDArray[np.float64]


@dataclass(slots=True)
class KindWatch:
    """Silent from an alarm on until the location statistic was quiet for 64 events in a row.

    Attributes:
        silent: Whether an alarm was raised that has not gone quiet yet.
        quiet: Quiet events in a row while silent, 0 to 63.
    """

    silent: bool = False
    quiet: int = 0

    def turn(self, where: Matrix, tail: Matrix) -> int | None:
        """Row at which it alarms, or at which its silence ends; None within these rows.

        Args:
            where: Location statistic over its threshold ``(n,)``, at most 64 rows.
            tail: Tail statistic over its threshold ``(n,)``.
        """
        if not self.silent:
            if max(where.max(), tail.max()) <= 1.0:
                return None
            return int(np.argmax((where > 1.0) | (tail > 1.0)))
        # At most 64 rows, so a quiet run that began behind a loud row cannot end among them.
        end = QUIET_EVENTS - self.quiet - 1
        loud = np.flatnonzero(where > 1.0)
        first_loud = int(loud[0]) if len(loud) else len(where)
        return end if end < first_loud else None

    def take(self, where: Matrix, turned: bool) -> None:
        """Take the rows up to and with the turn."""
        if turned:
            self.silent, self.quiet = not self.silent, 0
        elif self.silent:
            loud = np.flatnonzero(where > 1.0)
            self.quiet = len(where) - 1 - int(loud[-1]) if len(loud) else self.quiet + len(where)
