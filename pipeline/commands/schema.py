"""``metadrift schema``: the contracts of the topics and of report.json as JSON Schema."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import EXIT_CONFIG, JSON, fail, print_json

HELP = """Print the JSON Schema of a topic's messages (or `report`, ...), or write them all.

Names: events, labels, control, predictions, decisions; report (report.json of replay and
summary.json of the demo); meta-evaluation (meta-evaluation.json of meta-evaluate); status
(`metadrift status --json`). Dead letters are the original bytes.

Example: metadrift schema events

Example: metadrift schema --out schemas/

Exit codes: 0 done, 2 no such name.
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schema", help=HELP)(schema)


def schema(
    topic: Annotated[str | None, typer.Argument(help="Which one. Default: all.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; one NAME.json each instead of printing.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Print or write the schemas."""
    from pipeline.json_schemas import json_schemas

    found = json_schemas()
    if topic is not None:
        if topic not in found:
            fail(f"{topic!r}: no such name; choose one of {', '.join(found)}", EXIT_CONFIG)
        found = {topic: found[topic]}
    if out is None:
        print_json(found if topic is None else found[topic])
        return
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, document in found.items():
        path = out / f"{name}.json"
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        written.append(str(path))
    if as_json:
        print_json({"written": written})
    else:
        typer.echo("\n".join(written))
