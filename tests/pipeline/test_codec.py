"""The codec raises on nothing, and says of each record it sets aside why."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec import LONGEST_ID, LONGEST_LEAD_MS, Codec
from pipeline.messages import MESSAGES, Event, json_schema
from pipeline.records import Chunk, DeadLetter, Stream

HOST_MS = 1_700_000_000_000
MAX_BYTES = 2_000
REASONS = {"empty", "oversized", "from-the-future", "wrong-type", "undecodable"}
CODEC = Codec(MAX_BYTES)


def decode(
    stream: Stream, values: list[bytes | None], times_ms: list[int] | None = None
) -> tuple[list[str], list[DeadLetter]]:
    """Return the ids that were read, and the dead letters."""
    dead: list[DeadLetter] = []
    n = len(values)
    chunk = Chunk(stream, stream, 3, list(range(10, 10 + n)), times_ms or [HOST_MS] * n, values)
    read = {"events": CODEC.events, "labels": CODEC.labels, "control": CODEC.control}[stream]
    messages = read([chunk], HOST_MS, dead)
    return [m.id for m in messages.messages], dead


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
nearly_events = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("id", "features", "ts", "task", "group", "label", "prediction", "verb"), json_values
    ),
).map(lambda message: json.dumps(message).encode())
anything = (
    st.none() | st.binary(max_size=60) | nearly_events | json_values.map(json.dumps).map(str.encode)
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["events", "labels", "control"]), st.lists(anything, max_size=6))
def test_each_record_is_read_or_set_aside_with_a_reason(
    stream: Stream, values: list[bytes | None]
) -> None:
    ids, dead = decode(stream, values)
    assert len(ids) + len(dead) == len(values)
    for letter in dead:
        assert letter.error in REASONS
        assert letter.message
        assert letter.value == values[letter.offset - 10]
        assert (letter.topic, letter.partition) == (stream, 3)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Event,
        id=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=LONGEST_ID),
        features=st.dictionaries(
            st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
            st.none()
            | st.booleans()
            | st.integers(-(2**60), 2**60)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
            max_size=3,
        ),
        group=st.none() | st.just("g"),
    )
)
def test_what_the_contract_writes_is_read_back(event: Event) -> None:
    dead: list[DeadLetter] = []
    written = msgspec.json.encode(event)
    decoded = Codec(100_000).events(
        [Chunk("events", "events", 0, [0], [HOST_MS], [written])], HOST_MS, dead
    )
    assert (decoded.messages, dead) == ([event], [])


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (None, "empty", "no value"),
        (b"", "undecodable", "truncated"),
        (b"\x00\xffgarbage", "undecodable", "malformed"),
        (b'{"id":"\xff","features":{}}', "undecodable", "utf-8"),
        (b'{"id":"\\ud800","features":{}}', "undecodable", "surrogate"),
        (b'{"id":"a","features":{"x":NaN}}', "undecodable", "malformed"),
        (b'{"id":"a","features":{"x":Infinity}}', "undecodable", "malformed"),
        (b'{"id":"a","features":{"x":1e999}}', "wrong-type", "out of range"),
        (b'{"id":7,"features":{}}', "wrong-type", "id"),
        (b'{"id":"","features":{}}', "wrong-type", "0 characters"),
        (b'{"id":"' + b"a" * 300 + b'","features":{}}', "wrong-type", "300 characters"),
        (b'{"id":"a"}', "wrong-type", "features"),
        (b'{"id":"a","features":[1]}', "wrong-type", "object"),
        (b'{"id":"a","features":{"x":{"y":1}}}', "wrong-type", "features"),
        (b'{"id":"a","features":{"x":["1"]}}', "wrong-type", "features"),
        (b'{"id":"a","zz":' + b"[" * 1500, "undecodable", ""),
        (b'{"id":"a","features":{}}' + b" " * MAX_BYTES, "oversized", "max_message_bytes"),
    ],
)
def test_a_bad_event_says_what_is_wrong(value: bytes | None, error: str, says: str) -> None:
    good = b'{"id":"good","features":{"x":1},"of our own":[1,{}]}'
    ids, dead = decode("events", [good, value, good])
    assert ids == ["good", "good"]
    assert [(d.error, d.offset) for d in dead] == [(error, 11)]
    assert says in dead[0].message


def test_deep_nesting_within_the_size_limit_is_set_aside() -> None:
    dead: list[DeadLetter] = []
    deep = b'{"id":"a","zz":' + b"[" * 200_000 + b"]" * 200_000 + b',"features":{}}'
    Codec(1_000_000).events([Chunk("events", "events", 0, [0], [HOST_MS], [deep])], HOST_MS, dead)
    assert [d.error for d in dead] == ["undecodable"]


def test_a_record_from_the_future_is_set_aside() -> None:
    value = b'{"id":"a","label":1}'
    at = [HOST_MS + LONGEST_LEAD_MS, HOST_MS + LONGEST_LEAD_MS + 1]
    ids, dead = decode("labels", [value, value], at)
    assert ids == ["a"]
    assert [(d.error, d.offset) for d in dead] == [("from-the-future", 11)]
    assert "3600 s ahead" in dead[0].message


def test_a_command_with_an_unknown_key_or_verb_is_refused() -> None:
    _, dead = decode(
        "control", [b'{"verb":"pause","id":"1","forse":true}', b'{"verb":"stop","id":"1"}']
    )
    assert [d.error for d in dead] == ["wrong-type", "wrong-type"]
    assert "forse" in dead[0].message


def test_several_partitions_are_read_in_order_of_time() -> None:
    def chunk(partition: int, times: list[int]) -> Chunk:
        values: list[bytes | None] = [b'{"id":"%d","label":"x"}' % t for t in times]
        return Chunk("labels", "labels", partition, list(range(len(times))), times, values)

    decoded = CODEC.labels([chunk(0, [1, 4, 5]), chunk(1, [2, 3, 6])], HOST_MS, [])
    assert [m.id for m in decoded.messages] == list("123456")
    assert decoded.times_ms == [1, 2, 3, 4, 5, 6]
    assert decoded.origins == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize("topic", sorted(MESSAGES))
def test_each_contract_is_published_as_a_schema(topic: str) -> None:
    import jsonschema

    schema = json_schema(topic)
    jsonschema.Draft202012Validator.check_schema(schema)
    if topic == "events":
        jsonschema.validate({"id": "a", "features": {"x": 1.5, "y": [1, 2]}}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"id": 3, "features": {}}, schema)
