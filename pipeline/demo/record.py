"""What a run of the demo leaves: the producer's own record, the answers, decisions and models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.bake_off import RecipeResult
from adapters.feature_schema import Rows
from adapters.model_file import Model
from pipeline.demo.images import Pixels
from pipeline.demo.script import Script
from pipeline.messages import Decision

Losses = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One run.

    Attributes:
        script: What was produced, with the truth.
        event_ms: ``n`` record times of the events, epoch milliseconds.
        sent_ms: Position -> record time of its label.
        answers: ``n`` served lanes by position; None: no answer came.
        decisions: In order.
        standing: What was still open at the end, in the form of decisions.
        models: By version name.
        first: Name of the first champion's version.
        fitted: Models fitted to each stretch's lanes with every label of the learning half.
        bake_offs: Result digest -> results.
        counts: The engine's counters.
    """

    script: Script
    event_ms: Sequence[int]
    sent_ms: Mapping[int, int]
    answers: Sequence[str | None]
    decisions: Sequence[Decision]
    standing: Sequence[Decision]
    models: Mapping[str, Model]
    first: str
    fitted: Sequence[Model]
    bake_offs: Mapping[str, Sequence[RecipeResult]]
    counts: Mapping[str, int]

    def served_losses(self) -> Losses:
        """Return the served answers' losses against the truth, ``(n,)``; no answer is wrong."""
        pairs = zip(self.answers, self.script.truth, strict=True)
        return np.array([float(answer != truth) for answer, truth in pairs])

    def labels_at(self) -> NDArray[np.int64]:
        """Return how many events had been sent when each label was, rising."""
        sent = np.sort(np.fromiter(self.sent_ms.values(), np.int64, len(self.sent_ms)))
        return np.searchsorted(np.array(self.event_ms, np.int64), sent, side="right")

    def losses_of(self, model: Model, first: int, end: int) -> Losses:
        """Return a model's losses against the truth on events ``first .. end - 1``."""
        return losses_on(model, self.script.pixels[first:end], self.script.truth[first:end])

    def in_force(self, position: int) -> str:
        """Return the champion's version name when event ``position`` was about to come."""
        name = self.first
        for decision in self.decisions:
            if decision.position <= position and decision.kind in ("promotion", "rollback"):
                name = str(decision.facts["champion"])
        return name


def losses_on(model: Model, pixels: Pixels, truth: Sequence[str]) -> Losses:
    """Return a model's 0/1 losses, ``(n,)``."""
    losses: Losses = model.losses(model.predict(Rows(pixels)), truth)
    return losses
