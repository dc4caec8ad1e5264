"""What an episode's holdout says of its candidate; values alone, nothing is decided here."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from adapters.model_file import lineage_key
from deploy.class_evidence import ClassEvidence, class_evidence
from deploy.gate import GateResult, judge_holdout, least_holdout
from pipeline.answers import answers_of
from pipeline.core_state import Candidate, Episode
from pipeline.example_buffer import Example, rows_of
from pipeline.label_values import loss_of
from pipeline.new_class_episode import KnownClasses, known_classes
from pipeline.turn import Turn


def examples_of(turn: Turn, name: str, numbers: Sequence[int]) -> list[Example]:
    """Return the buffered examples of these label numbers, oldest first."""
    wanted = set(numbers)
    return [e for e in turn.state.buffers[name].all() if e.number in wanted]


def holdout_verdict(turn: Turn, name: str, candidate: Candidate) -> tuple[GateResult, list[float]]:
    """Judge a candidate on examples that neither model was trained on.

    Returns:
        The verdict, and the candidate's losses.
    """
    losses, _ = _holdout_losses(turn, name, candidate)
    gate = turn.settings.gate
    n_min = least_holdout(gate.target_from, gate.target_to, gate.risk, gate.power)
    verdict = judge_holdout(losses[0], losses[1], n_min=n_min, risk=gate.risk)
    return verdict, losses[1].tolist()


def _holdout_losses(
    turn: Turn, name: str, candidate: Candidate
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], list[Example]]:
    """Return the champion's and the candidate's losses, and the examples; lineage is left out."""
    champion, model = turn.champion(name), turn.models(candidate.digest)
    seen = np.union1d(champion.trained_on, model.trained_on)
    examples = [
        e
        for e in examples_of(turn, name, candidate.holdout)
        if np.uint64(lineage_key(e.group or e.id)) not in seen
    ]
    if not examples:
        return (np.empty(0), np.empty(0)), examples
    rows, scale = rows_of(examples), champion.loss_scale
    ours, theirs = (
        np.array(
            [
                loss_of(turn, scale, float(a), e.label)
                for a, e in zip(answers_of(turn, m, m.predict(rows)), examples, strict=True)
            ]
        )
        for m in (champion, model)
    )
    return (ours, theirs), examples


def on_known_classes(
    turn: Turn, name: str, episode: Episode, candidate: Candidate
) -> KnownClasses | None:
    """Judge a candidate for new classes on the champion's own; None where no class is new."""
    if not episode.new_classes:
        return None
    (ours, theirs), examples = _holdout_losses(turn, name, candidate)
    names = turn.champion(name).class_names
    known = np.array([turn.core.classes[int(e.label)] in names for e in examples], bool)
    return known_classes(
        ours[known],
        theirs[known],
        acceptable=turn.settings.rollout.acceptable_harm,
        risk=turn.settings.gate.risk,
    )


def evidence_by_class(
    turn: Turn, name: str, episode: Episode, candidate: Candidate
) -> ClassEvidence | None:
    """Return what the holdout says of old and new classes apart; None where no class is new."""
    if not episode.new_classes:
        return None
    (ours, theirs), examples = _holdout_losses(turn, name, candidate)
    labels = [turn.core.classes[int(e.label)] for e in examples]
    return class_evidence(
        turn.champion(name).class_names,
        episode.new_classes,
        turn.settings.rollout.acceptable_harm,
        zip(labels, ours.tolist(), theirs.tolist(), strict=True),
    )


def gate_facts(gate: GateResult, known: KnownClasses | None = None) -> dict[str, object]:
    """Return a look at the holdout as JSON-able facts."""
    told = {} if known is None else {"known_classes": asdict(known)}
    return {
        "n": gate.n,
        "n_min": gate.n_min,
        "champion_loss": gate.champion_mean,
        "candidate_loss": gate.candidate_mean,
        "p_value": gate.p_value,
        "may_enter_canary": gate.may_enter_canary,
        **told,
    }
