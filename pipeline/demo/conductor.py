"""Runs the demo: broker, commands, daemon and producer as processes of their own, and a look."""

import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from adapters.model_file import Model
from pipeline.demo import preparation
from pipeline.demo.broker import broker
from pipeline.demo.chapters import RATE
from pipeline.demo.collect import fitted_models, gather, look
from pipeline.demo.folder import DemoFolder
from pipeline.demo.kafka_answers import KafkaAnswers
from pipeline.demo.live_view import LiveView, Look
from pipeline.demo.phase import phase_of
from pipeline.demo.processes import METADRIFT, CommandError, running
from pipeline.demo.record import Losses, Record, losses_on
from pipeline.demo.script import Script, write_script
from pipeline.settings import Settings, load_settings
from pipeline.state_file import StateError

READY_S = 60.0
LOOK_S = 0.5
RECENT = 100
SETTLE_S = 10.0
"""Longest wait for the last answers and labels after the producer's end."""
OUTBOX_S = 20.0
"""Longest wait for MLflow to be told everything."""
SLOWEST = 2.0
"""The stream may take this many times its planned length before the demo gives up."""


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """A demo that was played.

    Attributes:
        record: What it left.
        settings: The daemon's.
        seconds: By phase.
    """

    record: Record
    settings: Settings
    seconds: dict[str, float]


def perform(folder: DemoFolder, seed: int, view: LiveView) -> Played:
    """Play the demo from an empty folder to its record.

    Raises:
        BrokerError: No broker could be had.
        CommandError: One of metadrift's own commands failed.
        FolderError: The folder holds something else.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, words: str, work: Callable[[], None]) -> None:
        view.step(words)
        began_s = time.monotonic()
        work()
        seconds[name] = round(time.monotonic() - began_s, 1)

    folder.prepare()
    with broker(folder.log("broker")) as servers:
        timed(
            "files",
            "writing configuration, rows and the first champion",
            lambda: preparation.write_files(folder, seed, servers),
        )
        timed("topics", "metadrift init --topics", lambda: preparation.make_topics(folder))
        timed("import", "metadrift model import", lambda: preparation.import_champion(folder))
        timed(
            "meta-train",
            "metadrift meta-train: Reptile and MAML over 40 plans, in two processes",
            lambda: preparation.meta_train(folder, seed),
        )
        settings = load_settings(folder.config)
        run = [*METADRIFT, "run", "-c", str(folder.config)]
        play = [sys.executable, "-m", "pipeline.demo.play"]
        play += [str(seed), str(folder.config), str(folder.sent)]
        with (
            running(run, folder.log("daemon")) as daemon,
            running(play, folder.log("producer")) as producer,
        ):
            timed("start", "metadrift run", lambda: _ready(daemon, settings, folder.log("daemon")))
            answers = KafkaAnswers(settings.kafka)
            stream = _Stream(folder, settings, seed, (daemon, producer), answers, view)
            try:
                timed("stream", "the stream begins", stream.play)
                timed("settle", "the last labels", stream.settle)
            finally:
                answers.close()
        record = gather(folder, settings, stream.script, answers.served, stream.fitted)
    return Played(record, settings, seconds)


def _ready(daemon: "subprocess.Popen[bytes]", settings: Settings, log: Path) -> None:
    """Wait until the daemon says that it is ready."""
    address = settings.state_dir / "http.json"
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        _alive(daemon, log)
        if address.exists() and _answers_ready(address):
            return
        time.sleep(0.1)
    raise CommandError(f"metadrift run was not ready within {READY_S:g} s; see {log}")


def _answers_ready(address: Path) -> bool:
    try:
        at = json.loads(address.read_text(encoding="utf-8"))
        url = f"http://{at['host']}:{at['port']}/readyz"
        return httpx.get(url, timeout=1).status_code == httpx.codes.OK
    except (httpx.HTTPError, ValueError):
        return False


def _alive(daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    if daemon.poll() is not None:
        raise CommandError(f"metadrift run ended with code {daemon.returncode}; see {log}")


class _Stream:
    """The stream in progress."""

    def __init__(
        self,
        folder: DemoFolder,
        settings: Settings,
        seed: int,
        processes: "tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]",
        answers: KafkaAnswers,
        view: LiveView,
    ) -> None:
        self.script: Script = write_script(seed)
        self.fitted: list[Model] = []
        self._folder, self._settings, self._seed = folder, settings, seed
        self._daemon, self._producer = processes
        self._answers, self._view = answers, view
        self._frozen: Losses = np.empty(0)
        self._past: deque[tuple[float, int]] = deque(maxlen=10)

    def play(self) -> None:
        """Let the producer begin, and show the loop until the last message is sent."""
        producer, log = self._producer, self._folder.log("producer")
        if producer.poll() is None and producer.stdin is not None:
            producer.stdin.write(b"begin\n")
            producer.stdin.close()
        until_s = time.monotonic() + SLOWEST * self.script.ends_s
        self.fitted = fitted_models(self.script, self._seed)
        self._frozen = losses_on(self.fitted[0], self.script.pixels, self.script.truth)
        while producer.poll() is None:
            if time.monotonic() > until_s:
                raise CommandError(f"the producer did not end in time; see {log}")
            _alive(self._daemon, self._folder.log("daemon"))
            self._look()
            time.sleep(LOOK_S)
        if producer.returncode:
            raise CommandError(f"the producer ended with code {producer.returncode}; see {log}")

    def settle(self) -> None:
        """Wait for the last answers and labels, and for MLflow to be told everything."""
        began_s = time.monotonic()
        every, labels = len(self.script.ids), len(self.script.labelled)
        while time.monotonic() < began_s + SETTLE_S:
            core, _, _ = look(self._settings, 1)
            if len(self._answers.served) >= every and core.counts.get("labels", 0) >= labels:
                break
            time.sleep(0.1)
        while time.monotonic() < began_s + SETTLE_S + OUTBOX_S:
            if look(self._settings, 1)[2] == 0:
                break
            time.sleep(0.2)

    def _look(self) -> None:
        try:
            core, decisions, _ = look(self._settings, 40)
        except StateError:
            return
        served = dict(self._answers.served)
        n = len(served)
        recent = range(max(0, n - RECENT), n)
        right = [served.get(self.script.ids[k]) == self.script.truth[k] for k in recent]
        at = min(n, len(self.script.ids) - 1)
        stretch = next(
            s
            for s, end in zip(self.script.stretches, self.script.starts[1:], strict=True)
            if at < end
        )
        self._view.show(
            Look(
                chapter=stretch.name,
                events=n,
                of=len(self.script.ids),
                rate=self._rate(n),
                served=sum(right) / len(right) if right else None,
                frozen=float(1 - self._frozen[recent.start : n].mean()) if n else None,
                phase=phase_of(core),
                decisions=decisions,
            )
        )

    def _rate(self, n: int) -> float:
        now_s = time.monotonic()
        self._past.append((now_s, n))
        then_s, then = self._past[0]
        return (n - then) / (now_s - then_s) if now_s > then_s else float(RATE)
