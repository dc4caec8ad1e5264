"""Recent labelled examples, in the order in which their labels came; bounded."""

from collections import OrderedDict
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.feature_schema import Rows


@dataclass(frozen=True, slots=True)
class Example:
    """One event with its label.

    Attributes:
        number: Counts the labels of the model, from 0; the order of arrival.
        position: Where its event stands among the scored events; for an example that came with
            its own features, how many events had been scored by then.
        id: The event's id.
        group: The event's group, or None.
        label: Class number or value.
        numbers: Raw numbers, (width,).
        categories: Raw categories.
        version: Version number of the champion that answered; -1 when none did.
        answer: The champion's answer then (class number or value); NaN when none.
        own_features: Whether it came with its own features and was never an event.
    """

    number: int
    position: int
    id: str
    group: str | None
    label: float
    numbers: NDArray[np.float64]
    categories: tuple[str | None, ...]
    version: int
    answer: float
    own_features: bool

    def pack(self) -> bytes:
        """Return the example as bytes, for the state file."""
        return msgspec.msgpack.encode(
            (
                self.number,
                self.position,
                self.id,
                self.group,
                self.label,
                self.numbers.tobytes(),
                self.categories,
                self.version,
                self.answer,
                self.own_features,
            )
        )

    @classmethod
    def unpack(cls, packed: bytes) -> "Example":
        """Read what ``pack`` wrote."""
        number, position, id_, group, label, numbers, categories, version, answer, own = (
            msgspec.msgpack.decode(packed)
        )
        return cls(
            number,
            position,
            id_,
            group,
            label,
            np.frombuffer(numbers, np.float64),
            tuple(categories),
            version,
            answer,
            own,
        )


class ExampleBuffer:
    """The last ``capacity`` labelled examples.

    A corrected label replaces the first one here (and in reports) and rewinds nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._examples: OrderedDict[int, Example] = OrderedDict()
        self._by_id: dict[str, int] = {}
        self.changed: dict[int, Example] = {}
        self.removed: set[int] = set()

    def __len__(self) -> int:
        return len(self._examples)

    def add(self, example: Example) -> None:
        """Append an example; the oldest leaves when there are too many."""
        self.restore(example)
        self.changed[example.number] = example
        while len(self._examples) > self.capacity:
            number, gone = self._examples.popitem(last=False)
            if self._by_id.get(gone.id) == number:
                del self._by_id[gone.id]
            self.changed.pop(number, None)
            self.removed.add(number)

    def restore(self, example: Example) -> None:
        """Append an example without recording a change (at load)."""
        self._examples[example.number] = example
        self._by_id[example.id] = example.number

    def find(self, event_id: str) -> Example | None:
        """Return the example of an event, or None."""
        number = self._by_id.get(event_id)
        return None if number is None else self._examples[number]

    def correct(self, event_id: str, label: float) -> bool:
        """Replace the label of an example; return whether it was there."""
        example = self.find(event_id)
        if example is None:
            return False
        corrected = replace(example, label=label)
        self._examples[example.number] = corrected
        self.changed[example.number] = corrected
        return True

    def since(self, position: int) -> list[Example]:
        """Return the examples of events at ``position`` and later, oldest label first."""
        found: list[Example] = []
        for example in self._examples.values():
            if example.position >= position and not example.own_features:
                found.append(example)
        return found

    def all(self) -> list[Example]:
        """Return every example, oldest label first."""
        return list(self._examples.values())

    def clear_changes(self) -> None:
        """Forget what changed: it has been written."""
        self.changed, self.removed = {}, set()


def rows_of(examples: list[Example]) -> Rows:
    """Return the raw features of some examples as rows; at least one example."""
    return Rows(
        np.stack([e.numbers for e in examples]),
        tuple(e.categories for e in examples) if examples[0].categories else (),
    )
