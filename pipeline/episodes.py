"""An episode from its opening to its candidate: collect, bake off, gate.

collecting --enough labels--> adapting --winner--> gate --PASS--> (rollout)
^                             |                  |--inconclusive: wait for more labels
|--recalled models lost-------|                  |--FAIL--> rejected
|--frozen wins--> ended, the alarm was benign
|--the champion still explains the labels--> ended, the alarm was noise
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapters.bake_off import RecipeResult, choose
from adapters.bake_off_codec import decode_results
from adapters.model_file import model_digest
from deploy.gate import GateResult
from deploy.rollout import Verdict
from detectors.signals import Signal, SignalKind
from pipeline import task_decisions
from pipeline.core_state import Candidate, Episode, EpisodeKind, Request
from pipeline.episode_holdout import (
    examples_of,
    gate_facts,
    holdout_verdict,
    on_known_classes,
)
from pipeline.example_split import digest_of, split_by_time
from pipeline.new_class_episode import PROTOTYPES, fewest, new_classes_due, split_new_classes
from pipeline.raised_loss import may_retry, put_off
from pipeline.recording import record_episode
from pipeline.records import BakeOffDone
from pipeline.remembered_tasks import recallable
from pipeline.rollouts import begin_rollout
from pipeline.turn import Turn

ZERO_STEP = ("frozen", "recalled")

NOT_LOOKED_INTO = ("failed", "too few labels")
"""Outcomes of episodes in which no models were compared."""


def open_episode(turn: Turn, name: str, kind: EpisodeKind, signal: Signal) -> Episode:
    """Open an episode on a route."""
    core, route = turn.core, turn.route(name)
    core.episodes += 1
    episode = Episode(
        number=core.episodes,
        kind=kind,
        signal=signal,
        change_point=signal.change_point,
        phase="collecting",
        opened_ms=core.time_ms,
        opened_label=core.labels,
        judged_from=task_decisions.judged_from(turn, signal.kind),
    )
    route.episode = episode
    turn.decide(
        "episode-opened",
        name,
        f"episode {episode.number} ({kind}) opens on {signal.detector}: {signal.detail}",
        episode=episode.number,
        episode_kind=kind,
        change_point=signal.change_point,
    )
    return episode


def recut(turn: Turn, name: str, signal: Signal) -> bool:
    """Move the cut of an episode that still collects labels; return whether there was one.

    Labels from before the new change point would teach a candidate the world that has just ended.
    """
    episode = turn.route(name).episode
    if episode is None or episode.kind != "drift" or episode.phase != "collecting":
        return False
    if signal.change_point <= episode.change_point:
        return True
    episode.change_point, episode.signal = signal.change_point, signal
    episode.zero_step_tried = False
    episode.judged_from = task_decisions.judged_from(turn, signal.kind)
    turn.decide(
        "episode-recut",
        name,
        f"episode {episode.number} drops examples before {signal.change_point}: {signal.detail}",
        episode=episode.number,
        change_point=signal.change_point,
    )
    return True


def advance_episode(turn: Turn, name: str) -> None:
    """Move the episode of a route on, as far as its labels and the clock allow."""
    episode = turn.route(name).episode
    if episode is None:
        return
    if episode.phase == "collecting" and not _is_noise(turn, name, episode):
        _collect(turn, name, episode)
    elif episode.phase == "gate":
        _gate(turn, name, episode)


def end_episode(
    turn: Turn, name: str, outcome: str, reason: str, gate: GateResult | None = None
) -> None:
    """Close the episode of a route with its outcome, and have it recorded.

    An alarm about the losses stays a question (``pipeline.raised_loss``). A label-free signal is
    answered once models were compared on labels: nothing would ever make it untrue, so that
    otherwise it would come back for ever.
    """
    core, route = turn.core, turn.route(name)
    episode = route.episode
    if episode is None:
        return
    record_episode(turn, name, episode, outcome, reason, gate)
    route.episode = None
    if outcome != "candidate":
        turn.state.monitors[name].recalibrate()
        put_off(route.raised, episode.change_point if episode.kind == "announced" else 0)
    if (
        outcome not in NOT_LOOKED_INTO
        and route.waiting is not None
        and route.waiting.kind is not SignalKind.ERROR
    ):
        route.waiting = None  # models were compared on the labels: that answers it, too
    about_losses = episode.signal.kind is SignalKind.ERROR
    if (
        episode.kind in ("drift", "new_class")
        and episode.signal.kind is not SignalKind.NEW_CLASS
        and route.waiting is None
        and (outcome in NOT_LOOKED_INTO or (about_losses and outcome == "rejected by the gate"))
        and (not about_losses or may_retry(route.raised))
    ):
        route.waiting = episode.signal
    route.action_label, route.action_ms = core.labels, core.time_ms
    turn.decide(
        "episode-ended",
        name,
        reason,
        episode=episode.number,
        episode_kind=episode.kind,
        outcome=outcome,
        recipes=episode.recipes,
        winner=episode.winner,
        result=episode.candidate.result if episode.candidate else "",
        task=episode.decision,
        labels_used=core.labels - episode.opened_label,
    )


def overdue(turn: Turn, episode: Episode) -> bool:
    """Whether the episode must decide with what it has."""
    s = turn.settings.episode
    labels = turn.core.labels - episode.opened_label
    seconds = (turn.core.time_ms - episode.opened_ms) / 1000
    return (s.deadline_labels is not None and labels >= s.deadline_labels) or (
        s.deadline_s is not None and seconds >= s.deadline_s
    )


# ---------------------------------------------------------------- collecting


def _collect(turn: Turn, name: str, episode: Episode) -> None:
    if episode.kind == "announced":
        _collect_announced(turn, name, episode)
        return
    if episode.kind == "new_class":
        _collect_new_classes(turn, name, episode)
        return
    s = turn.settings.episode
    examples = turn.state.buffers[name].since(episode.change_point)
    examples = examples[-(s.most_support + s.query + s.holdout) :]
    full = split_by_time(examples, support=s.support, query=s.query, holdout=s.holdout)
    if episode.kind == "drift" and (full is not None or overdue(turn, episode)):
        cut = episode.change_point
        if new_classes_due(turn, name, since=cut, least=fewest(turn)):
            episode.kind = "new_class"
            _collect_new_classes(turn, name, episode)
            return
    if full is not None:
        _ask(turn, name, episode, full.support, full.query, full.holdout)
        return
    if recallable(turn, name) and not episode.zero_step_tried:
        early = split_by_time(examples, support=0, query=s.query, holdout=s.holdout)
        if early is not None:
            episode.zero_step_tried = True
            _ask(turn, name, episode, (), early.query, early.holdout)
            return
    if overdue(turn, episode):
        holdout = max(1, len(examples) // 3)
        few = split_by_time(examples, support=s.least_support, query=0, holdout=holdout)
        if few is None:
            reason = (
                f"episode {episode.number}: {len(examples)} labels since the change point by the "
                f"deadline; support needs at least {s.least_support} beside a third for the gate"
            )
            end_episode(turn, name, "too few labels", reason)
            return
        _ask(turn, name, episode, few.support, few.query, few.holdout)


def _collect_new_classes(turn: Turn, name: str, episode: Episode) -> None:
    route, monitors = turn.route(name), turn.state.monitors[name]
    cut = episode.change_point
    found = new_classes_due(turn, name, since=cut, least=fewest(turn), along=True)
    episode.new_classes = list(found)
    sightings = monitors.new_classes()
    for new in episode.new_classes:
        route.new_class_tried[new] = int(sightings[new].statistic)
    split = split_new_classes(turn, name, cut, episode.new_classes)
    if split is None:
        names = ", ".join(map(repr, episode.new_classes)) or "new classes"
        reason = (
            f"episode {episode.number}: the labels of {names} since {cut} are too few for "
            "support, query and holdout, or were corrected"
        )
        end_episode(turn, name, "too few labels", reason)
        return
    _ask(turn, name, episode, split.support, split.query, split.holdout)


def _collect_announced(turn: Turn, name: str, episode: Episode) -> None:
    s, buffer = turn.settings.episode, turn.state.buffers[name]
    found = [e for e in (buffer.find(i) for i in episode.example_ids) if e is not None]
    if len(found) < len(episode.example_ids) and not overdue(turn, episode):
        return
    found.sort(key=lambda e: e.number)
    holdout = max(1, round(len(found) * s.announced_holdout_share))
    if len(found) - holdout < 1:
        reason = (
            f"episode {episode.number}: {len(found)} of {len(episode.example_ids)} examples came"
        )
        end_episode(turn, name, "too few labels", reason)
        return
    split = split_by_time(found, support=1, query=0, holdout=holdout)
    if split is None:
        reason = f"episode {episode.number}: all {len(found)} examples are of one group"
        end_episode(turn, name, "too few labels", reason)
        return
    _ask(turn, name, episode, split.support, split.query, split.holdout)


def _is_noise(turn: Turn, name: str, episode: Episode) -> bool:
    """Close an episode without a bake-off when its alarm is shown to have been noise.

    Only what a detector raised is closed so, and not while a class waits that the champion lacks.
    The detectors stay as they are: a rise that comes later is signalled anew.
    """
    if episode.kind != "drift" or turn.state.monitors[name].new_classes():
        return False
    decision = task_decisions.noise(turn, name, episode)
    if decision is None:
        return False
    task_decisions.record(turn, name, episode, decision)
    end_episode(turn, name, "noise", f"episode {episode.number}: noise: {decision.reason}")
    return True


def _ask(
    turn: Turn,
    name: str,
    episode: Episode,
    support: Sequence[int],
    query: Sequence[int],
    holdout: Sequence[int],
) -> None:
    """Hand a bake-off to the worker (by being in this phase: the shell looks at the state)."""
    recipes = list(turn.settings.episode.recipes)
    if not support:
        recipes = [r for r in recipes if r in ZERO_STEP]
    if episode.new_classes:
        recipes.append(PROTOTYPES)
    episode.requests += 1
    episode.request = Request(
        number=episode.requests,
        recipes=recipes,
        support=list(support),
        query=list(query),
        holdout=list(holdout),
        zero_step=not support,
        evidence=[e.number for e in task_decisions.evidence_for(turn, name, episode)],
    )
    episode.phase = "adapting"
    parts = {k: examples_of(turn, name, v) for k, v in _parts(episode.request).items()}
    episode.splits = {k: (len(v), digest_of(v)) for k, v in parts.items()}
    turn.decide(
        "bake-off",
        name,
        f"episode {episode.number}: {len(support)} support, {len(query)} query, "
        f"{len(holdout)} holdout labels for {', '.join(recipes)}",
        episode=episode.number,
        request=episode.requests,
        digests={k: digest for k, (_, digest) in episode.splits.items()},
        labels={k: [e.number for e in v] for k, v in parts.items()},
        new_classes={
            new: sum(turn.core.classes[int(e.label)] == new for e in parts["support"])
            for new in episode.new_classes
        },
    )


def _parts(request: Request) -> dict[str, list[int]]:
    return {"support": request.support, "query": request.query, "holdout": request.holdout}


# ---------------------------------------------------------------- the worker's answer


def bake_off_done(turn: Turn, done: BakeOffDone) -> None:
    """Take the worker's answer; one that nobody waits for any more is counted and dropped."""
    for name, route in turn.core.routes.items():
        episode = route.episode
        if (
            episode is not None
            and episode.number == done.episode
            and episode.phase == "adapting"
            and episode.request is not None
            and episode.request.number == done.request
        ):
            _decide_winner(turn, name, episode, episode.request, done)
            return
    turn.core.count("stale_bake_offs")


def _decide_winner(
    turn: Turn, name: str, episode: Episode, request: Request, done: BakeOffDone
) -> None:
    episode.request = None
    if done.error:
        reason = f"episode {episode.number}: the bake-off failed: {done.error}"
        end_episode(turn, name, "failed", reason)
        return
    results = decode_results(turn.results(done.digest), turn.models)
    task = task_decisions.decide(turn, name, episode, request, results)
    if task is not None:
        task_decisions.record(turn, name, episode, task)
    new = PROTOTYPES if episode.new_classes else None
    winner = choose(results, recommended=new or turn.core.recommended or None, careful=new)
    episode.winner = winner
    episode.recipes = [_for_record(turn, r, winner) for r in results]
    best = next(r for r in results if r.name == winner)
    if winner == "frozen":
        if request.zero_step:
            episode.phase = "collecting"
            return
        if not request.query:
            end_episode(turn, name, "failed", _nothing_to_choose_by(turn, episode, results))
            return
        reason = (
            f"episode {episode.number}: frozen wins on {len(request.query)} query labels: "
            + ", ".join(f"{r.name} {r.query_loss:.3f}" for r in results)
        )
        end_episode(turn, name, "frozen wins", reason)
        return
    digest = _digest_of(turn, best)
    episode.candidate = Candidate(best.name, digest, list(request.holdout), done.digest)
    episode.phase = "gate"
    if request.zero_step:
        gate, _ = holdout_verdict(turn, name, episode.candidate)
        if gate.verdict is not Verdict.PASS:
            turn.decide(
                "gate",
                name,
                f"episode {episode.number}: {best.name} at zero steps: {gate.reason}; "
                "support is collected",
                episode=episode.number,
                recipe=best.name,
                verdict=gate.verdict.value,
                gate=gate_facts(gate),
            )
            episode.candidate, episode.phase = None, "collecting"
            return
    _gate(turn, name, episode)


def _nothing_to_choose_by(turn: Turn, episode: Episode, results: Sequence[RecipeResult]) -> str:
    name = turn.core.recommended
    why = f"the recommended {name} takes no part" if name else "no meta-init recommends one"
    for result in results:
        if result.name == name:
            why = f"the recommended {name} cannot be used: {result.message or result.outcome}"
    return f"episode {episode.number}: no query labels to choose a recipe by, and {why}"


def _digest_of(turn: Turn, result: RecipeResult) -> str:
    if result.model is not None:
        return model_digest(result.model)
    return turn.version_named(result.name.removeprefix("recalled:")).digest


def _for_record(turn: Turn, result: RecipeResult, winner: str) -> dict[str, object]:
    def mean(losses: NDArray[np.float64]) -> float | None:
        return float(losses.mean()) if losses.size else None

    judged = result.holdout_losses if result.holdout_losses.size else result.query_losses
    classes = turn.settings.model.task_type == "classification"
    return {
        "name": result.name,
        "zero_step": result.zero_step,
        "outcome": result.outcome,
        "message": result.message,
        "query_loss": mean(result.query_losses),
        "holdout_loss": mean(result.holdout_losses),
        "accuracy": float(1.0 - judged.mean()) if classes and judged.size else None,
        "seconds": result.seconds,
        "curve": [[int(step), float(loss)] for step, loss in result.curve],
        "n_query": int(result.query_losses.size),
        "n_holdout": int(result.holdout_losses.size),
        "winner": result.name == winner,
        "params": {} if result.model is None else {"digest": model_digest(result.model)},
    }


# ---------------------------------------------------------------- the gate


def _gate(turn: Turn, name: str, episode: Episode) -> None:
    candidate = episode.candidate
    if candidate is None:
        return
    if episode.kind != "announced":
        newer = turn.state.buffers[name].since(episode.change_point)
        last = max(candidate.holdout)
        candidate.holdout += [e.number for e in newer if e.number > last]
    gate, losses = holdout_verdict(turn, name, candidate)
    late = episode.kind == "announced" or overdue(turn, episode)
    if gate.verdict is Verdict.INCONCLUSIVE and not late:
        return
    known = on_known_classes(turn, name, episode, candidate)
    enters = (known is None or not known.harmed) and (
        gate.verdict is Verdict.PASS
        or (gate.verdict is Verdict.INCONCLUSIVE and gate.may_enter_canary)
    )
    reason = gate.reason if known is None else f"{gate.reason}; {known.reason}"
    turn.decide(
        "gate",
        name,
        f"episode {episode.number}: {candidate.recipe}: {reason}",
        episode=episode.number,
        recipe=candidate.recipe,
        verdict=gate.verdict.value,
        enters_canary=enters,
        gate=gate_facts(gate, known),
    )
    if not enters:
        end_episode(turn, name, "rejected by the gate", reason, gate)
        return
    end_episode(turn, name, "candidate", gate.reason, gate)
    begin_rollout(turn, name, episode, candidate, gate, losses)
