"""One step with its commit: what the live daemon, replay and the recovery of a crash share."""

from collections.abc import Callable
from pathlib import Path

from adapters.bake_off_codec import decode_results, encode_results
from pipeline.adaptation_worker import Answer
from pipeline.bake_off_request import build_request, wanted
from pipeline.engine import Engine
from pipeline.engine_state import EngineState, load_state
from pipeline.journal import ReadRanges, read_entry, write_entry
from pipeline.model_shelf import ModelShelf
from pipeline.records import BakeOffDone, Input, Outcome, RouteAdapted
from pipeline.route_answer import build_route_request, shelve_answer
from pipeline.settings import Settings
from pipeline.state_file import StateFile

FOR_A_TASK = 0
"""In a request's key, the place of the episode: episodes are counted from 1."""

Publish = Callable[[Outcome, EngineState], None]
"""Hands a step's messages out before the step is committed; raises when it cannot."""


class Fold:
    """The state in memory, the file that holds it, and the engine between them.

    Args:
        settings: The configuration.
        file: Owned by this process.
        shelf: Where models and bake-off results lie.
        wall_s: The host's clock, seconds since the epoch.
    """

    def __init__(
        self, settings: Settings, file: StateFile, shelf: ModelShelf, wall_s: Callable[[], float]
    ) -> None:
        self.settings, self.file, self.shelf, self._wall_s = settings, file, shelf, wall_s
        self.engine = Engine(settings, shelf.model, shelf.result)
        self.state = load_state(settings, file)

    def step(self, happened: Input, publish: Publish | None = None) -> Outcome:
        """Take one input: decide, publish, commit.

        Raises:
            NotOwnerError: Another process owns the model now; nothing was committed.
        """
        entry = write_entry(happened)
        if publish is not None:
            self.file.intend(entry)
        outcome = self.engine.step(self.state, happened)
        if publish is not None:
            publish(outcome, self.state)
        self.file.commit(entry, self.state.changes(outcome), self._wall_s())
        return outcome

    def request(self) -> tuple[tuple[int, int], bytes] | None:
        """Return the bake-off that the state asks for, with its key, if any; episodes go first."""
        state = self.state
        episode = wanted(state)
        if episode is not None and episode.request is not None:
            route = next(n for n, r in state.core.routes.items() if r.episode is episode)
            request = build_request(self.settings, state, self.shelf, route)
            return (episode.number, episode.request.number), request
        routing = state.core.routing
        if routing is None or not routing.waiting:
            return None
        first, own = routing.waiting[0], self.engine.own_models
        request = build_route_request(self.settings, state, self.shelf, own, first)
        return (FOR_A_TASK, first.number), request

    def answer(self, answer: Answer) -> BakeOffDone | RouteAdapted:
        """Put a worker's answer on the shelf and return it as an input."""
        episode, request = answer.key
        if episode == FOR_A_TASK:
            return self._about_a_task(request, answer)
        if answer.error:
            return BakeOffDone(episode, request, "", answer.error)
        kept = encode_results(decode_results(answer.result), self.shelf.put_model)
        return BakeOffDone(episode, request, self.shelf.put_result(kept))

    def _about_a_task(self, number: int, answer: Answer) -> RouteAdapted:
        routing = self.state.core.routing
        asked = [r for r in routing.waiting if r.number == number] if routing else []
        if answer.error or not asked:
            return RouteAdapted(number, "", answer.error or "nobody waits for it any more")
        return RouteAdapted(number, shelve_answer(self.state, self.shelf, asked[0], answer.result))


def refold(
    settings: Settings,
    journal: StateFile,
    target: StateFile,
    shelf: ModelShelf,
    read: ReadRanges,
    after: int = 0,
) -> EngineState:
    """Fold a journal anew into another state file; return the state it leads to.

    Args:
        settings: As the journal was made with.
        journal: Read.
        target: Written, owned by this process; holds the state after entry ``after``.
        shelf: Of the journal's daemon.
        read: Returns the records of offset ranges again.
        after: Number of the entry to begin behind; 0: the journal is whole.
    """
    fold = Fold(settings, target, shelf, lambda: 0.0)
    for entry in journal.journal(after):
        fold.step(read_entry(entry, read))
    return fold.state


def shelf_of(state_dir: Path) -> ModelShelf:
    """Return the shelf in a state folder."""
    return ModelShelf(state_dir / "shelf")


def state_path(state_dir: Path) -> Path:
    """Return where a state folder keeps its state file."""
    return state_dir / "state.sqlite"
