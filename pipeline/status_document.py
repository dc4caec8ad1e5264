"""The document of ``metadrift status --json``: a contract, versioned with the release."""

from typing import Literal

import msgspec

from pipeline.messages import Decision

OwnerState = Literal["running", "silent", "gone", "stopped", "never started"]


class OwnerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The process that owns the model.

    Attributes:
        state: ``running``; ``silent``: not heard of for longer than the lease; ``gone``: its
            process does not exist any more; ``stopped``: it gave the model up.
        host: Where it runs.
        pid: Its process.
        heard_s_ago: Seconds since its last sign of life.
        epoch: How many owners the model has had.
    """

    state: OwnerState
    host: str = ""
    pid: int = 0
    heard_s_ago: float | None = None
    epoch: int = 0


class EpisodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An adaptation episode in progress.

    Attributes:
        number: Counts the episodes.
        kind: ``drift``, ``announced``, ``forced`` or ``new_class``.
        phase: ``collecting``, ``adapting`` or ``gate``.
        change_point: Examples before this position are cut off.
        labels_since_opening: Labels joined since.
        labels_to_deadline: Labels until it decides with what it has; null: no such bound.
        task: The announced task.
        winner: The recipe that waits for the gate.
        signal: What started it.
        decision: Which task it is, and why; empty before that was decided.
    """

    number: int
    kind: str
    phase: str
    change_point: int
    labels_since_opening: int
    labels_to_deadline: int | None
    task: str | None
    winner: str
    signal: str
    decision: str


class HistoryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a rollout.

    Attributes:
        at_s: Engine time, seconds since the epoch.
        phase: Phase afterwards.
        step: Step afterwards, from 1.
        reason: Why, with its numbers.
    """

    at_s: float
    phase: str
    step: int
    reason: str


class RolloutStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout, or the probation after a promotion, with its numbers.

    Attributes:
        id: Its number.
        candidate: The version that may take over (in probation: that has).
        stable: The version that served before.
        phase: Where it stands.
        mode: ``shadow``, ``recommend`` or ``auto``.
        step: From 1.
        steps: How many there are.
        weights: The candidate's percent of the answers at each step.
        weight_pct: Percent of answers that are the candidate's now.
        evidence: ``paired``: both versions score every event; ``unpaired``: one of them answers.
        labels: Labels seen in the canary.
        step_labels: Of them in this step.
        gain: Mean fall of the loss from stable to candidate.
        wins: Pairs where the candidate lost less; null without pairs.
        losses: Pairs where it lost more; null without pairs.
        e_better: Evidence that it is better.
        e_needed: PASS when ``e_better`` reaches this.
        e_worse: Evidence of harm.
        wrong_served: Wrong answers that the candidate has served.
        paused: Why it stands still; null when it does not.
        packet: First 8 digits of the digest of its review packet; empty when there is none.
        reason: Why it stands where it stands.
        history: What happened to it, oldest first.
    """

    id: int
    candidate: str
    stable: str
    phase: str
    mode: str
    step: int
    steps: int
    weights: list[int]
    weight_pct: int
    evidence: str
    labels: int
    step_labels: int
    gain: float
    wins: int | None
    losses: int | None
    e_better: float
    e_needed: float
    e_worse: float
    wrong_served: int
    paused: str | None
    packet: str
    reason: str
    history: list[HistoryStatus]


class RouteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One route.

    Attributes:
        champion: The version that serves; null before the first.
        earlier: Earlier champions, newest first.
        remembered: Versions of the confirmed tasks in memory, least recently used first.
        labels_since_champion: Labels joined since it became champion.
        episode: In progress.
        rollout: In progress.
        probation: The last promotion, while the old champion can come back.
        waiting: A signal that could not act when it came.
        raised: An alarm about the losses that nothing has answered, and when it is looked at again.
        ended: The last rollout that ended; null since a newer one began or was promoted.
    """

    champion: str | None
    earlier: list[str]
    remembered: list[str]
    labels_since_champion: int
    episode: EpisodeStatus | None
    rollout: RolloutStatus | None
    probation: RolloutStatus | None
    waiting: str | None
    raised: str | None
    ended: RolloutStatus | None


class BusyRoute(msgspec.Struct, frozen=True, kw_only=True):
    """The route of one task.

    Attributes:
        task: Its name.
        labels: Labels of its events so far.
        open: Whether its own weights serve it; else the fall-back does.
    """

    task: str
    labels: int
    open: bool


class TaskRoutesStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The routes of tasks.

    Attributes:
        tasks: Tasks that have one.
        open: Tasks served by their own weights.
        waiting: Tries that wait for the worker.
        busiest: Those with the most labels, a few.
    """

    tasks: int
    open: int
    waiting: int
    busiest: list[BusyRoute]


class VersionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A model version.

    Attributes:
        name: Its number here and the beginning of its digest.
        recipe: How it was made.
        episode: Which episode made it; null for one brought in.
        registered: Its version in MLflow; empty until it is registered.
    """

    name: str
    recipe: str
    episode: int | None
    registered: str


class RiskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The wrong-promotion budget.

    Attributes:
        per_30_days: The setting.
        left: Not spent now.
        next_rollout: What the next rollout would get.
        returns_at_s: Engine time at which the oldest spent part comes back.
    """

    per_30_days: float
    left: float
    next_rollout: float
    returns_at_s: float | None


class ServingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The servers beside the daemon, as they were last seen.

    Attributes:
        stable: The version that answers all the rest; null: nothing is served, or not settled.
        candidate: The version beside it.
        weight_pct: Percent of the requests that are the candidate's.
        failures: By version, since its server last ran well; of those that have failed.
        problem: Why the split is not the wanted one; empty when nothing went wrong.
    """

    stable: str | None
    candidate: str | None
    weight_pct: int
    failures: dict[str, int]
    problem: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How a model stands.

    Attributes:
        model: Its name.
        task_type: Classification or regression.
        owner: The process behind it.
        engine_time_ms: Epoch milliseconds.
        events: Events scored.
        labels: Labels joined.
        served_loss: Mean loss of the served answers over all labels; null before the first.
        counts: What was counted, by name.
        ignored_features: Names in events that the feature schema does not have, and how often.
        positions: Next offset by ``topic/partition``.
        routes: By name.
        task_routes: Routes of tasks; null without ``model.route_by``.
        serving: The servers beside the daemon; null: there are none.
        versions: Every model version.
        meta_init: Digest of the meta-learned start; empty when there is none.
        waiting_champion: Digest of a first champion that the next start takes; empty: none.
        waiting_meta_init: The same for a meta-init.
        risk: The wrong-promotion budget.
        outbox: Effects that wait for MLflow or the decisions topic.
        decisions: The last ones, oldest first.
    """

    model: str
    task_type: str
    owner: OwnerStatus
    engine_time_ms: int
    events: int
    labels: int
    served_loss: float | None
    counts: dict[str, int]
    ignored_features: dict[str, int]
    positions: dict[str, int]
    routes: dict[str, RouteStatus]
    task_routes: TaskRoutesStatus | None
    serving: ServingStatus | None
    versions: list[VersionStatus]
    meta_init: str
    waiting_champion: str
    waiting_meta_init: str
    risk: RiskStatus
    outbox: int
    decisions: list[Decision]
