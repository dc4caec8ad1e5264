"""What the worker is sent, built from the state alone, so a restart asks the same question."""

from adapters.bake_off import BakeOff
from adapters.bake_off_codec import encode_request
from pipeline.core_state import Episode
from pipeline.engine_state import EngineState
from pipeline.episode_holdout import examples_of
from pipeline.example_rows import examples_as_rows
from pipeline.model_shelf import ModelShelf
from pipeline.remembered_tasks import recallable
from pipeline.settings import Settings
from pipeline.turn import Turn


def wanted(state: EngineState) -> Episode | None:
    """Return the episode that waits for the worker, if any."""
    for route in state.core.routes.values():
        episode = route.episode
        if episode is not None and episode.phase == "adapting" and episode.request is not None:
            return episode
    return None


def build_request(settings: Settings, state: EngineState, shelf: ModelShelf, route: str) -> bytes:
    """Return the request of a route's episode as bytes.

    Raises:
        ValueError: The route's episode waits for no worker.
    """
    core, memory = state.core, state.core.routes[route]
    episode = memory.episode
    if episode is None or episode.request is None:
        raise ValueError(f"no episode of route {route} waits for the worker")
    request = episode.request
    turn = Turn(settings, shelf.model, shelf.result, state)
    parts = [
        examples_as_rows(turn, route, examples_of(turn, route, numbers))
        for numbers in (request.support, request.query, request.holdout, request.evidence)
    ]
    champion = shelf.model(core.versions[memory.champion].digest)
    return encode_request(
        BakeOff(
            recipes=tuple(request.recipes),
            support=parts[0],
            query=parts[1],
            holdout=parts[2],
            champion=champion,
            earlier={t.name: shelf.model(t.digest) for t in recallable(turn, route)},
            meta_init=shelf.meta_init(core.meta_init) if core.meta_init else None,
            seed=settings.episode.seed + episode.number,
            schema=champion.schema,
            new_classes=tuple(episode.new_classes),
            evidence=parts[3],
        )
    )
