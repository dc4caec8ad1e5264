"""What the worker is sent, built from the state alone, so a restart asks the same question."""

import numpy as np

from adapters.bake_off import BakeOff
from adapters.bake_off_codec import encode_request
from adapters.examples import Examples
from adapters.model_file import lineage_key
from pipeline.core_state import Episode
from pipeline.engine_state import EngineState
from pipeline.episode_holdout import examples_of
from pipeline.example_buffer import Example, rows_of
from pipeline.model_shelf import ModelShelf
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
        _examples(turn, examples_of(turn, route, numbers))
        for numbers in (request.support, request.query, request.holdout)
    ]
    champion = shelf.model(core.versions[memory.champion].digest)
    earlier = memory.earlier[: settings.episode.earlier_champions]
    return encode_request(
        BakeOff(
            recipes=tuple(request.recipes),
            support=parts[0],
            query=parts[1],
            holdout=parts[2],
            champion=champion,
            earlier={core.versions[v].name: shelf.model(core.versions[v].digest) for v in earlier},
            meta_init=shelf.meta_init(core.meta_init) if core.meta_init else None,
            seed=settings.episode.seed + episode.number,
            schema=champion.schema,
            new_classes=tuple(episode.new_classes),
        )
    )


def _examples(turn: Turn, examples: list[Example]) -> Examples:
    if not examples:
        return Examples(turn.champion("*").schema.parse_many([]).rows)
    keys = np.array([lineage_key(e.group or e.id) for e in examples], np.uint64)
    rows = rows_of(examples)
    if turn.settings.model.task_type == "regression":
        return Examples(rows, values=np.array([e.label for e in examples]), keys=keys)
    classes = turn.core.classes
    return Examples(rows, tuple(classes[int(e.label)] for e in examples), keys=keys)
