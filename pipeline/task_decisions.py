"""Which task an episode is about: the labels since its signal are asked, and the answer recorded.

Only labels that joined after the signal count, since it was raised on the earlier ones because they
looked bad. A label-free signal chose no labels: all since the change point count.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapters.bake_off import RecipeResult
from adapters.feature_schema import Rows
from adapters.task_decision import Bounds, Judged, Suspect, TaskDecision, decide_task
from adapters.task_memory import Signature
from detectors.signals import SignalKind
from pipeline.core_state import Episode, Request
from pipeline.episode_holdout import examples_of
from pipeline.example_buffer import Example, rows_of
from pipeline.example_rows import examples_as_rows
from pipeline.label_values import loss_of
from pipeline.remembered_tasks import recallable, reference_of, reign, signature_of
from pipeline.turn import Turn

MOST_EVIDENCE = 400
"""Labels looked at; the oldest, so that a later look sees the same ones and more."""

DECIDED_KINDS = ("drift", "forced", "announced")
"""Episodes about which it is asked: a new class is new by its name."""

CHOSE_LABELS = (SignalKind.ERROR, SignalKind.FORCED)
"""Signals that somebody raised after a look at the labels."""


def judged_from(turn: Turn, kind: SignalKind) -> int:
    """Return from which label number on a signal that comes now has chosen none."""
    return turn.core.labels if kind in CHOSE_LABELS else 0


def evidence_for(turn: Turn, name: str, episode: Episode) -> list[Example]:
    """Return the labelled examples that say which task it is, oldest label first."""
    buffer = turn.state.buffers[name]
    if episode.kind not in DECIDED_KINDS:
        return []
    if episode.kind == "announced":
        found = [e for e in map(buffer.find, episode.example_ids) if e is not None]
        return sorted(found, key=lambda e: e.number)[:MOST_EVIDENCE]
    since = buffer.since(episode.change_point)
    return [e for e in since if e.number >= episode.judged_from][:MOST_EVIDENCE]


def bounds_of(turn: Turn, name: str) -> Bounds:
    """Return the settings as adapters takes them."""
    s = turn.settings.memory
    slack = turn.state.monitors[name].least_effect
    return Bounds(s.alpha, s.recurring_within, s.noise_within, slack)


def noise(turn: Turn, name: str, episode: Episode) -> TaskDecision | None:
    """Return the decision that the alarm was noise, when the champion's own answers show it.

    The remembered models were not asked: where the champion explains the labels, it needs none.
    """
    champion, number = turn.champion(name), turn.route(name).champion
    answered = [e for e in evidence_for(turn, name, episode) if e.version == number]
    if not answered:
        return None
    losses = [loss_of(turn, champion.loss_scale, e.answer, e.label) for e in answered]
    reference = reference_of(turn, name, reign(turn, name, episode.change_point))
    decision = decide_task(
        Suspect(turn.version(number).name, Signature(reference, None), np.array(losses)),
        [Suspect(t.name, t.signature, np.empty(0)) for t in recallable(turn, name)],
        Rows(np.empty((0, 0))),
        bounds_of(turn, name),
    )
    return decision if decision.kind == "noise" else None


def decide(
    turn: Turn, name: str, episode: Episode, request: Request, results: Sequence[RecipeResult]
) -> TaskDecision | None:
    """Return which task it is, from a bake-off's losses at zero steps; None where nobody asks."""
    losses = {r.name: r.evidence_losses for r in results if len(r.evidence_losses)}
    examples = examples_of(turn, name, request.evidence)
    if not examples or "frozen" not in losses:
        return None
    champion = turn.version(turn.route(name).champion).name
    signature = signature_of(turn, name, reign(turn, name, episode.change_point))
    return decide_task(
        Suspect(champion, signature, _known(losses["frozen"])),
        [
            Suspect(t.name, t.signature, _known(losses.get(f"recalled:{t.name}", np.empty(0))))
            for t in recallable(turn, name)
        ],
        rows_of(examples),
        bounds_of(turn, name),
        named_new=episode.kind == "announced" or episode.signal.kind is SignalKind.NEW_TASK,
    )


def decide_at_promotion(turn: Turn, name: str) -> None:
    """Look once more at a recalled task that the episode left undecided, with the canary's labels.

    Only the candidate is asked, and the champion's own answers: call it before they change places.
    """
    route = turn.route(name)
    episode, candidate = route.rollout_episode, turn.version(route.rollout_candidate)
    back = [t for t in recallable(turn, name) if t.name == candidate.name]
    if episode is None or episode.decision.get("kind") != "undecided" or not back:
        return
    answered = [e for e in evidence_for(turn, name, episode) if e.version == route.champion]
    if not answered:
        return
    examples = examples_as_rows(turn, name, answered)
    model, champion = turn.models(candidate.digest), turn.champion(name)
    seen = np.isin(examples.keys, model.trained_on)
    losses = model.losses(model.predict(examples.rows), examples.truths)
    ours = [loss_of(turn, champion.loss_scale, e.answer, e.label) for e in answered]
    decision = decide_task(
        Suspect(
            turn.version(route.champion).name,
            signature_of(turn, name, reign(turn, name, episode.change_point)),
            np.array(ours),
        ),
        [
            Suspect(t.name, t.signature, losses[~seen] if t in back else np.empty(0))
            for t in recallable(turn, name)
        ],
        examples.rows,
        bounds_of(turn, name),
    )
    if decision.kind == "recurring":
        record(turn, name, episode, decision)


def record(turn: Turn, name: str, episode: Episode, decision: TaskDecision) -> None:
    """Write a decision down where it differs from the episode's last one."""
    before = episode.decision
    episode.decision = decision_facts(decision)
    if (before.get("kind"), before.get("task")) == (decision.kind, decision.task):
        return
    turn.core.count(f"tasks_{decision.kind}")
    if decision.kind == "recurring":
        memory = turn.state.memories[name]
        turn.state.memories[name] = memory.used(decision.task, turn.core.labels)
    turn.decide(
        "task",
        name,
        f"episode {episode.number}: {decision.kind}: {decision.reason}",
        episode=episode.number,
        task=episode.decision,
    )


def decision_facts(decision: TaskDecision) -> dict[str, object]:
    """Return a decision as JSON-able facts."""
    return {
        "kind": decision.kind,
        "task": decision.task,
        "reason": decision.reason,
        "alpha": decision.alpha,
        "needed": decision.needed,
        "champion": _judged_facts(decision.champion),
        "remembered": [_judged_facts(j) for j in decision.remembered],
    }


def _judged_facts(judged: Judged) -> dict[str, object]:
    evidence = judged.evidence
    return {
        "name": judged.name,
        "reference": judged.reference,
        "inputs_p": judged.inputs_p,
        "labels": evidence.labels,
        "loss": evidence.loss,
        "e_explains": evidence.e_explains,
        "e_fails": evidence.e_fails,
        "standing": evidence.standing,
    }


def _known(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the losses on rows that the model did not learn from."""
    return losses[~np.isnan(losses)]
