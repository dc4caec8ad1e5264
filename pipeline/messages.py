"""What travels over the topics: one JSON object per message, UTF-8.

These structs are the contract; ``metadrift schema`` publishes them as JSON Schema. Unknown keys
are ignored on the way in, so producers may add fields of their own.
"""

from typing import Literal

import msgspec

FeatureValue = float | int | str | bool | list[float | int] | None
LabelValue = str | int | bool | float
Timestamp = int | float | str

LONGEST_LABEL = 256
"""Most characters of a class."""


class Event(msgspec.Struct, gc=False, kw_only=True):
    """Something to predict.

    Attributes:
        id: Names the event; its label comes back under the same id.
        ts: When it happened (RFC 3339 text or epoch milliseconds); informative, expires nothing.
        features: Raw values by feature name; extra names are ignored and counted.
        task: Which task it belongs to, where that is known.
        group: Rows that must never be split between training and validation; default the id.
        label: The truth, where it is known at once; counts as the event's first label.
        prediction: The answer that was given already; none is published for such an event.
        model_version: The version that gave it, as the model server's answer says.
    """

    id: str
    features: dict[str, FeatureValue]
    ts: Timestamp | None = None
    task: str | None = None
    group: str | None = None
    label: LabelValue | None = None
    prediction: LabelValue | None = None
    model_version: str | None = None


class Label(msgspec.Struct, gc=False, kw_only=True):
    """The truth about an event, however late.

    Attributes:
        id: The event's id.
        label: Class name (string, integer or bool) or, for regression, a finite number.
        ts: When the truth became known; informative.
        features: The event's features, where the producer has them; used only when no
            prediction waits for this label.
        group: As for events; used together with ``features``.
    """

    id: str
    label: LabelValue
    ts: Timestamp | None = None
    features: dict[str, FeatureValue] | None = None
    group: str | None = None


Verb = Literal[
    "new-task",
    "pause",
    "resume",
    "approve",
    "reject",
    "abort",
    "promote",
    "promote-full",
    "retry",
    "undo",
    "force",
]


class Control(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A command of an operator or a producer.

    Attributes:
        verb: What to do.
        id: Names the command; a repeated id is carried out once.
        by: Who says so, as claimed.
        reason: Why.
        route: Which route; default the one route ``*``.
        task: ``new-task``: the name of the task.
        life: ``new-task``: whether the old task ends (``replace``) or lives on (``beside``).
        examples: ``new-task``: ids of its labelled examples, which come on the labels topic.
        digest: ``approve`` / ``reject``: the first 8 characters of the review packet's digest.
    """

    verb: Verb
    id: str
    by: str = "unknown"
    reason: str = ""
    route: str = "*"
    task: str | None = None
    life: Literal["replace", "beside"] = "replace"
    examples: list[str] = msgspec.field(default_factory=list)
    digest: str | None = None
    ts: Timestamp | None = None


class Prediction(msgspec.Struct, gc=False, kw_only=True, omit_defaults=True):
    """The answer to one event.

    Attributes:
        id: The event's id.
        prediction: Class name, or a number for regression.
        proba: Probability by class name; absent for regression.
        model_version: Version of the model that answered.
        arm: ``stable`` or ``candidate``.
        route: The route whose weights answered.
    """

    id: str
    prediction: str | float | None
    model_version: str
    arm: Literal["stable", "candidate"]
    route: str
    proba: dict[str, float] | None = None


class Decision(msgspec.Struct, kw_only=True):
    """A signal, an episode, a gate, a rollout step, a promotion, a rollback ..., with its numbers.

    Attributes:
        key: Unique and deterministic: a repeated delivery carries the same key.
        kind: What was decided.
        model: ``model.name`` of the daemon.
        route: The route it concerns.
        position: Number of events scored when it was decided.
        labels: Number of labels joined when it was decided.
        at_ms: Engine time, epoch milliseconds.
        reason: One sentence with the numbers that led to it.
        facts: Inputs and thresholds.
    """

    key: str
    kind: str
    model: str
    route: str
    position: int
    labels: int
    at_ms: int
    reason: str
    facts: dict[str, object]


MESSAGES: dict[str, type[msgspec.Struct]] = {
    "events": Event,
    "labels": Label,
    "control": Control,
    "predictions": Prediction,
    "decisions": Decision,
}


def json_schema(topic: str) -> dict[str, object]:
    """Return the JSON Schema of a topic's messages.

    Raises:
        KeyError: No such topic; the names are the keys of ``MESSAGES``.
    """
    return msgspec.json.schema(MESSAGES[topic], schema_hook=any_json)


def any_json(kind: type) -> dict[str, object]:
    """Let a decision's facts be any JSON (a hook of ``msgspec.json.schema``)."""
    if kind is not object:
        raise NotImplementedError
    return {"description": "Any JSON value."}
