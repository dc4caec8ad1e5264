"""Drives the real engine over a real state file from lists: no broker, no clock, no worker.

``Loop`` folds what ``loop_inputs.Topics`` holds as the daemon does, answers bake-offs at once in
this process, and keeps what came out.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

from adapters.bake_off import run_bake_off
from adapters.bake_off_codec import decode_request, encode_results
from adapters.meta_init import MetaInit
from adapters.model_file import Model
from pipeline.adaptation_worker import Answer
from pipeline.core_state import RouteCore
from pipeline.fold import Fold, refold, shelf_of, state_path
from pipeline.messages import Decision
from pipeline.records import (
    DeadLetter,
    Input,
    ModelsFound,
    Outcome,
    Poll,
    RegistryNews,
    Stream,
    Tick,
)
from pipeline.settings import Settings
from pipeline.state_file import StateFile
from tests.pipeline.loop_inputs import EVENT_MS, START_MS, Topics, as_bytes
from tests.pipeline.small_worlds import (
    HOLDOUT_LOSSES,
    Concept,
    Generator,
    Label,
    features,
    lane_champion,
)
from tests.pipeline.state_tables import tables_of


def answer_of(key: tuple[int, int], request: bytes) -> Answer:
    """Do the worker's work here; the seconds are 0, so the answer has the same bytes each time."""
    results = run_bake_off(decode_request(request), clock=lambda: 0.0)
    return Answer(key, encode_results(results), "")


class Loop:
    """One model's loop.

    Args:
        settings: With ``state_dir``.
        champion: The first one; None when the state has one already.
        losses: Its holdout losses.
        meta_init: What few-step recipes start from.
    """

    def __init__(
        self,
        settings: Settings,
        champion: Model | None = None,
        losses: Sequence[float] = HOLDOUT_LOSSES,
        meta_init: MetaInit | None = None,
    ) -> None:
        self.settings, self.topics, self.now_ms = settings, Topics(), START_MS
        self.inputs: list[Input] = []
        self.predictions: dict[str, dict[str, object]] = {}
        self.dead: list[DeadLetter] = []
        self.decisions: list[Decision] = []
        self.answering = True
        self.next = 0
        self._waiting: list[tuple[int, str, Label]] = []
        self.generator = Generator(7)
        self.open()
        if not self.fold.state.core.versions:
            shelf = self.fold.shelf
            found = ModelsFound(
                shelf.put_model(champion or lane_champion()),
                "imported",
                tuple(losses),
                shelf.put_meta_init(meta_init) if meta_init else "",
                meta_init.recommended if meta_init else "",
                "s0",
            )
            self.step(found)

    def open(self) -> None:
        """Open the state file and own it, as a start does."""
        folder = self.settings.state_dir
        self.file = StateFile(state_path(folder), self.settings.model.name)
        assert self.file.acquire(0.0)
        self.fold = Fold(self.settings, self.file, shelf_of(folder), lambda: 0.0)

    def restart(self) -> None:
        """Forget everything in memory and load it again."""
        self.file.close()
        self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    # ---------------------------------------------------------------- feeding

    def step(self, happened: Input) -> Outcome:
        """Fold one input and whatever bake-off it asks for."""
        self.inputs.append(happened)
        outcome = self.fold.step(happened)
        for key, value in outcome.predictions:
            self.predictions[key.decode()] = json.loads(value)
        self.dead += outcome.dead_letters
        self.decisions += outcome.decisions
        wanted = self.fold.request() if self.answering else None
        if wanted is not None:
            self.step(self.fold.answer(answer_of(*wanted)))
        return outcome

    def poll(
        self,
        events: Sequence[object] = (),
        labels: Sequence[object] = (),
        control: Sequence[object] = (),
    ) -> Outcome:
        """Fold one poll of these messages; a second passes after it."""
        chunks = []
        streams: tuple[tuple[Stream, Sequence[object]], ...] = (
            ("control", control),
            ("events", events),
            ("labels", labels),
        )
        for stream, messages in streams:
            if messages:
                times = [self.now_ms + EVENT_MS * i for i in range(len(messages))]
                chunks.append(self.topics.put(stream, map(as_bytes, messages), times))
        self.now_ms += max(1000, EVENT_MS * max(len(events), 1))
        return self.step(Poll(tuple(chunks), self.now_ms))

    def tick(self, seconds: float) -> Outcome:
        """Let time pass."""
        self.now_ms += int(seconds * 1000)
        return self.step(Tick(self.now_ms))

    def stream(
        self,
        n: int,
        concept: Concept,
        *,
        share: float = 0.5,
        delay: int = 20,
        shift: Sequence[float] = (0.0,) * 4,
        flips: float = 0.02,
        shuffled: float = 0.0,
        at_once: int = 20,
        task: str | None = None,
    ) -> None:
        """Send ``n`` events of a concept; a share of their labels follows ``delay`` events later.

        Args:
            n: Events.
            concept: Says the truth.
            share: Of events whose label comes.
            delay: Events until it does.
            shift: Added to the inputs.
            flips: Share of events that another concept's answer is right for.
            shuffled: Share of labels replaced by a random lane.
            at_once: Events in a poll.
            task: Whose events they are.
        """
        for start in range(0, n, at_once):
            rows = self.generator.rows(min(at_once, n - start), shift)
            events = []
            for row in rows:
                name = f"e{self.next}"
                truth = concept(-row if self.generator.chance(flips) else row)
                if self.generator.chance(shuffled):
                    truth = "up" if self.generator.chance(0.5) else "down"
                if self.generator.chance(share):
                    self._waiting.append((self.next + delay, name, truth))
                whose = {} if task is None else {"task": task}
                events.append({"id": name, "features": features(row), **whose})
                self.next += 1
            due = [w for w in self._waiting if w[0] <= self.next]
            self._waiting = [w for w in self._waiting if w[0] > self.next]
            self.poll(events, [{"id": i, "label": label} for _, i, label in due])

    def until(
        self,
        condition: Callable[[], object],
        concept: Concept,
        *,
        most: int = 1000,
        at_once: int = 20,
    ) -> None:
        """Send events of a concept until something holds; their labels come at once."""
        for _ in range(0, most, at_once):
            if condition():
                return
            self.stream(at_once, concept, delay=0, at_once=at_once)
        raise AssertionError(f"not within {most} events; decided: {self.kinds()}")

    def command(self, verb: str, **facts: object) -> Outcome:
        """Send a command."""
        command = {"verb": verb, "id": f"c{len(self.inputs)}", "by": "ann", **facts}
        return self.poll(control=[command])

    def review(self, verb: str) -> Outcome:
        """Let a person review the rollout's candidate in the registry."""
        assert verb in ("approve", "reject")
        number = self.route.rollout_candidate
        return self.step(
            RegistryNews("review", number, str(number), verb, "bob", "read it", f"{verb} bob")
        )

    # ---------------------------------------------------------------- looking

    @property
    def route(self) -> RouteCore:
        """The one route."""
        return self.fold.state.core.routes["*"]

    @property
    def counts(self) -> dict[str, int]:
        """What was counted."""
        return self.fold.state.core.counts

    def kinds(self) -> list[str]:
        """Return the kinds of all decisions, in order."""
        return [d.kind for d in self.decisions]

    def decided(self, kind: str) -> list[Decision]:
        """Return the decisions of a kind."""
        return [d for d in self.decisions if d.kind == kind]

    def outcomes(self) -> list[object]:
        """Return how each ended episode ended."""
        return [d.facts["outcome"] for d in self.decided("episode-ended")]

    def tables(self) -> dict[str, list[tuple[object, ...]]]:
        """Return the committed state."""
        return tables_of(state_path(self.settings.state_dir))

    def refolded(self, folder: Path) -> dict[str, list[tuple[object, ...]]]:
        """Fold the journal anew, its records read again; return the state it leads to."""
        target = StateFile(folder / "again.sqlite", self.settings.model.name)
        with closing(target):
            assert target.acquire(0.0)
            refold(self.settings, self.file, target, self.fold.shelf, self.topics.read)
            return tables_of(target.path)
