"""``metadrift signal``: a new task is announced, or an episode is forced."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.commands.columns import (
    GROUP,
    ID,
    LABEL,
    columns_from,
    feature_file,
    open_rows,
)
from pipeline.commands.common import (
    CONFIG,
    DEFAULT_CONFIG,
    EXIT_BROKER,
    EXIT_CONFIG,
    EXIT_DATA,
    JSON,
    fail,
    settings_from,
)
from pipeline.commands.control import BY, EXIT_CODES, REASON, ROUTE, WAIT, new_id, report, send, who

if TYPE_CHECKING:
    from pipeline.data_file import FileRow
    from pipeline.feature_file import FeatureFile
    from pipeline.settings import Settings

GROUP_HELP = "Tell the daemon what no detector can know."

NEW_TASK_HELP = f"""Announce a new task with its labelled examples.

--examples is a data file, whose rows are sent on the labels topic with their features, or a .txt
file or comma-separated list of ids whose labels and features a producer sends. The episode waits
for them; its candidate enters the first canary step at once when it does no worse on those kept
back.

Example: metadrift signal new-task --task night-shift --life replace --examples examples.csv

Example: metadrift signal new-task --task night-shift --life beside --examples a17,a18,a21

{EXIT_CODES[:-1]}, 3 the file.
"""

FORCE_HELP = f"""Open an episode now, from the labels since the champion's world began.

Example: metadrift signal force -m "the sensors were replaced"

{EXIT_CODES}
"""


def add_to(app: typer.Typer) -> None:
    """Add the group of commands."""
    signals = typer.Typer(no_args_is_help=True, help=GROUP_HELP)
    signals.command("new-task", help=NEW_TASK_HELP)(new_task)
    signals.command("force", help=FORCE_HELP)(force)
    app.add_typer(signals, name="signal")


def new_task(
    task: Annotated[str, typer.Option("--task", help="Name of the new task.")],
    examples: Annotated[str, typer.Option(help="A data file, a .txt of ids, or ids a,b,c.")],
    life: Annotated[
        Literal["replace", "beside"], typer.Option(help="Whether the old task ends or lives on.")
    ] = "replace",
    label: LABEL = None,
    id: ID = None,  # noqa: A002 - the option's name
    group: GROUP = None,
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Announce a task."""
    settings = settings_from(config)
    from pipeline.messages import Control

    command = new_id()
    path = Path(examples)
    if path.suffix == ".txt" and path.is_file():
        ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        ids = [i for i in ids if i]
    elif path.is_file():
        known = feature_file(config)
        rows = _rows(path, command, label, id, group, settings, known)
        _send_examples(settings, rows)
        ids = [row.id for row in rows]
    elif "." in path.name and "," not in examples:
        fail(f"--examples: {examples}: no such file; correct it, or give ids a,b,c", EXIT_DATA)
    else:
        ids = [i.strip() for i in examples.split(",") if i.strip()]
    if not ids:
        fail(f"--examples: {examples!r} names none; give at least two", EXIT_CONFIG)
    control = Control(
        verb="new-task",
        id=command,
        by=who(by),
        reason=reason,
        route=route,
        task=task,
        life=life,
        examples=ids,
    )
    send(settings, control)
    report(settings, control, wait, as_json=as_json)


def force(
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Force an episode."""
    settings = settings_from(config)
    from pipeline.messages import Control

    control = Control(verb="force", id=new_id(), by=who(by), reason=reason, route=route)
    send(settings, control)
    report(settings, control, wait, as_json=as_json)


def _rows(
    path: Path,
    command: str,
    label: str | None,
    id: str | None,  # noqa: A002 - the option's name
    group: str | None,
    settings: "Settings",
    known: "FeatureFile | None",
) -> list["FileRow"]:
    """Return the labelled rows; without an id column their ids are the command's own."""
    from dataclasses import replace

    from pipeline.data_file import DataFileError

    columns = columns_from(known, label=label, id=id, group=group)
    if columns.label is None:
        fail("--label: missing; name the column of the truth in the examples", EXIT_CONFIG)
    columns = replace(columns, task=None, time=None)
    data = open_rows(path, columns, settings, known)
    try:
        rows = [row for row in data.rows() if row.label is not None]
    except DataFileError as error:
        fail(str(error), EXIT_DATA)
    if columns.id is None:
        rows = [replace(row, id=f"{command[:12]}-{row.index}") for row in rows]
    return rows


def _send_examples(settings: "Settings", rows: list["FileRow"]) -> None:
    import msgspec

    from pipeline.kafka_producer import KafkaOutlet, ProduceError
    from pipeline.messages import Label

    try:
        with KafkaOutlet(settings.kafka, ("labels",)) as outlet:
            for row in rows:
                if row.label is None:
                    continue
                message = Label(id=row.id, label=row.label, features=row.features, group=row.group)
                outlet.send("labels", row.id.encode(), msgspec.json.encode(message))
            outlet.flush()
    except ProduceError as error:
        fail(str(error), EXIT_BROKER)
