"""The whole loop over a file, without a broker: what would metadrift have done?

The same engine, the same worker, the same state file; polls come from the file, and a bake-off's
answer comes before the next poll.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.model_file import Model
from pipeline.adaptation_worker import AdaptationWorker
from pipeline.data_file import FileRow
from pipeline.file_source import polls_of
from pipeline.fold import Fold
from pipeline.join_window import NO_MODEL, STABLE
from pipeline.label_schedule import Item
from pipeline.label_values import canonical
from pipeline.messages import Decision
from pipeline.records import ModelsFound, Outcome
from pipeline.report.measures import StreamLosses

EVENTS_PER_POLL = 16


@dataclass(slots=True)
class Replayed:
    """What a replay saw.

    Attributes:
        decisions: In order.
        positions: Events whose truth is known.
        served: Loss of what was served, per such event.
        frozen: Loss of the first champion, per such event.
        truth: Label, per such event; empty for regression.
        labels_at: Events scored when each label arrived.
        dead_letters: Reason of each record that could not be used.
        position_of: Event id -> its position among the scored events.
    """

    decisions: list[Decision] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    frozen: list[float] = field(default_factory=list)
    truth: list[str] = field(default_factory=list)
    labels_at: list[int] = field(default_factory=list)
    dead_letters: list[str] = field(default_factory=list)
    position_of: dict[str, int] = field(default_factory=dict)

    def losses(self) -> StreamLosses:
        """Return the losses as arrays."""
        return StreamLosses(
            np.array(self.positions, np.int64),
            np.array(self.served),
            np.array(self.frozen),
            self.truth,
        )


class Replay:
    """Drives the engine over polls made from a file.

    Args:
        fold: Over a fresh state file.
        worker: Adapts.
        truths: Label by event id, for the report; the engine sees only what the stream brings.
        progress: Told how many events have been scored.
    """

    def __init__(
        self,
        fold: Fold,
        worker: AdaptationWorker,
        truths: dict[str, str | float],
        progress: Callable[[int], None],
    ) -> None:
        self._fold, self._worker, self._progress = fold, worker, progress
        self._truths = truths
        self.seen = Replayed()

    def run(self, items: Sequence[Item], found: ModelsFound) -> Replayed:
        """Take the models, then every event and label."""
        self._note(self._fold.step(found))
        frozen = self._fold.shelf.model(found.champion)
        window = self._fold.state.window
        for poll in polls_of(items, EVENTS_PER_POLL):
            start, labels = window.next, self._fold.state.core.labels
            outcome = self._fold.step(poll)
            self._note(outcome)
            self._judge(outcome, start, frozen)
            self.seen.labels_at += [window.next] * (self._fold.state.core.labels - labels)
            self._adapt()
            self._progress(window.next)
        return self.seen

    def _note(self, outcome: Outcome) -> None:
        self.seen.decisions += outcome.decisions
        self.seen.dead_letters += [d.error for d in outcome.dead_letters]

    def _adapt(self) -> None:
        while (wanted := self._fold.request()) is not None:
            self._worker.submit(*wanted)
            self._note(self._fold.step(self._fold.answer(self._worker.wait())))

    def _judge(self, outcome: Outcome, start: int, frozen: Model) -> None:
        """Compare what was served, and what the first champion says, with the truth."""
        answers = [msgspec.json.decode(value) for _, value in outcome.predictions]
        position = start
        for run in self._fold.state.window.since(start):
            self.seen.position_of.update((e, run.start + i) for i, e in enumerate(run.ids))
            known = [i for i, event_id in enumerate(run.ids) if event_id in self._truths]
            served = answers[position - start : position - start + len(run)]
            position += len(run)
            if not known:
                continue
            if np.all(run.versions[:, STABLE] <= 1) and run.versions[0, STABLE] != NO_MODEL:
                first = _values(frozen, run.answers[:, STABLE], self._fold.state.core.classes)
            else:
                prediction = frozen.predict(run.rows)
                first = prediction.labels or prediction.values.tolist()
            truths = [self._truths[run.ids[i]] for i in known]
            self.seen.positions += [run.start + i for i in known]
            self.seen.served += _losses(frozen, [served[i]["prediction"] for i in known], truths)
            self.seen.frozen += _losses(frozen, [first[i] for i in known], truths)
            if frozen.task_type == "classification":
                self.seen.truth += [str(t) for t in truths]


def _values(
    model: Model, answers: NDArray[np.float64], classes: Sequence[str]
) -> list[str] | list[float]:
    if model.task_type == "classification":
        return [classes[int(a)] for a in answers]
    return [float(a) for a in answers]


def _losses(
    frozen: Model, answers: Sequence[str | float], truths: Sequence[str | float]
) -> list[float]:
    if frozen.task_type == "classification":
        return [float(a != t) for a, t in zip(answers, truths, strict=True)]
    return [
        min(1.0, abs(float(a) - float(t)) / frozen.loss_scale)
        for a, t in zip(answers, truths, strict=True)
    ]


def truths_of(rows: Sequence[FileRow]) -> dict[str, str | float]:
    """Return the label of each row that has one, as the engine writes it; ids are unique."""
    found: dict[str, str | float] = {}
    for row in rows:
        if row.label is not None:
            found[row.id] = row.label if isinstance(row.label, float) else canonical(row.label)
    return found
