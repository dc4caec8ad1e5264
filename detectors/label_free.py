"""Channel A: watches label-free columns of every event and says when they moved, and since when.

Each value becomes a conformal rank against a sliding reference and a normal score z. Two statistics
per kind of column: **location**, the largest squared window sum of z over windows of 8 to 64 events
divided by its own measured variance (window-limited GLR, Lai 1995), and **tail**, Shiryaev-Roberts
over e-values of the ranks, used only where autocorrelation is weak.

It says that the inputs or the confidence moved, not that the model got worse. After an alarm a kind
is silent until its location statistic has stayed under the threshold for 64 events, or until
`LabelFreeMonitor.calibrate` is called for the model in force: call it after every promotion and
every decided alarm, since what comes after an alarm flows into the reference and its variance.

The reference moves only at every 64th event: decisions do not depend on how events come in calls.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from detectors import label_free_state
from detectors.change_point import shift_start
from detectors.detector_errors import DetectorError, DetectorSnapshotError
from detectors.kind_watch import KindWatch
from detectors.label_free_columns import Column
from detectors.label_free_state import BLOCK, Memory, Parts
from detectors.rank_reference import RankReference, normal_scores, own_scores
from detectors.signals import Signal, SignalKind
from detectors.tail_evidence import TailEvidence
from detectors.window_variance import LEAST_EFFECTIVE, TAIL_LONGEST_RUN, WINDOWS, WindowVariance

LEAST_ROWS = 16
NAME = "label_free"

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelFreeSettings:
    """Thresholds; the defaults gave two false alarms in 600,000 stationary events.

    Attributes:
        location_threshold: In standard deviations of a window sum.
        tail_threshold: Natural logarithm of the tail evidence.
    """

    location_threshold: float = 5.2
    tail_threshold: float = 12.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0.0):
                raise DetectorError(f"label_free.{name}", value, "give a number above 0")


class LabelFreeMonitor:
    """Location and tail statistics per kind over K columns.

    Args:
        columns: What the columns of every matrix are (`LabelFreeReference.signal_columns`).
        settings: Thresholds.

    Raises:
        DetectorError: no columns, or a kind other than CONFIDENCE and FEATURES.
    """

    def __init__(
        self, columns: Sequence[Column], settings: LabelFreeSettings | None = None
    ) -> None:
        allowed = (SignalKind.CONFIDENCE, SignalKind.FEATURES)
        if not columns or any(column.kind not in allowed for column in columns):
            raise DetectorError("columns", columns, "give columns of kind confidence or features")
        self.columns = tuple(columns)
        self.settings = settings or LabelFreeSettings()
        self._kinds = tuple(k for k in allowed if any(c.kind is k for c in columns))
        self._of_kind = {
            k: [i for i, column in enumerate(columns) if column.kind is k] for k in self._kinds
        }
        self._tail = [i for i, column in enumerate(columns) if column.tail]
        self._tail_of = {
            k: np.array([columns[i].kind is k for i in self._tail], dtype=bool) for k in self._kinds
        }
        self._watches = {kind: KindWatch() for kind in self._kinds}
        self._memory: Memory | None = None

    @property
    def calibrated(self) -> bool:
        """Whether `calibrate` was called; before that there is no `update`."""
        return self._memory is not None

    def calibrate(self, matrix: NDArray[np.float32] | Matrix) -> None:
        """Start anew from rows of the promoted task, in stream order, not its training rows.

        Args:
            matrix: ``(n, K)``, at least 16 rows, better 60; the newest 1,000 are used. Columns stay
                off until the reference holds 50 rows worth as much as independent ones.

        Raises:
            DetectorError: too few rows or another number of columns.
        """
        rows = self._rows(matrix)
        if len(rows) < LEAST_ROWS:
            raise DetectorError("calibration rows", len(rows), f"give at least {LEAST_ROWS}")
        memory = Memory(rows)
        self._variance = WindowVariance.calibrate(own_scores(memory.reference()))
        self._evidence = TailEvidence.fresh(1.0 / self._variance.run_length[self._tail])
        self._watches = {kind: KindWatch() for kind in self._kinds}
        self._memory = memory
        self._refresh(memory)

    def update(self, matrix: NDArray[np.float32] | Matrix, first_position: int) -> list[Signal]:
        """Take events in stream order.

        Args:
            matrix: ``(n, K)``. A value that is no number counts as the strangest.
            first_position: Sequence number of the first row; the others follow it.

        Returns:
            The signals, in order; at most one per kind and event.

        Raises:
            DetectorError: not calibrated, or another number of columns.
        """
        memory = self._memory
        if memory is None:
            raise DetectorError("label-free monitor", "new", "call calibrate() before update()")
        rows = self._rows(matrix)
        signals: list[Signal] = []
        done = 0
        while done < len(rows):
            part = rows[done : done + BLOCK - memory.since]
            done += self._step(memory, part, first_position + done, signals)
            if memory.since == BLOCK:
                self._close_block(memory)
        return signals

    def change_point(self) -> int | None:
        """Estimate now of the first event of the newest regime; better 50 events after an alarm.

        None before the first event.
        """
        if self._memory is None or not self._memory.events:
            return None
        kept = label_free_state.KEPT
        start = shift_start(self._memory.scores()[-kept:])
        return int(self._memory.positions()[-kept:][start])

    def _rows(self, matrix: NDArray[np.float32] | Matrix) -> NDArray[np.float32]:
        if matrix.ndim != 2 or matrix.shape[1] != len(self.columns):
            fix = f"give rows of {len(self.columns)} columns"
            raise DetectorError("matrix shape", matrix.shape, fix)
        with np.errstate(over="ignore"):
            rows = matrix.astype(np.float32)
        if not np.isfinite(rows).all():
            largest = float(np.finfo(np.float32).max)
            rows = np.nan_to_num(rows, nan=largest, posinf=largest, neginf=-largest)
        return rows

    def _step(
        self, memory: Memory, rows: NDArray[np.float32], position: int, signals: list[Signal]
    ) -> int:
        """Take rows up to the next alarm or end of a silence; how many were taken."""
        above = self._reference.above(rows, memory.events)
        z = normal_scores(above)
        location = self._location(memory, z)
        path, product, total = self._evidence.path(np.ascontiguousarray(above[:, self._tail]))
        taken = len(rows)
        turning: list[SignalKind] = []
        ratios: dict[SignalKind, tuple[Matrix, Matrix]] = {}
        for kind in self._kinds:
            where = location[:, self._of_kind[kind]].max(axis=1)
            tail = self._tail_share(kind, path)
            ratios[kind] = where, tail
            turn = self._watches[kind].turn(where, tail)
            if turn is not None and turn < taken - 1:
                taken, turning = turn + 1, [kind]
            elif turn is not None and turn == taken - 1:
                turning.append(kind)
        memory.append(rows[:taken], z[:taken], position)
        self._evidence.advance(product[taken - 1], total[taken - 1])
        for kind in self._kinds:
            watch = self._watches[kind]
            where, tail = ratios[kind]
            last = taken - 1
            if kind in turning and not watch.silent:
                signals.append(
                    self._signal(
                        kind, memory, float(where[last]), float(tail[last]), location[last]
                    )
                )
            if kind in turning or watch.silent:
                self._evidence.clear(self._tail_of[kind])
            watch.take(where[:taken], kind in turning)
        return taken

    def _location(self, memory: Memory, z: Matrix) -> Matrix:
        """Location statistic over its threshold squared ``(n, K)``; writes the running sums."""
        first = WINDOWS[-1] + 1 + memory.since
        last = first + len(z)
        sums = memory.sums
        steps = z.copy()
        steps[0] += sums[first - 1]
        now = np.add.accumulate(steps, axis=0, out=sums[first:last])
        best = np.zeros_like(z)
        for i, w in enumerate(WINDOWS):
            moved = now - sums[first - w : last - w]
            moved *= moved
            moved *= self._inverse[i]
            np.maximum(best, moved, out=best)
        return best

    def _tail_share(self, kind: SignalKind, path: Matrix) -> Matrix:
        """Tail statistic over its threshold ``(n,)``; 0 where no column of the kind may use it."""
        used = self._tail_used[kind]
        if not len(used):
            return np.zeros(len(path))
        # Over the columns of both kinds: a mean of its own for each would double the false alarms.
        mean = path[:, used].sum(axis=1) / (3 * int(self._tail_on.sum()))
        share: Matrix = np.log(np.maximum(mean, 1.0)) / self.settings.tail_threshold
        return share

    def _signal(
        self, kind: SignalKind, memory: Memory, where: float, tail: float, location: Matrix
    ) -> Signal:
        if where >= tail:
            of_kind = self._of_kind[kind]
            name = self.columns[max(of_kind, key=location.__getitem__)].name
            statistic = math.sqrt(where) * self.settings.location_threshold
            threshold, what = self.settings.location_threshold, f"location of {name}"
        else:
            threshold, what = self.settings.tail_threshold, "tail of the ranks"
            statistic = tail * threshold
        change_point = self.change_point()
        at = int(memory.positions()[-1])
        since = at if change_point is None else min(change_point, at)
        detail = f"{what}: {statistic:.1f} over {threshold:g}, since event {since}"
        return Signal(kind, NAME, at, since, statistic, threshold, detail)

    def _close_block(self, memory: Memory) -> None:
        memory.close_block()
        older = memory.left_guard()
        if older is not None:
            self._variance.add(older, BLOCK)
        self._evidence.rebase()
        self._refresh(memory)
        self._evidence.clear(~self._tail_on)

    def _refresh(self, memory: Memory) -> None:
        """Everything that follows from the memory at the start of a block."""
        reference = memory.reference()
        self._reference = RankReference(reference)
        square = self.settings.location_threshold**2
        self._inverse = self._variance.inverse(len(reference)) / square
        run = self._variance.run_length[self._tail]
        on = (run <= TAIL_LONGEST_RUN) & (len(reference) / run >= LEAST_EFFECTIVE)
        self._tail_on = on
        self._tail_used = {
            kind: np.flatnonzero(np.concatenate([of_kind & on] * 3))
            for kind, of_kind in self._tail_of.items()
        }

    def snapshot(self) -> bytes:
        """Canonical bytes of the whole state.

        Raises:
            DetectorError: not calibrated: there is nothing to keep.
        """
        if self._memory is None:
            raise DetectorError("label-free monitor", "new", "call calibrate() before snapshot()")
        return label_free_state.pack(
            Parts(
                columns=tuple((c.name, c.kind, c.tail) for c in self.columns),
                settings=asdict(self.settings),
                memory=self._memory,
                variance=self._variance,
                tail=self._evidence,
                watches=self._watches,
            )
        )

    @classmethod
    def restore(cls, packed: bytes) -> "LabelFreeMonitor":
        """The monitor that `snapshot` packed, continuing identically.

        Raises:
            DetectorSnapshotError: the bytes are damaged or of another version.
        """
        parts = label_free_state.unpack(packed)
        try:
            settings = LabelFreeSettings(**parts.settings)
            made = cls([Column(*column) for column in parts.columns], settings)
        except (DetectorError, TypeError) as error:
            raise DetectorSnapshotError(f"snapshot of {NAME}: {error}") from error
        made._memory, made._watches = parts.memory, parts.watches
        made._variance, made._evidence = parts.variance, parts.tail
        made._refresh(parts.memory)
        return made
