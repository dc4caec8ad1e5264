"""``metadrift produce``: a file played into the topics."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.columns import (
    BOUNDARIES,
    FEATURES,
    GROUP,
    ID,
    LABEL,
    TASK,
    TIME,
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
    print_json,
    settings_from,
)

HELP = """Play a file into the events and labels topics, as a producer in production would.

Events go out at --rate; each row's label follows after --label-delay events or --label-delay-s
seconds, for a --label-fraction of the rows. Ctrl-C stops after what is in flight.
With --ask each row is one request to a router first; its event carries the answer and who gave it.

Example: metadrift produce quarter.csv --label churned --rate 50 --label-fraction 0.2

Exit codes: 0 played or stopped, 2 options or configuration, 3 the file, 5 the broker.
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("produce", help=HELP)(produce)


def produce(
    file: Annotated[Path, typer.Argument(help="CSV, JSONL (also .gz, .xz) or Parquet.")],
    label: LABEL = None,
    task: TASK = None,
    time: TIME = None,
    id: ID = None,  # noqa: A002 - the option's name
    group: GROUP = None,
    features: FEATURES = None,
    boundaries: BOUNDARIES = None,
    rate: Annotated[
        float | None, typer.Option(help="Events a second. Default: as fast as they are taken.")
    ] = None,
    label_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the rows whose label is sent.")
    ] = 1.0,
    label_delay: Annotated[
        int, typer.Option(min=0, help="Events between a row and its label.")
    ] = 0,
    label_delay_s: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds between a row and its label.")
    ] = None,
    shuffle_within_task: Annotated[
        bool, typer.Option("--shuffle-within-task", help="Shuffle rows inside each task.")
    ] = False,
    file_times: Annotated[
        bool, typer.Option("--file-times", help="`ts` is the row's own time, not that of sending.")
    ] = False,
    ask: Annotated[
        str | None,
        typer.Option(
            help="Ask this router about each row first; its answer goes into the event. "
            "http://127.0.0.1:PORT/api/v1.0/predictions"
        ),
    ] = None,
    ask_timeout_s: Annotated[
        float, typer.Option(min=0.1, help="Longest wait for one answer.")
    ] = 10.0,
    seed: Annotated[int, typer.Option(help="Of label choice and shuffling.")] = 0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Play the file."""
    settings = settings_from(config)
    known = feature_file(config)
    columns = columns_from(
        known,
        label=label,
        task=task,
        time=time,
        id=id,
        group=group,
        features=features,
        boundaries=boundaries,
    )
    from deploy.seldon_gateway import SeldonGateway
    from pipeline.asked_router import AskedRouter
    from pipeline.data_file import DataFileError
    from pipeline.kafka_producer import KafkaOutlet, ProduceError
    from pipeline.producer import PlayPlan, StopClock, play, stopping_on_signals

    try:
        plan = PlayPlan(
            rate=rate,
            label_fraction=label_fraction,
            label_delay=label_delay,
            label_delay_s=label_delay_s,
            seed=seed,
            file_times=file_times,
        )
    except ValueError as error:
        fail(str(error), EXIT_CONFIG)
    if columns.label is None and label_fraction > 0:
        typer.echo("note: no --label column is named, so no labels are sent", err=True)
    if ask is not None and not ask.startswith(("http://", "https://")):
        fail(f"--ask is {ask!r}: give the address of the predictions, http://...", EXIT_CONFIG)
    data = open_rows(file, columns, settings, known)
    clock, asked = StopClock(), None
    try:
        rows = data.rows(seed if shuffle_within_task else None)
        with ExitStack() as stack:
            outlet = stack.enter_context(KafkaOutlet(settings.kafka))
            if ask is not None:
                gateway = stack.enter_context(SeldonGateway(ask, timeout_s=ask_timeout_s))
                asked = AskedRouter(gateway, settings.model.task_type)
            stack.enter_context(stopping_on_signals(clock))
            counts = play(rows, plan, outlet, clock, asked)
    except DataFileError as error:
        fail(str(error), EXIT_DATA)
    except ProduceError as error:
        fail(str(error), EXIT_BROKER)
    if as_json:
        print_json(
            {
                "events": counts.events,
                "labels": counts.labels,
                "labels_unsent": counts.labels_unsent,
                "seconds": round(counts.seconds, 3),
                "stopped": counts.stopped,
                **({} if asked is None else {"unanswered": asked.unanswered}),
            }
        )
        return
    ended = "stopped after" if counts.stopped else "sent"
    typer.echo(f"{ended} {counts.events} events and {counts.labels} labels")
    if asked is not None and asked.unanswered:
        typer.echo(f"  {asked.unanswered} had no answer; last: {asked.last_problem}", err=True)
    if counts.labels_unsent:
        typer.echo(f"  {counts.labels_unsent} labels were not due yet", file=sys.stderr)
