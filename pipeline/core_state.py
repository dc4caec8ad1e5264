"""The small part of the state: one JSON document, written whole with every transaction."""

from typing import Literal

import msgspec

from deploy.risk_budget import RiskBudget
from deploy.rollout import Rollout
from detectors.signals import Signal
from detectors.trigger import TriggerState
from pipeline.records import ServingSeen

ONE_ROUTE = "*"

EpisodeKind = Literal["drift", "announced", "forced", "new_class"]
EpisodePhase = Literal["collecting", "adapting", "gate"]


class Version(msgspec.Struct):
    """A model version.

    Attributes:
        number: Counts the versions of this state, from 1; names it in the window's columns.
        name: ``<number>-<first 8 of the digest>``.
        digest: Of its manifest; finds it on the shelf.
        episode: Which episode made it; None for an imported one.
        losses: Its own holdout losses, which prime the error detector.
        recipe: How it was made.
        asked: Whether the registry was asked to register it.
        registered: The registry's number of it; empty until it is registered.
    """

    number: int
    name: str
    digest: str
    episode: int | None
    losses: list[float]
    recipe: str
    asked: bool = False
    registered: str = ""


class Request(msgspec.Struct):
    """What a bake-off works on: label numbers of the examples in each part.

    Attributes:
        number: Counts the requests of the episode, from 1.
        recipes: Which take part.
        support: Label numbers.
        query: Label numbers.
        holdout: Label numbers.
        zero_step: Whether only recipes without support take part.
        evidence: Label numbers that say which task it is; nothing learns from them.
    """

    number: int
    recipes: list[str]
    support: list[int]
    query: list[int]
    holdout: list[int]
    zero_step: bool
    evidence: list[int] = []


class Candidate(msgspec.Struct):
    """The winner of a bake-off, on its way through the gate.

    Attributes:
        recipe: Which recipe won.
        digest: Of its manifest.
        holdout: Label numbers it is judged on; grows while the gate is inconclusive.
        result: Digest of the whole bake-off's answer.
    """

    recipe: str
    digest: str
    holdout: list[int]
    result: str


class Episode(msgspec.Struct):
    """One attempt to find a better model after a signal.

    Attributes:
        number: Counts the episodes of the model, from 1.
        kind: Drift, an announced task, forced by a person, or classes that the champion lacks.
        signal: What started it.
        change_point: Examples before this position are cut off.
        phase: Collecting labels, adapting, or waiting for the gate.
        opened_ms: Engine time at the opening.
        opened_label: Labels joined at the opening.
        task: The announced task.
        life: Whether the old task ends (``replace``) or lives on (``beside``).
        example_ids: Ids of the announced task's examples.
        requests: Bake-offs asked for so far.
        zero_step_tried: Whether query and holdout alone have been tried.
        request: The bake-off in progress.
        candidate: The winner that waits for the gate.
        recipes: Result per recipe of the last bake-off, for the record.
        winner: The recipe that the last bake-off chose.
        splits: Rows and content digest of each part of the last bake-off.
        new_classes: Classes that the champion lacks and the bake-off's candidates shall know.
        judged_from: Labels joined when its signal came: later ones were not chosen by it, and say
            which task it is. 0 where the signal did not look at labels.
        decision: Which task it is, as last decided, with its numbers; empty before that.
    """

    number: int
    kind: EpisodeKind
    signal: Signal
    change_point: int
    phase: EpisodePhase
    opened_ms: int
    opened_label: int
    task: str | None = None
    life: Literal["replace", "beside"] = "replace"
    example_ids: list[str] = []
    requests: int = 0
    zero_step_tried: bool = False
    request: Request | None = None
    candidate: Candidate | None = None
    recipes: list[dict[str, object]] = []
    winner: str = ""
    splits: dict[str, tuple[int, str]] = {}
    new_classes: list[str] = []
    judged_from: int = 0
    decision: dict[str, object] = {}


class RaisedLoss(msgspec.Struct):
    """An alarm about the champion's losses that nothing has answered yet.

    Attributes:
        detector: Which raised it.
        change_point: Position from which labels may teach a candidate.
        looks: How often the losses after it were held to the reference again.
        retries: Episodes that follow a refused candidate since the last look.
        labels: Labels of the champion's since the last look, episode or rollout.
        loss: Sum of its losses on them.
    """

    detector: str
    change_point: int
    looks: int = 0
    retries: int = 0
    labels: int = 0
    loss: float = 0.0


class Before(msgspec.Struct):
    """What a rollback in probation brings back together.

    Attributes:
        champion: Version number.
        earlier: Version numbers of the champions before it.
        champion_since_label: Labels joined when it became champion.
        champion_since_position: Events scored when it became champion.
        monitors: Its monitors' snapshots by name.
        buffer_from: Where its buffer began.
        raised: The alarm about its losses that was unanswered.
    """

    champion: int
    earlier: list[int]
    champion_since_label: int
    champion_since_position: int
    monitors: dict[str, bytes]
    buffer_from: int
    raised: RaisedLoss | None = None


class RouteCore(msgspec.Struct):
    """What one route remembers, besides its monitors and its buffer.

    Attributes:
        champion: Version number of the stable arm.
        earlier: Version numbers of earlier champions, newest first.
        champion_since_label: Labels joined when it became champion.
        champion_since_position: Events scored when it became champion.
        action_label: Labels joined when the last episode or rollout ended; -1 before the first.
        action_ms: Engine time of that.
        buffer_from: Position at which examples of the champion's world begin.
        trigger: The trigger policy's own state; None before the first signal.
        inputs_moved_at: Change point of the last label-free signal; -1 before the first.
        episode: In progress.
        rollout: In progress, until it is promoted into probation or ends.
        probation: The last promotion, while the old champion can still come back.
        before: What that would bring back.
        rollout_candidate: Version number of the rollout's candidate.
        rollout_holdout: The candidate's mean loss on the holdout of its episode; None: no holdout.
        rollout_signal: The signal behind it; looked at again when the rollout ends in nothing.
        rollout_change_point: Change point of the episode that made it.
        rollout_episode: The episode that made it.
        rollout_from: Position of the first event that both arms of the rollout answered.
        probation_from: The same for the probation.
        waiting: A signal that came while it could not act.
        ended: The last rollout that ended; None since a newer one began or was promoted.
        unserved_since_ms: Engine time since which the canary's traffic is not as wanted; -1: it is.
        split: Candidate and weight that the router beside the daemon was last seen to have.
        split_since_ms: Host time, epoch milliseconds, since which it has them; -1: it has not.
        new_class_tried: Sightings of each new class at its last bake-off under this champion.
        raised: The last alarm about the champion's losses; None: there was none.
    """

    champion: int = 0
    earlier: list[int] = []
    champion_since_label: int = 0
    champion_since_position: int = 0
    action_label: int = -1
    action_ms: int = 0
    buffer_from: int = 0
    trigger: TriggerState | None = None
    inputs_moved_at: int = -1
    episode: Episode | None = None
    rollout: Rollout | None = None
    probation: Rollout | None = None
    before: Before | None = None
    rollout_candidate: int = 0
    rollout_holdout: float | None = None
    rollout_signal: Signal | None = None
    rollout_change_point: int = 0
    rollout_episode: Episode | None = None
    rollout_from: int = 0
    probation_from: int = 0
    waiting: Signal | None = None
    ended: Rollout | None = None
    unserved_since_ms: int = -1
    split: tuple[str, int] = ("", 0)
    split_since_ms: int = -1
    new_class_tried: dict[str, int] = {}
    raised: RaisedLoss | None = None


class RouteRequest(msgspec.Struct):
    """A task's own weights that the worker is asked for.

    Attributes:
        number: Counts these requests of the model, from 1.
        task: Whose.
        recipe: How they are to be made.
        support: Label numbers.
        holdout: Label numbers, newer or of other groups.
        own: Digest of the answer that holds the weights the task has now; empty: none.
    """

    number: int
    task: str
    recipe: str
    support: list[int]
    holdout: list[int]
    own: str


class Routing(msgspec.Struct):
    """What all routes of tasks share.

    Attributes:
        asked: Requests so far.
        waiting: Requests that wait for the worker, oldest first; bounded.
        open: How many routes serve their own weights.
        announced: Task of each announced example; bounded, the oldest first.
    """

    asked: int = 0
    waiting: list[RouteRequest] = []
    open: int = 0
    announced: dict[str, str] = {}


class OffsetMark(msgspec.Struct):
    """Where the partitions stood when ``position`` events had been scored."""

    position: int
    positions: dict[str, int]


class Core(msgspec.Struct):
    """Everything small that the engine remembers.

    Attributes:
        state_id: Tells this state from others of the same model in the registry.
        time_ms: Engine time: the running maximum of record timestamps and ticks.
        first: Oldest position in the join window.
        next: Position of the next event: how many were scored.
        labels: How many labels were joined or brought their own features.
        evicted: Events that left the window without a label.
        orphans: Labels whose event never came.
        positions: Next offset by ``topic/partition``.
        marks: Earlier values of ``positions``, for lineage; the oldest go first.
        classes: Class names by number, append-only.
        versions: Every model version by number.
        meta_init: Digest of the meta-learned start; empty when there is none.
        recommended: The recipe that meta-validation recommends; empty when unknown.
        episodes: Episodes opened so far.
        rollouts: Rollouts begun so far.
        decisions: Decisions recorded so far.
        served_loss: Sum of the served answers' losses over labelled events.
        risk: The wrong-promotion budget; None before the first rollout.
        counts: What was counted, by name.
        extra_features: Ignored feature names and how often each came.
        commands: Ids of the last commands, each carried out once.
        packets: Digest of the review packet by episode, the last ones.
        serving: What was last observed of the servers beside the daemon; None: there are none.
        routes: Per route.
        routing: What the routes of tasks share; None without ``model.route_by``.
    """

    state_id: str = ""
    time_ms: int = 0
    first: int = 0
    next: int = 0
    labels: int = 0
    evicted: int = 0
    orphans: int = 0
    positions: dict[str, int] = {}
    marks: list[OffsetMark] = []
    classes: list[str] = []
    versions: dict[int, Version] = {}
    meta_init: str = ""
    recommended: str = ""
    episodes: int = 0
    rollouts: int = 0
    decisions: int = 0
    served_loss: float = 0.0
    risk: RiskBudget | None = None
    counts: dict[str, int] = {}
    extra_features: dict[str, int] = {}
    commands: list[str] = []
    packets: dict[int, str] = {}
    serving: ServingSeen | None = None
    routes: dict[str, RouteCore] = msgspec.field(default_factory=lambda: {ONE_ROUTE: RouteCore()})
    routing: Routing | None = None

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        self.counts[name] = self.counts.get(name, 0) + by


def encode_core(core: Core) -> bytes:
    """Return the document, the same bytes for the same state."""
    return msgspec.json.encode(core)


def decode_core(document: bytes) -> Core:
    """Read what ``encode_core`` wrote."""
    return msgspec.json.decode(document, type=Core)
