"""The daemon's pure core: what happened goes in, what to do comes out.

It opens no connection and reads no clock. The shells (``pipeline.daemon``, ``pipeline.replay``)
feed it inputs in order, store each beside the state it led to, and carry out what it calls for.
So the state is a fold of the engine over the journal, and a crash changes nothing.
"""

from collections.abc import Callable
from typing import assert_never

from adapters.model_file import Model
from pipeline.codec import LONGEST_LEAD_MS, Codec
from pipeline.commands_in import carry_out, review
from pipeline.core_state import Version
from pipeline.engine_state import EngineState
from pipeline.episodes import advance_episode, bake_off_done
from pipeline.labelling import join_labels, join_waiting
from pipeline.recording import mark_offsets, register
from pipeline.records import (
    BakeOffDone,
    Input,
    ModelsFound,
    Outcome,
    Poll,
    RegistryNews,
    RouteAdapted,
    ServingSeen,
    Tick,
)
from pipeline.rollouts import advance_rollouts
from pipeline.route_answer import RouteModels
from pipeline.routing import route_adapted
from pipeline.scoring import score_events
from pipeline.serving_news import take_serving
from pipeline.settings import Settings
from pipeline.signals import reconsider
from pipeline.turn import Turn, version_name


class Engine:
    """Turns one input into a change of the state and what it calls for.

    Args:
        settings: The configuration.
        models: Returns a model by its digest; the same value every time.
        results: Returns a stored bake-off answer by its digest.
    """

    def __init__(
        self,
        settings: Settings,
        models: Callable[[str], Model],
        results: Callable[[str], bytes],
    ) -> None:
        self.settings = settings
        self._models, self._results = models, results
        self.own_models = RouteModels(models, results, settings.routes.in_memory)
        self._codec = Codec(settings.kafka.max_message_bytes)

    def step(self, state: EngineState, happened: Input) -> Outcome:
        """Update ``state`` in place; return what is to be published and done."""
        turn = Turn(self.settings, self._models, self._results, state, self.own_models)
        match happened:
            case Poll():
                self._poll(turn, happened)
            case Tick():
                state.core.time_ms = max(state.core.time_ms, happened.now_ms)
            case BakeOffDone():
                bake_off_done(turn, happened)
            case RouteAdapted():
                route_adapted(turn, happened)
            case RegistryNews():
                review(turn, happened)
            case ModelsFound():
                _adopt(turn, happened)
            case ServingSeen():
                take_serving(turn, happened)
            case _:
                assert_never(happened)
        for route in state.core.routes:
            if state.core.routes[route].champion:
                advance_rollouts(turn, route)
                advance_episode(turn, route)
                reconsider(turn, route)
        if self.settings.join.window_s is not None:
            state.window.expire(state.core.time_ms - int(self.settings.join.window_s * 1000))
        state.core.count("dead_letters", len(turn.outcome.dead_letters))
        return turn.outcome

    def _poll(self, turn: Turn, poll: Poll) -> None:
        core, dead, chunks = turn.core, turn.outcome.dead_letters, poll.chunks
        latest = poll.host_ms + LONGEST_LEAD_MS
        for chunk in chunks:
            newest = max((t for t in chunk.times_ms if t <= latest), default=0)
            core.time_ms = max(core.time_ms, newest)
            core.positions[f"{chunk.topic}/{chunk.partition}"] = chunk.offsets[-1] + 1
        events = self._codec.events(chunks, poll.host_ms, dead)
        # No slice may push its own first events out of the window before their labels joined.
        for part in events.slices(max(1, turn.state.window.capacity // 2)):
            join_waiting(turn, part, score_events(turn, part, chunks), chunks)
        join_labels(turn, self._codec.labels(chunks, poll.host_ms, dead), chunks)
        commands = self._codec.control(chunks, poll.host_ms, dead)
        mark_offsets(turn)
        for command, time_ms in zip(commands.messages, commands.times_ms, strict=True):
            carry_out(turn, command, time_ms)


def _adopt(turn: Turn, found: ModelsFound) -> None:
    core = turn.core
    core.state_id = core.state_id or found.state_id
    if found.meta_init and found.meta_init != core.meta_init:
        core.meta_init, core.recommended = found.meta_init, found.recommended
        turn.decide(
            "meta-init",
            "*",
            f"few-step recipes start from meta-init {found.meta_init[7:15]}",
            digest=found.meta_init,
            recommended=found.recommended,
        )
    if not found.champion or core.versions:
        return
    core.versions[1] = Version(
        number=1,
        name=version_name(1, found.champion),
        digest=found.champion,
        episode=None,
        losses=list(found.losses),
        recipe=found.recipe,
    )
    for name in turn.models(found.champion).class_names:
        turn.class_number(name)
    for route_name, route in core.routes.items():
        route.champion = 1
        turn.state.monitors[route_name].champion_changed(turn.champion(route_name), found.losses)
        turn.decide(
            "champion",
            route_name,
            f"version {core.versions[1].name} ({found.recipe}) is the first champion",
            version=core.versions[1].name,
            digest=found.champion,
        )
    register(turn, core.versions[1], "champion", f"first champion ({found.recipe})")


def fold(engine: Engine, state: EngineState, journal: list[Input]) -> EngineState:
    """Return the state that a journal leads to."""
    for happened in journal:
        engine.step(state, happened)
    return state
