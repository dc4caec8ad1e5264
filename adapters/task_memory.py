"""What is remembered of tasks that a model was good at: a bounded value, never changed in place.

A confirmed task is that of a champion which was promoted and survived its probation or explains the
labels of its reign, or of the first one. It enters when another champion takes its place, with the
signature of its whole reign. When there are too many, the one goes whose reign or recall lies
furthest back (least recently used); the first and kept ones stay.
"""

from collections.abc import Collection
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import msgpack

from adapters.examples import Examples
from adapters.feature_schema import Rows
from adapters.input_profile import InputProfile
from adapters.loss_evidence import Reference


class TaskMemoryError(ValueError):
    """The bytes are not what this version of the memory packs."""


class Signature(msgspec.Struct, frozen=True):
    """What characterises a task.

    Attributes:
        reference: Loss of its model on its own labels: its holdout and its reign.
        inputs: Its labelled inputs; None where none were buffered.
    """

    reference: Reference
    inputs: InputProfile | None


class KeptExamples(msgspec.Struct, frozen=True, array_like=True):
    """Labelled rows in a packed form; ``unpacked`` gives them back bit for bit."""

    width: int
    numbers: bytes
    categories: tuple[tuple[str | None, ...], ...]
    labels: tuple[str, ...]
    values: bytes
    keys: bytes

    @staticmethod
    def of(examples: Examples) -> "KeptExamples":
        """Return the examples in packed form."""
        return KeptExamples(
            examples.rows.numbers.shape[1],
            np.ascontiguousarray(examples.rows.numbers).tobytes(),
            examples.rows.categories,
            examples.labels,
            np.ascontiguousarray(examples.values).tobytes(),
            np.ascontiguousarray(examples.keys).tobytes(),
        )

    def unpacked(self) -> Examples:
        """Return the examples."""
        numbers = np.frombuffer(self.numbers, np.float64)
        return Examples(
            Rows(
                numbers.reshape(-1, self.width) if self.width else np.empty((len(self), 0)),
                self.categories,
            ),
            self.labels,
            np.frombuffer(self.values, np.float64),
            np.frombuffer(self.keys, np.uint64),
        )

    def __len__(self) -> int:
        return len(self.keys) // 8


class ConfirmedTask(msgspec.Struct, frozen=True):
    """A task and the model that is good at it.

    Attributes:
        name: The version's, unique in a memory.
        digest: Of the model's manifest.
        signature: How its inputs and its losses looked.
        examples: The newest labelled examples of its reign, for meta-training.
        used: Labels joined when it last reigned or was last found to be back.
        first: Whether its model was the first champion, which is never forgotten.
    """

    name: str
    digest: str
    signature: Signature
    examples: KeptExamples
    used: int
    first: bool = False


@dataclass(frozen=True, slots=True)
class TaskMemory:
    """Confirmed tasks, least recently used first.

    Attributes:
        tasks: What is remembered now.
        before: What was remembered before the promotion that is in probation; None without one.
    """

    tasks: tuple[ConfirmedTask, ...] = ()
    before: tuple[ConfirmedTask, ...] | None = None

    def find(self, name: str) -> ConfirmedTask | None:
        """Return the task of this name, if it is remembered."""
        return next((task for task in self.tasks if task.name == name), None)

    def others(self, digest: str) -> tuple[ConfirmedTask, ...]:
        """Return the tasks of other models, most recently used first."""
        return tuple(task for task in reversed(self.tasks) if task.digest != digest)

    def promoted(
        self, former: ConfirmedTask | None, *, most: int, keep: Collection[str] = ()
    ) -> "TaskMemory":
        """Return the memory after a promotion; what it held before comes back if that is regretted.

        Args:
            former: The task whose champion was replaced; None where it was not confirmed.
            most: Tasks remembered; the first champion's and kept ones stay beyond it.
            keep: Names that are never forgotten.
        """
        if former is None:
            return TaskMemory(self.tasks, self.tasks)
        tasks = [task for task in self.tasks if task.name != former.name]
        tasks = sorted([*tasks, former], key=lambda task: task.used)
        surplus = len(tasks) - most
        kept = []
        for task in tasks:
            if surplus > 0 and not task.first and task.name not in keep:
                surplus -= 1
            else:
                kept.append(task)
        return TaskMemory(tuple(kept) if most else (), self.tasks)

    def settled(self) -> "TaskMemory":
        """Return the memory when a promotion can no longer be regretted."""
        return TaskMemory(self.tasks)

    def taken_back(self) -> "TaskMemory":
        """Return the memory as it was before the promotion in probation."""
        return self if self.before is None else TaskMemory(self.before)

    def used(self, name: str, labels: int) -> "TaskMemory":
        """Return the memory after a task was found to be back."""
        touched = [
            msgspec.structs.replace(task, used=labels) if task.name == name else task
            for task in self.tasks
        ]
        return TaskMemory(tuple(sorted(touched, key=lambda task: task.used)), self.before)

    def pack(self) -> bytes:
        """Return canonical bytes."""
        return msgpack.encode((self.tasks, self.before))

    @staticmethod
    def unpack(packed: bytes) -> "TaskMemory":
        """Return the memory that ``pack`` packed; nothing is an empty one.

        Raises:
            TaskMemoryError: The bytes are damaged or another version's.
        """
        if not packed:
            return TaskMemory()
        try:
            return TaskMemory(*msgpack.decode(packed, type=_Packed))
        except (msgspec.MsgspecError, ValueError) as error:
            raise TaskMemoryError(f"the task memory cannot be read ({error})") from error


_Packed = tuple[tuple[ConfirmedTask, ...], tuple[ConfirmedTask, ...] | None]
