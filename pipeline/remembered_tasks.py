"""The task memory of a route: what a champion's reign leaves behind, and who can be recalled."""

import numpy as np

from adapters.input_profile import InputProfile
from adapters.loss_evidence import Reference, weigh
from adapters.model_file import lineage_key
from adapters.task_memory import ConfirmedTask, KeptExamples, Signature
from pipeline.example_buffer import Example, rows_of
from pipeline.example_rows import examples_as_rows
from pipeline.label_values import loss_of
from pipeline.turn import Turn


def recallable(turn: Turn, name: str) -> tuple[ConfirmedTask, ...]:
    """Return the tasks whose models take part in a bake-off, most recently used first."""
    if "recalled" not in turn.settings.episode.recipes:
        return ()
    champion = turn.version(turn.route(name).champion).digest
    return turn.state.memories[name].others(champion)


def reign(turn: Turn, name: str, until: int) -> list[Example]:
    """Return the buffered examples that the champion answered before a position.

    Those of a group that it learned from are left out: they would flatter it.
    """
    route = turn.route(name)
    found = [
        e
        for e in turn.state.buffers[name].since(route.champion_since_position)
        if e.version == route.champion and e.position < until
    ]
    if all(e.group is None for e in found):
        return found
    keys = np.array([lineage_key(e.group or e.id) for e in found], np.uint64)
    learned = np.isin(keys, turn.champion(name).trained_on)
    return [e for e, known in zip(found, learned, strict=True) if not known]


def reference_of(turn: Turn, name: str, examples: list[Example]) -> Reference:
    """Return the champion's loss on its holdout and on these examples of its reign."""
    number = turn.route(name).champion
    scale = turn.champion(name).loss_scale
    losses = list(turn.version(number).losses)
    losses += [loss_of(turn, scale, e.answer, e.label) for e in examples]
    return Reference(len(losses), float(np.mean(losses)) if losses else 0.0)


def signature_of(turn: Turn, name: str, examples: list[Example]) -> Signature:
    """Return what characterises the champion's task, from examples of its reign."""
    inputs = InputProfile.of(rows_of(examples)) if examples else None
    return Signature(reference_of(turn, name, examples), inputs)


def remember_champion(turn: Turn, name: str, until: int, *, confirmed: bool) -> None:
    """Take the champion that is about to be replaced into the memory, if its task is confirmed.

    One that is still in probation is confirmed by its own labels: when they exclude a rise of its
    loss over its holdout's by ``memory.recurring_within``. Call it before the route's champion
    changes. What the memory held comes back with ``forget_promotion``.

    Args:
        turn: In progress.
        name: Route.
        until: Position at which its task ended.
        confirmed: Whether it has survived its probation, or never had one.
    """
    settings, memory = turn.settings.memory, turn.state.memories[name]
    remembered = settings.tasks and (confirmed or _explains_its_reign(turn, name, until))
    former = _former(turn, name, until) if remembered else None
    turn.state.memories[name] = memory.promoted(former, most=settings.tasks, keep=settings.keep)


def _explains_its_reign(turn: Turn, name: str, until: int) -> bool:
    """Whether a champion that nothing has confirmed yet was right before its task ended."""
    champion = turn.champion(name)
    losses = [
        loss_of(turn, champion.loss_scale, e.answer, e.label) for e in reign(turn, name, until)
    ]
    evidence = weigh(
        np.array(losses),
        reference_of(turn, name, []),
        within=turn.settings.memory.recurring_within,
        slack=turn.settings.memory.recurring_within,
        level=turn.settings.memory.alpha,
    )
    return evidence.standing == "explains"


def _former(turn: Turn, name: str, until: int) -> ConfirmedTask:
    version, examples = turn.version(turn.route(name).champion), reign(turn, name, until)
    known = turn.state.memories[name].find(version.name)
    if not examples and known is not None:
        return known
    kept = examples[-turn.settings.memory.examples :] if turn.settings.memory.examples else []
    return ConfirmedTask(
        name=version.name,
        digest=version.digest,
        signature=signature_of(turn, name, examples),
        examples=KeptExamples.of(examples_as_rows(turn, name, kept)),
        used=turn.core.labels,
        first=version.number == 1,
    )


def settle_promotion(turn: Turn, name: str) -> None:
    """A promotion can no longer be regretted."""
    turn.state.memories[name] = turn.state.memories[name].settled()


def forget_promotion(turn: Turn, name: str) -> None:
    """A promotion was taken back: the memory is what it was before."""
    turn.state.memories[name] = turn.state.memories[name].taken_back()
