"""What the worker is asked about a task's own weights, and its answer as it lies on the shelf.

A thousand answers must not be a thousand models: the candidate is kept as its difference to the
start that it came from (or to the champion, for fine-tuning), and put together again when it is
used.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from adapters.bake_off import BakeOff, RecipeResult
from adapters.bake_off_codec import decode_results, encode_request
from adapters.examples import Examples
from adapters.model_file import Model, model_digest
from adapters.start_model import start_model
from adapters.weight_difference import pack_difference, unpack_difference
from pipeline.core_state import ONE_ROUTE, RouteRequest
from pipeline.engine_state import EngineState
from pipeline.example_rows import examples_as_rows
from pipeline.model_shelf import ModelShelf
from pipeline.settings import Settings
from pipeline.turn import Turn

FINE_TUNE = "fine_tune"
OWN = "own"


class RouteAnswer(msgspec.Struct, frozen=True):
    """What came of one try, with losses in [0, 1] on the same holdout examples.

    Attributes:
        recipe: How the candidate was made.
        message: Why there is no candidate, or what was dropped.
        fall_back: The champion's losses.
        own: Losses of the weights that the task had; empty where it had none.
        candidate: The candidate's losses; empty where there is none.
        base: Digest of the model that the candidate differs from.
        difference: The candidate, as ``adapters.weight_difference`` packs it.
    """

    recipe: str
    message: str
    fall_back: list[float]
    own: list[float]
    candidate: list[float]
    base: str
    difference: bytes


def decode_answer(stored: bytes) -> RouteAnswer:
    """Read an answer from the shelf."""
    return msgspec.msgpack.decode(stored, type=RouteAnswer)


class RouteModels:
    """Models of tasks by the digest of their answer, the recently used ones in memory.

    Args:
        models: Returns a model on the shelf by its digest.
        results: Returns a stored answer by its digest.
        in_memory: Most models kept.
    """

    def __init__(
        self, models: Callable[[str], Model], results: Callable[[str], bytes], in_memory: int
    ) -> None:
        self._models, self._results, self._most = models, results, in_memory
        self._kept: OrderedDict[str, Model] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, answer: str) -> Model:
        """Return the model that an answer holds.

        Raises:
            ModelFileError: It is not what its digest says.
        """
        model = self._kept.get(answer)
        if model is None:
            stored = decode_answer(self._results(answer))
            model = unpack_difference(stored.difference, self._models(stored.base))
            self._kept[answer] = model
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(answer)
        return model


def build_route_request(
    settings: Settings,
    state: EngineState,
    shelf: ModelShelf,
    own: Callable[[str], Model],
    request: RouteRequest,
) -> bytes:
    """Return the worker's request for a task's own weights.

    Args:
        settings: The configuration.
        state: Holds the task's examples.
        shelf: Holds champion and meta-init.
        own: Returns the model of an answer.
        request: What is wanted.
    """
    core, live = state.core, state.task_routes.get(request.task)
    turn = Turn(settings, shelf.model, shelf.result, state)
    champion = turn.champion(ONE_ROUTE)
    examples = live.buffer.all() if live is not None else []

    def part(numbers: Sequence[int]) -> Examples:
        wanted = set(numbers)
        return examples_as_rows(turn, ONE_ROUTE, [e for e in examples if e.number in wanted])

    return encode_request(
        BakeOff(
            recipes=("frozen", *(["recalled"] if request.own else []), request.recipe),
            support=part(request.support),
            query=part([]),
            holdout=part(request.holdout),
            champion=champion,
            earlier={OWN: own(request.own)} if request.own else {},
            meta_init=shelf.meta_init(core.meta_init) if core.meta_init else None,
            seed=settings.episode.seed + request.number,
            schema=champion.schema,
        )
    )


def shelve_answer(
    state: EngineState, shelf: ModelShelf, request: RouteRequest, answer: bytes
) -> str:
    """Put what the worker answered on the shelf, its model as a difference; return its digest."""
    core = state.core
    results = {r.name: r for r in decode_results(answer)}
    best = results[request.recipe]
    base, difference = "", b""
    if best.outcome == "ok" and best.model is not None:
        base = core.versions[core.routes[ONE_ROUTE].champion].digest
        if core.meta_init and request.recipe != FINE_TUNE:
            init = shelf.meta_init(core.meta_init)
            start = start_model(init, request.recipe, shelf.model(base))
            if start is not None:
                base = model_digest(start)
                if not shelf.model_folder(base).exists():
                    shelf.put_model(start)
        difference = pack_difference(best.model, shelf.model(base))
    stored = RouteAnswer(
        recipe=request.recipe,
        message=best.message,
        fall_back=_losses(results.get("frozen")),
        own=_losses(results.get(f"recalled:{OWN}")),
        candidate=_losses(best) if difference else [],
        base=base,
        difference=difference,
    )
    return shelf.put_result(msgspec.msgpack.encode(stored))


def _losses(result: RecipeResult | None) -> list[float]:
    return [] if result is None else np.asarray(result.holdout_losses, np.float64).tolist()
