"""Every published contract as a JSON Schema; ``docs/schemas/`` holds them as written."""

import msgspec

from pipeline.messages import MESSAGES, any_json, json_schema
from pipeline.report.evaluation_document import evaluation_json_schema
from pipeline.report.report_schema import report_json_schema
from pipeline.status_document import Status

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
FORMAT = "metadrift-messages/1"
STATUS_FORMAT = "metadrift-status/1"


def json_schemas() -> dict[str, dict[str, object]]:
    """Return name -> JSON Schema (2020-12): the topics, the two reports, ``status``."""
    topics = {
        name: {"$schema": _DIALECT, "$id": f"{FORMAT}/{name}", **json_schema(name)}
        for name in MESSAGES
    }
    status = msgspec.json.schema(Status, schema_hook=any_json)
    return {
        **topics,
        "report": report_json_schema(),
        "meta-evaluation": evaluation_json_schema(),
        "status": {"$schema": _DIALECT, "$id": STATUS_FORMAT, **status},
    }
