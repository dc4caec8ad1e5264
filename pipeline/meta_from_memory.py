"""Confirmed tasks as tasks of meta-training, and which tasks judge what comes of it.

Judges are tasks that the meta-init in force was not trained on: those that chose its steps, as far
as the file holds them, and half of the confirmed tasks. None of them trains or chooses anything of
the new one, which favours the old one: it must be beaten on its own ground.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.examples import Examples
from adapters.feature_schema import Rows
from adapters.meta_init import MetaInit
from adapters.task_memory import TaskMemory
from adapters.task_splits import LeakError
from pipeline.core_state import ONE_ROUTE
from pipeline.file_examples import FileExamples
from pipeline.state_glimpse import Glimpse

PREFIX = "memory:"

Task = tuple[str, Examples]


@dataclass(frozen=True, slots=True, eq=False)
class FromMemory:
    """What is known before the training.

    Attributes:
        tasks: Confirmed tasks with labelled examples.
        old: The meta-init in force; None: there is none, and the new one needs to beat nothing.
    """

    tasks: tuple[Task, ...]
    old: MetaInit | None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Who trains and who judges.

    Attributes:
        found: The rows to train on, the file's and the memory's.
        trained: Confirmed tasks among them.
        judges: Tasks that judge; empty without a meta-init in force.
    """

    found: FileExamples
    trained: tuple[str, ...]
    judges: tuple[Task, ...]


def confirmed_tasks(seen: Glimpse) -> tuple[Task, ...]:
    """Return every confirmed task that has examples, by name, oldest use first."""
    found: list[Task] = []
    for route, packed in sorted(seen.memories.items()):
        where = "" if route == ONE_ROUTE else f"{route}/"
        for task in TaskMemory.unpack(packed).tasks:
            if len(task.examples):
                found.append((f"{PREFIX}{where}{task.name}", task.examples.unpacked()))
    return tuple(found)


def plan(file: FileExamples, memory: FromMemory, seed: int) -> Plan:
    """Divide the tasks.

    Args:
        file: Rows with their tasks.
        memory: Confirmed tasks and the meta-init in force.
        seed: Draws the half of the confirmed tasks that judges.

    Raises:
        LeakError: A task or a row is in the file and in the memory.
        ValueError: The memory's rows have other features or labels than the file's.
    """
    _refuse_leaks(file, memory.tasks)
    judging: set[str] = set()
    if memory.old is not None:
        unseen = [n for n, e in memory.tasks if not np.isin(e.keys, memory.old.trained_on).any()]
        order = np.random.default_rng([seed, 31]).permutation(len(unseen)).tolist()
        judging = {unseen[i] for i in order[: (len(unseen) + 1) // 2]} | _chose_steps(memory.old)
    owners = np.array(file.tasks, object)
    mine = np.isin(owners, sorted(judging))
    judges = [
        (name, file.examples.take(np.flatnonzero(owners == name)))
        for name in dict.fromkeys(owners[mine].tolist())
    ]
    judges += [task for task in memory.tasks if task[0] in judging]
    trained = [task for task in memory.tasks if task[0] not in judging]
    kept = np.flatnonzero(~mine)
    rest = replace(
        file,
        examples=_together([file.examples.take(kept), *(e for _, e in trained)]),
        tasks=(
            *owners[kept].tolist(),
            *(name for name, examples in trained for _ in range(len(examples))),
        ),
    )
    return Plan(rest, tuple(name for name, _ in trained), tuple(judges))


def _chose_steps(old: MetaInit) -> set[str]:
    """Return the tasks that chose the old one's steps."""
    validation = old.info.get("validation")
    names = validation.get("tasks") if isinstance(validation, dict) else None
    return {str(name) for name in names} if isinstance(names, list) else set()


def _refuse_leaks(file: FileExamples, tasks: Sequence[Task]) -> None:
    both = sorted(set(file.tasks) & {name for name, _ in tasks})
    if both:
        raise LeakError(f"tasks {both[:8]} are in the file and in the memory; rename the file's")
    for name, examples in tasks:
        shared = np.intersect1d(examples.keys, file.examples.keys)
        if len(shared):
            raise LeakError(
                f"{len(shared)} row keys (ids or groups) of {name} are in the file, too; leave the "
                "stream's own rows out of it"
            )
        ours, theirs = examples.rows, file.examples.rows
        kinds = [len(rows.categories[0]) if rows.categories else 0 for rows in (ours, theirs)]
        alike = ours.numbers.shape[1] == theirs.numbers.shape[1] and kinds[0] == kinds[1]
        if not alike or bool(examples.labels) != bool(file.examples.labels):
            raise ValueError(f"{name} has other features or labels than the file's rows")


def _together(parts: Sequence[Examples]) -> Examples:
    return Examples(
        Rows.concat([part.rows for part in parts]),
        tuple(label for part in parts for label in part.labels),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.keys for part in parts]),
    )
