"""Plays the rows of a file into the topics, as a producer in production would.

Decides what goes out when; ``kafka_producer.py`` sends it. The clock is an argument.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

import msgspec

from pipeline.data_file import FileRow
from pipeline.label_schedule import EventItem, LabelItem, schedule
from pipeline.records import Stream

MOST_WAITING = 100_000
"""Labels that may wait for their time; past that the events wait for the labels."""


class Outlet(Protocol):
    """Where messages go."""

    def send(self, stream: Stream, key: bytes, value: bytes) -> None:
        """Send one message; may wait until there is room."""

    def flush(self) -> None:
        """Return once everything sent has arrived."""


class Clock(Protocol):
    """Time, and waiting that can be cut short."""

    def now_s(self) -> float:
        """Return seconds since some moment; never falls."""

    def epoch_ms(self) -> int:
        """Return the wall clock, epoch milliseconds."""

    def wait(self, seconds: float) -> bool:
        """Wait; True as soon as the play is to stop."""


class StopClock:
    """The real clock; ``stop()`` ends every wait, now and later."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def now_s(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def epoch_ms(self) -> int:
        """Return the host's clock, epoch milliseconds."""
        return time.time_ns() // 1_000_000

    def wait(self, seconds: float) -> bool:
        """Wait; True as soon as ``stop`` was called."""
        return self._stopped.wait(seconds) if seconds > 0 else self._stopped.is_set()

    def stop(self) -> None:
        """End the play."""
        self._stopped.set()


@contextmanager
def stopping_on_signals(clock: StopClock) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM stop the clock; afterwards they are as before.

    Main thread only.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        clock.stop()

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class PlayPlan:
    """How a file is played.

    Attributes:
        rate: Events a second; None: as fast as they are taken.
        label_fraction: Share of the rows whose label is sent.
        label_delay: Events between a row and its label.
        label_delay_s: Seconds between a row and its label; takes the place of ``label_delay``.
        seed: Decides which labels are sent.
        file_times: Whether ``ts`` is the row's own time; else the time of sending.
    """

    rate: float | None = None
    label_fraction: float = 1.0
    label_delay: int = 0
    label_delay_s: float | None = None
    seed: int = 0
    file_times: bool = False

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"rate is {self.rate}: use more than 0 events a second, or none")
        if self.label_delay_s is not None and self.label_delay:
            raise ValueError(
                f"label_delay ({self.label_delay} events) and label_delay_s "
                f"({self.label_delay_s} s) are both set: use one of them"
            )
        if self.label_delay_s is not None and not self.label_delay_s >= 0:
            raise ValueError(f"label_delay_s is {self.label_delay_s}: use 0 or more seconds")


@dataclass(frozen=True, slots=True)
class PlayCounts:
    """What a play did.

    Attributes:
        events: Events sent.
        labels: Labels sent.
        labels_unsent: Labels whose time had not come when the play was stopped.
        seconds: From the first event until the broker had everything.
        stopped: Whether the play was ended early.
    """

    events: int
    labels: int
    labels_unsent: int
    seconds: float
    stopped: bool


Ask = Callable[[FileRow], dict[str, object]]
"""Returns what an answer adds to the event."""


def play(
    rows: Iterable[FileRow],
    plan: PlayPlan,
    outlet: Outlet,
    clock: Clock,
    ask: Ask | None = None,
) -> PlayCounts:
    """Send events at the plan's rate and labels when they are due, in stream order.

    A label that is due is sent before the next event. At the end labels that are due later are
    still waited for; after a stop they are not.

    Args:
        rows: Of the file.
        plan: What goes out when.
        outlet: Where to.
        clock: Time.
        ask: Asked about each row before its event goes out; None: nobody is.
    """
    return _Play(plan, outlet, clock, ask).run(rows)


class _Play:
    def __init__(self, plan: PlayPlan, outlet: Outlet, clock: Clock, ask: Ask | None) -> None:
        self._plan, self._outlet, self._clock, self._ask = plan, outlet, clock, ask
        self._encode = msgspec.json.Encoder().encode
        self._waiting: deque[tuple[float, FileRow]] = deque()
        self._events = self._labels = 0
        self._start_s = clock.now_s()

    def run(self, rows: Iterable[FileRow]) -> PlayCounts:
        stopped = False
        for item in schedule(
            rows, self._plan.label_fraction, self._plan.label_delay, self._plan.seed
        ):
            match item:
                case EventItem():
                    stopped = self._wait_for_event()
                    if stopped:
                        break
                    self._send_event(item.row)
                case LabelItem() if self._plan.label_delay_s is None:
                    self._send_label(item.row)
                case LabelItem():
                    due_s = self._clock.now_s() + self._plan.label_delay_s
                    self._waiting.append((due_s, item.row))
        while self._waiting and not stopped:
            stopped = self._wait_for_label()
        self._outlet.flush()
        return PlayCounts(
            events=self._events,
            labels=self._labels,
            labels_unsent=len(self._waiting),
            seconds=self._clock.now_s() - self._start_s,
            stopped=stopped,
        )

    def _wait_for_event(self) -> bool:
        """Wait until the next event may go out, sending the labels that come due first."""
        rate = self._plan.rate
        at_s = self._start_s + self._events / rate if rate else self._clock.now_s()
        while self._waiting and (self._waiting[0][0] <= at_s or len(self._waiting) >= MOST_WAITING):
            if self._wait_for_label():
                return True
        return self._clock.wait(at_s - self._clock.now_s())

    def _wait_for_label(self) -> bool:
        due_s, row = self._waiting[0]
        if self._clock.wait(due_s - self._clock.now_s()):
            return True
        self._waiting.popleft()
        self._send_label(row)
        return False

    def _send_event(self, row: FileRow) -> None:
        event: dict[str, object] = {"id": row.id, "ts": self._ts(row), "features": row.features}
        if row.task is not None:
            event["task"] = row.task
        if row.group is not None:
            event["group"] = row.group
        if self._ask is not None:
            event |= self._ask(row)
        self._outlet.send("events", row.id.encode(), self._encode(event))
        self._events += 1

    def _send_label(self, row: FileRow) -> None:
        if row.label is None:
            return
        label = {"id": row.id, "label": row.label, "ts": self._ts(row)}
        self._outlet.send("labels", row.id.encode(), self._encode(label))
        self._labels += 1

    def _ts(self, row: FileRow) -> int:
        return row.ts_ms if self._plan.file_times else self._clock.epoch_ms()
