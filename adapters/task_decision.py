"""Recurring, new, drifted or noise: what labels since a change say of the tasks that are known.

============== =====================================================================================
``noise``      the champion explains the labels
``recurring``  it does not, and a remembered task's model does
``drifted``    no model does, and the inputs are as they were under a known task
``new``        no model does, and the inputs are those of no known task, or the task has a new name
``undecided``  the labels do not say yet
============== =====================================================================================

With K models in all (champion and remembered) each is judged at level .8 alpha / K
(``adapters.loss_evidence``). At most one call a model can be wrong, so any wrong one comes with
probability at most .8 alpha (Bonferroni), however often one looks. "New" needs inputs that differ
from every known task's at .2 alpha each: it is wrong only where the one that they are alike is
rejected (an intersection-union test, Berger 1982). Not claimed at this level: ``drifted`` says that
no difference of the inputs was shown, not that there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adapters.feature_schema import Rows
from adapters.loss_evidence import LossEvidence, weigh
from adapters.task_memory import Signature

TaskKind: TypeAlias = Literal["noise", "recurring", "drifted", "new", "undecided"]

LABEL_SHARE, INPUT_SHARE = 0.8, 0.2
FEWEST_ROWS = 20
"""Rows below which inputs are not compared."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How sure a decision must be, and of what.

    Attributes:
        alpha: Bound on the chance of a wrong decision.
        recurring_within: Rise over its reference loss that excludes a remembered task.
        noise_within: The same for the champion.
        slack: Least rise that counts as one, for any model.
    """

    alpha: float = 0.05
    recurring_within: float = 0.2
    noise_within: float = 0.1
    slack: float = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Suspect:
    """A known task, with its model's losses on the labels in question.

    Attributes:
        name: Of the version.
        signature: Of its task.
        losses: ``(n,)`` in [0, 1], in the order in which the labels came.
    """

    name: str
    signature: Signature
    losses: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found of a known task: its losses, and whether the inputs are alike.

    Attributes:
        name: Of the version.
        reference: Loss that its model is held to; None without a reference.
        evidence: Of its losses.
        inputs_p: P-value of equal inputs; None where they were not compared.
    """

    name: str
    reference: float | None
    evidence: LossEvidence
    inputs_p: float | None


@dataclass(frozen=True, slots=True)
class TaskDecision:
    """The decision with its numbers.

    Attributes:
        kind: What it is.
        task: The version whose task is back (``recurring``), holds (``noise``) or has drifted.
        reason: One sentence.
        champion: How the champion stands.
        remembered: How each remembered task stands.
        alpha: The error level.
        needed: Evidence that a standing needs.
    """

    kind: TaskKind
    task: str
    reason: str
    champion: Judged
    remembered: tuple[Judged, ...]
    alpha: float
    needed: float


def decide_task(
    champion: Suspect,
    remembered: Sequence[Suspect],
    rows: Rows,
    bounds: Bounds,
    *,
    named_new: bool = False,
) -> TaskDecision:
    """Return what labels say of the known tasks.

    Args:
        champion: The task in force.
        remembered: The others.
        rows: The inputs of the labels, ``n`` of them.
        bounds: Error level and bounds.
        named_new: Whether the stream or a person named a task that never came before.
    """
    level = LABEL_SHARE * bounds.alpha / (1 + len(remembered))
    ours = _judged(champion, rows, bounds, bounds.noise_within, level)
    theirs = tuple(_judged(s, rows, bounds, bounds.recurring_within, level) for s in remembered)
    kind, task, reason = _decided(ours, theirs, bounds, named_new)
    return TaskDecision(kind, task, reason, ours, theirs, bounds.alpha, 1.0 / level)


def _judged(suspect: Suspect, rows: Rows, bounds: Bounds, within: float, level: float) -> Judged:
    reference, inputs = suspect.signature.reference, suspect.signature.inputs
    evidence = weigh(
        suspect.losses, reference, within=within, slack=min(bounds.slack, within), level=level
    )
    alike = None
    if inputs is not None and min(inputs.rows, len(rows)) >= FEWEST_ROWS:
        alike = inputs.p_value(rows)
    return Judged(suspect.name, reference.held_to() if reference.labels else None, evidence, alike)


def _decided(
    ours: Judged, theirs: Sequence[Judged], bounds: Bounds, named_new: bool
) -> tuple[TaskKind, str, str]:
    said = f"the champion {_loss(ours)} of {ours.evidence.labels} labels"
    if ours.evidence.standing == "explains":
        return "noise", ours.name, f"{said} and explains them"
    back = [j for j in theirs if j.evidence.standing == "explains"]
    if ours.evidence.standing == "fails" and back:
        best = max(back, key=lambda j: j.evidence.e_explains)
        return "recurring", best.name, f"{said}; {best.name} {_loss(best)} and explains them"
    unsure = [j.name for j in (ours, *theirs) if j.evidence.standing == "open"]
    if unsure:
        return "undecided", "", f"{said}; still open: {', '.join(unsure)}"
    return _unexplained((ours, *theirs), bounds, named_new)


def _unexplained(
    known: Sequence[Judged], bounds: Bounds, named_new: bool
) -> tuple[TaskKind, str, str]:
    """Return what it is when every known model fails."""
    said = f"none of {len(known)} known models explains {known[0].evidence.labels} labels"
    if named_new:
        return "new", "", f"{said}, and the task has a name that never came before"
    compared = [(j.name, j.inputs_p) for j in known if j.inputs_p is not None]
    for name, p in compared:
        if p > INPUT_SHARE * bounds.alpha:
            return "drifted", name, f"{said}, with inputs as under {name} (p {p:.3g})"
    if len(compared) < len(known):
        return "undecided", "", f"{said}; the inputs could not be compared with every task's"
    return "new", "", f"{said}, and the inputs are those of none"


def _loss(judged: Judged) -> str:
    lost = "-" if judged.evidence.loss is None else f"{judged.evidence.loss:.3f}"
    held = "unknown" if judged.reference is None else f"{judged.reference:.3f}"
    return f"loses {lost} (reference {held})"
