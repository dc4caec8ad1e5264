"""Seldon's messages: raw rows out of a request, an answer or an error into a reply.

Seldon's runtime would first pour a request into one numpy array. That turns every number beside a
category into text, and a ragged list into an error without a reason, so requests are read here.
"""

from collections import Counter
from collections.abc import Mapping

from adapters.feature_schema import FeatureSchema, Rows
from adapters.model_file import Model, Prediction

MOST_ROWS = 4096
"""Rows that one request may hold."""
VALUE_NAME = "value"
"""Name of the one column that a regression answers with."""


class RequestError(ValueError):
    """The request cannot be used; the message names the field, the value and the fix.

    It becomes HTTP 400 (gRPC: INVALID_ARGUMENT).
    """


class WrongVersionError(RequestError):
    """The feedback is for an answer of another model version; it becomes HTTP 409."""


def rows_of(message: object, schema: FeatureSchema) -> Rows:
    """Return the raw rows of a prediction request, all of them or none.

    Understood are ``data`` with ``names`` and ``ndarray`` (``n`` rows of values, a tensor feature
    as a flat list) or ``tensor`` (numbers only), and ``jsonData``: one features object or a list.

    Raises:
        RequestError: The message has another form, or a row does not fit the schema.
    """
    items = _items(_object(message, "the request"), schema)
    if not 1 <= len(items) <= MOST_ROWS:
        raise RequestError(f"the request holds {len(items)} rows; send 1 to {MOST_ROWS}")
    parsed = schema.parse_many(items)
    if parsed.errors:
        first = min(parsed.errors)
        raise RequestError(f"row {first}: {parsed.errors[first]}") from parsed.errors[first]
    return parsed.rows


def _items(message: Mapping[str, object], schema: FeatureSchema) -> list[Mapping[str, object]]:
    if "jsonData" in message:
        content = message["jsonData"]
        listed = content if isinstance(content, list) else [content]
        return [_object(item, f"jsonData: row {i}") for i, item in enumerate(listed)]
    if "data" not in message:
        sent = sorted(message.keys() - {"meta"})[:5]
        raise RequestError(f"the request holds {sent}; send 'data' (names and rows) or 'jsonData'")
    data = _object(message["data"], "data")
    names = _names(data.get("names"), schema)
    if "ndarray" in data:
        rows = data["ndarray"]
        if not isinstance(rows, list):
            raise RequestError(f"data.ndarray is {_kind(rows)}; send a list of rows")
    elif "tensor" in data:
        rows = _tensor_rows(_object(data["tensor"], "data.tensor"))
    else:
        sent = sorted(data.keys() - {"names"})[:5]
        raise RequestError(f"data holds {sent}; send its rows as 'ndarray' or 'tensor'")
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise RequestError(
                f"row {i} is {_kind(row)}; send a list of {len(names)} values, one for each name"
            )
    return [dict(zip(names, row, strict=True)) for row in rows]


def _names(value: object, schema: FeatureSchema) -> list[str]:
    wanted = ", ".join(schema.names[:8]) + (", ..." if len(schema.names) > 8 else "")
    if not isinstance(value, list) or not value or not all(isinstance(n, str) for n in value):
        raise RequestError(f"data.names is {_kind(value)}; name the columns ({wanted})")
    twice = [name for name, count in Counter(value).items() if count > 1]
    if twice:
        raise RequestError(f"data.names holds {twice[0][:40]!r} twice; name each column once")
    return value


def _tensor_rows(tensor: Mapping[str, object]) -> list[list[object]]:
    shape, values = tensor.get("shape"), tensor.get("values")
    sizes = isinstance(shape, list) and all(type(s) is int and s > 0 for s in shape)
    if not sizes or not isinstance(shape, list) or len(shape) != 2:
        shown = str(shape)[:40]
        raise RequestError(f"data.tensor.shape is {shown}; send [rows, columns], both above 0")
    n, width = shape
    if not isinstance(values, list) or len(values) != n * width:
        raise RequestError(
            f"data.tensor.values is {_kind(values)}; shape {shape} takes a list of {n * width}"
        )
    return [values[i * width : (i + 1) * width] for i in range(n)]


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise RequestError(f"{what} is {_kind(value)}; send a JSON object")
    return value


def _kind(value: object) -> str:
    match value:
        case None:
            return "missing"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
        case str():
            return f"the text {value[:40]!r}"
        case _:
            return f"the {type(value).__name__} {str(value)[:40]}"


def reply(
    request: Mapping[str, object],
    model: Model,
    prediction: Prediction,
    tags: Mapping[str, object],
) -> dict[str, object]:
    """Return the reply: class names and probabilities ``(n, C)``, or values ``(n, 1)``."""
    if prediction.proba is None:
        names, table = [VALUE_NAME], prediction.values.reshape(-1, 1).tolist()
    else:
        names, table = list(model.class_names), prediction.proba.tolist()
    sent = request.get("data")
    data: dict[str, object] = {"names": names}
    if isinstance(sent, dict) and "tensor" in sent and "ndarray" not in sent:
        values = [value for row in table for value in row]
        data["tensor"] = {"shape": [len(table), len(names)], "values": values}
    else:
        data["ndarray"] = table
    meta: dict[str, object] = {"tags": dict(tags)}
    sent_meta = request.get("meta")
    if isinstance(sent_meta, dict) and isinstance(sent_meta.get("puid"), str):
        meta["puid"] = sent_meta["puid"]
    return {"data": data, "meta": meta}


def answered_by(feedback: Mapping[str, object]) -> str:
    """Return the model version that gave the answer which a feedback message is about.

    Raises:
        RequestError: The message does not hold the answer's tags.
    """
    value: object = feedback
    for name in ("response", "meta", "tags", "model_version"):
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value:
        raise RequestError(
            "response.meta.tags.model_version is missing; send the answer back as 'response', "
            "with its meta"
        )
    return value


def error_reply(message: str, reason: str) -> dict[str, object]:
    """Return what Seldon's runtime sends beside an error status."""
    return {"status": {"status": 1, "info": message, "code": -1, "reason": reason}}
