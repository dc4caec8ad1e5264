import json
import os
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data_file import FileRow
from pipeline.messages import MESSAGES
from pipeline.producer import (
    PlayCounts,
    PlayPlan,
    StopClock,
    Stream,
    play,
    stopping_on_signals,
)


class ManualClock:
    """Time passes only by waiting; ``stop_at_s`` ends the play."""

    def __init__(self, stop_at_s: float = float("inf")) -> None:
        self.s, self.stop_at_s = 0.0, stop_at_s

    def now_s(self) -> float:
        return self.s

    def epoch_ms(self) -> int:
        return round(1_000_000 + self.s * 1000)

    def wait(self, seconds: float) -> bool:
        self.s = min(self.s + max(0.0, seconds), self.stop_at_s)
        return self.s >= self.stop_at_s


class ListOutlet:
    """Remembers what was sent, and when."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.flushes = clock, 0
        self.sent: list[tuple[float, Stream, bytes, dict[str, object]]] = []

    def send(self, stream: Stream, key: bytes, value: bytes) -> None:
        self.sent.append((self.clock.s, stream, key, json.loads(value)))

    def flush(self) -> None:
        self.flushes += 1

    def words(self) -> str:
        return " ".join(f"{s[0]}{k.decode()}@{t:g}" for t, s, k, _ in self.sent)


def rows(n: int) -> list[FileRow]:
    return [FileRow(i, f"{i}", 5000 + i, {"x": float(i)}, "a", "t", "g", False) for i in range(n)]


def played(
    n: int, plan: PlayPlan, stop_at_s: float = float("inf")
) -> tuple[ListOutlet, PlayCounts]:
    clock = ManualClock(stop_at_s)
    outlet = ListOutlet(clock)
    counts = play(rows(n), plan, outlet, clock)
    assert outlet.flushes == 1
    return outlet, counts


def test_labels_come_events_later() -> None:
    outlet, counts = played(3, PlayPlan(rate=2, label_delay=1))
    assert outlet.words() == "e0@0 e1@0.5 l0@0.5 e2@1 l1@1 l2@1"
    assert (counts.events, counts.labels, counts.labels_unsent, counts.stopped) == (3, 3, 0, False)


def test_labels_come_seconds_later_between_the_events() -> None:
    outlet, counts = played(3, PlayPlan(rate=2, label_delay_s=0.75))
    assert outlet.words() == "e0@0 e1@0.5 l0@0.75 e2@1 l1@1.25 l2@1.75"
    assert counts.seconds == 1.75


def test_a_stop_sends_no_more_and_counts_what_is_left() -> None:
    outlet, counts = played(10, PlayPlan(rate=2, label_delay_s=0.75), stop_at_s=1.1)
    assert outlet.words() == "e0@0 e1@0.5 l0@0.75 e2@1"
    assert (counts.events, counts.labels, counts.labels_unsent, counts.stopped) == (3, 1, 2, True)


def test_messages_are_of_the_contract() -> None:
    import msgspec

    outlet, _ = played(1, PlayPlan(rate=1))
    event, label = (m for _, _, _, m in outlet.sent)
    assert event == {"id": "0", "ts": 1_000_000, "features": {"x": 0.0}, "task": "t", "group": "g"}
    assert label == {"id": "0", "label": "a", "ts": 1_000_000}
    msgspec.convert(event, MESSAGES["events"])
    msgspec.convert(label, MESSAGES["labels"])
    outlet, _ = played(1, PlayPlan(rate=1, file_times=True))
    assert [m["ts"] for _, _, _, m in outlet.sent] == [5000, 5000]


@given(
    st.integers(0, 30),
    st.one_of(st.none(), st.floats(0.5, 50)),
    st.one_of(st.none(), st.floats(0, 5)),
    st.floats(0, 1),
)
def test_each_event_once_and_its_label_after_it(
    n: int, rate: float | None, delay_s: float | None, fraction: float
) -> None:
    outlet, counts = played(n, PlayPlan(rate=rate, label_delay_s=delay_s, label_fraction=fraction))
    order = [(s, k) for _, s, k, _ in outlet.sent]
    assert [k for s, k in order if s == "events"] == [str(i).encode() for i in range(n)]
    assert counts.events == n
    at = {(s, k): t for t, s, k, _ in outlet.sent}
    for stream, key in order:
        if stream == "labels":
            assert order.index(("events", key)) < order.index(("labels", key))
            assert at["labels", key] >= at["events", key] + (delay_s or 0) - 1e-9


def test_waiting_labels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.producer.MOST_WAITING", 2)
    outlet, counts = played(5, PlayPlan(label_delay_s=10))
    assert outlet.words().startswith("e0@0 e1@0 l0@10 e2@10 l1@10 e3@10 l2@20")
    assert counts.labels == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.0},
        {"rate": float("nan")},
        {"label_delay_s": -1.0},
        {"label_delay": 3, "label_delay_s": 1.0},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="use"):
        PlayPlan(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    clock = StopClock()
    with stopping_on_signals(clock):
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        start = time.monotonic()
        assert clock.wait(30.0)
        assert time.monotonic() - start < 25
    assert signal.getsignal(number) is before
