"""New classes: which of them are due, and how their examples are cut.

An episode opens when a class has labels enough, not at its first sightings: a name that is a typing
error keeps no drift from being acted on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.gate import paired_p
from detectors.signals import Signal
from pipeline.example_split import Split
from pipeline.turn import Turn

PROTOTYPES = "prototypes"
"""The recipe that takes part when classes are new."""

PARTS = ("support", "query", "holdout")


def fewest(turn: Turn) -> int:
    """Return the fewest labels of a new class with which a bake-off goes on."""
    s = turn.settings.episode
    return 2 * min(s.least_support, s.new_class_support)


def new_classes_due(
    turn: Turn,
    name: str,
    *,
    since: int | None = None,
    least: int | None = None,
    along: bool = False,
) -> dict[str, Signal]:
    """Return the classes that the champion lacks and that have labels enough, with their signals.

    A class that was tried in vain is due again when it was sighted twice as often; it goes along
    with another one before that.

    Args:
        turn: The state.
        name: Route.
        since: Position from which labels count; None: from the class's first sighting on.
        least: Labels that are enough; None: twice ``episode.new_class_support``, or twice
            ``episode.least_support`` once ``episode.deadline_labels`` labels came since the first.
        along: Whether an episode runs already, in which those tried before may take part again.
    """
    s, route = turn.settings.episode, turn.route(name)
    early = fewest(turn)
    due: dict[str, Signal] = {}
    for new, signal in turn.state.monitors[name].new_classes().items():
        again = 0 if along else 2 * route.new_class_tried.get(new, 0)
        if signal.statistic < max(least or early, again):
            continue
        examples = turn.state.buffers[name].since(signal.change_point if since is None else since)
        late = s.deadline_labels is not None and len(examples) >= s.deadline_labels
        enough = least or (early if late else 2 * s.new_class_support)
        if sum(turn.core.classes[int(e.label)] == new for e in examples) >= enough:
            due[new] = signal
    return due


def split_new_classes(turn: Turn, name: str, cut: int, new: Sequence[str]) -> Split | None:
    """Give each class's labels to support, query and holdout by time, 2:1:1, never through a group.

    A known class with fewer than twice ``episode.least_support`` labels since the cut is filled up
    from before it, so that a candidate does not forget it. No other older label is used: an input
    that was labelled before may belong to a new class by now.

    Args:
        turn: The state.
        name: Route.
        cut: Position of the first event of the new regime.
        new: The classes that the champion lacks.

    Returns:
        The split, or None where a part would lack a new class.
    """
    s, classes = turn.settings.episode, turn.core.classes
    known = turn.champion(name).class_names
    buffered = turn.state.buffers[name].since(0)
    most_known = max(2 * s.new_class_support, s.most_support // (len(known) + len(new)))
    home: dict[str, str] = {}
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    held: set[tuple[str, str]] = set()
    for label in (*new, *known):
        own = [e for e in buffered if classes[int(e.label)] == label]
        recent = [e for e in own if e.position >= cut]
        if label in known:
            missing = max(2 * s.least_support - len(recent), 0)
            earlier = [e for e in own if e.position < cut]
            own = (earlier[len(earlier) - min(missing, len(earlier)) :] + recent)[-most_known:]
        else:
            own = recent[-2 * s.new_class_support :]
        for i, example in enumerate(reversed(own)):
            share = i / len(own)
            part = "holdout" if share < 0.25 else "query" if share < 0.5 else "support"
            part = home.setdefault(example.group or example.id, part)
            parts[part].append(example.number)
            held.add((part, label))
    if not new or any((part, label) not in held for part in PARTS for label in new):
        return None
    return Split(*(tuple(sorted(parts[part])) for part in PARTS))


@dataclass(frozen=True, slots=True)
class KnownClasses:
    """How a candidate that names new classes does on those that the champion names.

    Attributes:
        n: Holdout labels of them.
        rise: By how much the mean loss on those rises.
        p_value: Of the exact one-sided test of "it does not rise"; 1 without labels.
        harmed: Whether that refuses the candidate.
        reason: In words.
    """

    n: int
    rise: float
    p_value: float
    harmed: bool
    reason: str


def known_classes(
    champion: NDArray[np.float64], candidate: NDArray[np.float64], *, acceptable: float, risk: float
) -> KnownClasses:
    """Judge a candidate on holdout labels of the classes that the champion names.

    It is refused where the loss rises by more than is acceptable and by more than chance explains:
    one that does them no harm is refused with a chance of at most ``risk``, however few labels
    there are. Without any label it is refused, too: nothing then speaks for it.

    Args:
        champion: Its losses, ``(n,)``.
        candidate: Its losses on the same labels, ``(n,)``.
        acceptable: Rise of the mean loss that needs no proof.
        risk: Chance of refusing a candidate that does no harm.
    """
    n = len(champion)
    if not n:
        nothing = "no holdout label is of a class that the champion knows"
        return KnownClasses(0, 0.0, 1.0, harmed=True, reason=nothing)
    rises = candidate - champion
    rise, p_value = float(rises.mean()), paired_p(rises)
    words = f"on {n} labels of known classes the loss rises by {rise:.3f}"
    if rise <= acceptable:
        return KnownClasses(
            n, rise, p_value, harmed=False, reason=f"{words}, at most {acceptable:g}"
        )
    harmed = p_value <= risk
    why = "and than chance explains" if harmed else "but no more than chance may explain"
    sign = "<=" if harmed else ">"
    reason = f"{words}, more than {acceptable:g} {why}: p={p_value:.3g} {sign} {risk:g}"
    return KnownClasses(n, rise, p_value, harmed, reason)
