"""What the engine is fed and what it hands back: plain values, no client objects."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from deploy.guards import GuardReading
from deploy.rollout_plan import Traffic
from pipeline.messages import Decision

Stream = Literal["events", "labels", "control"]
EffectKind = Literal["decision", "episode", "rollout", "version", "alias", "review-answer"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records of one partition, as bytes.

    Attributes:
        stream: Which contract the values follow.
        topic: Where they come from; for a file its name.
        partition: Its partition.
        offsets: One offset a record, rising.
        times_ms: Record timestamps, epoch milliseconds.
        values: The payloads; ``None`` is a tombstone.
        damaged: Why the records between the first and the last offset cannot be unpacked; then
            nothing else is known of them, and values are ``None``.
    """

    stream: Stream
    topic: str
    partition: int
    offsets: list[int]
    times_ms: list[int]
    values: list[bytes | None]
    damaged: str = ""


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll returned, with the host's clock (epoch milliseconds) when it did."""

    chunks: tuple[Chunk, ...]
    host_ms: int

    def ranges(self) -> list[tuple[Stream, str, int, int, int]]:
        """Return (stream, topic, partition, first offset, last offset) per chunk."""
        return [(c.stream, c.topic, c.partition, c.offsets[0], c.offsets[-1]) for c in self.chunks]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed without records."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class BakeOffDone:
    """The worker answered, or failed.

    Attributes:
        episode: Whose bake-off.
        request: Number of the request within the episode.
        digest: Digest of the stored result; empty after a failure.
        error: Why there is no result.
    """

    episode: int
    request: int
    digest: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class RouteAdapted:
    """The worker answered about a task's own weights, or failed.

    Attributes:
        number: Of the request.
        digest: Digest of the stored answer; empty after a failure.
        error: Why there is no answer.
    """

    number: int
    digest: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class RegistryNews:
    """What was seen in the registry.

    Attributes:
        kind: ``registered`` (a version got its number there), ``review`` (a person's verdict on
            it) or ``alias`` (the champion alias was found on another version).
        number: Our number of the version; 0 when it is none of ours.
        registered: The registry's number of the version.
        verb: ``approve`` or ``reject`` for a review.
        by: Who, as claimed.
        reason: Why.
        tag: The review as it was written.
    """

    kind: Literal["registered", "review", "alias"]
    number: int
    registered: str
    verb: Literal["approve", "reject", ""] = ""
    by: str = ""
    reason: str = ""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class ModelsFound:
    """Models that were made outside the loop: the first champion, a meta-learned start.

    Attributes:
        champion: Digest; empty when none is brought in.
        recipe: How the champion was made.
        losses: The champion's own holdout losses in [0, 1].
        meta_init: Digest; empty when there is none.
        recommended: The few-step recipe that meta-validation recommends; empty when unknown.
        state_id: Tells this state from others of the same model in the registry; taken once.
    """

    champion: str
    recipe: str = "imported"
    losses: tuple[float, ...] = ()
    meta_init: str = ""
    recommended: str = ""
    state_id: str = ""


@dataclass(frozen=True, slots=True)
class ServerFailures:
    """How often a version's server has failed since it last ran well, and how the last time."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class ServingSeen:
    """What was observed of the servers that answer beside the daemon.

    Attributes:
        traffic: The split in force; None: nothing is served, or nothing is settled.
        failures: By version that is wanted; empty where all went well.
        problem: Why the split is not the wanted one, if something went wrong.
        readings: Errors and latency by version, while two are served; empty: not read.
        external: Whether there are such servers at all; False ends what was known of them.
        at_ms: When it was seen, host time in epoch milliseconds; 0: not said.
    """

    traffic: Traffic | None = None
    failures: dict[str, ServerFailures] = field(default_factory=dict)
    problem: str = ""
    readings: dict[str, GuardReading] = field(default_factory=dict)
    external: bool = True
    at_ms: int = field(default=0, compare=False)


Input: TypeAlias = (
    Poll | Tick | BakeOffDone | RouteAdapted | RegistryNews | ModelsFound | ServingSeen
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be used, and why."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Effect:
    """Something to be done outside, exactly once by its key.

    Attributes:
        key: Idempotency key, deterministic.
        kind: ``decision`` goes to the decisions topic, everything else to the registry.
        payload: JSON-able facts.
    """

    key: str
    kind: EffectKind
    payload: dict[str, object]


@dataclass(slots=True)
class Outcome:
    """What one step calls for.

    Attributes:
        predictions: (event id, message) to publish.
        dead_letters: Records to set aside.
        effects: What goes through the outbox.
        decisions: Every decision of the step, in order.
    """

    predictions: list[tuple[bytes, bytes]] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
