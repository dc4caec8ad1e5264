"""``metadrift replay``: what would metadrift have done?"""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.columns import columns_from
from pipeline.commands.common import (
    EXIT_BROKER,
    EXIT_CONFIG,
    EXIT_DATA,
    fail,
    print_json,
    settings_from,
)

HELP = """Run the whole loop over a file, without a broker, and report what would have happened.

Champion and meta-init learn from the first rows (--train-until) or from some tasks
(--train-tasks); everything else is the stream. Writes report.json and timeline.png.

Example: metadrift replay gas.csv --label gas --task batch --train-tasks 1,2,3 --boundaries batch
--label-fraction 0.1 --label-delay 100 --shuffle-within-task

With --journal it repeats a live run from its state folder and the broker's records, and says
whether every decision came out the same.

Exit codes: 0 done, 1 a repeated run decided otherwise, 2 options or configuration, 3 the data file,
5 the broker (--journal).
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay", help=HELP)(replay)


def replay(
    file: Annotated[Path | None, typer.Argument(help="CSV, JSONL (.gz, .xz) or Parquet.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the truth.")] = None,
    task: Annotated[str | None, typer.Option(help="Column that names the task.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the event's time.")] = None,
    id: Annotated[str | None, typer.Option(help="Column of the event's id.")] = None,  # noqa: A002
    group: Annotated[str | None, typer.Option(help="Column of rows never to be split.")] = None,
    features: Annotated[
        str | None, typer.Option(help="Feature columns, comma-separated; default: the rest.")
    ] = None,
    boundaries: Annotated[
        str | None, typer.Option(help="True boundaries: a column, or positions 100,200.")
    ] = None,
    train_until: Annotated[
        int | None, typer.Option(min=2, help="Learn from this many rows.")
    ] = None,
    train_tasks: Annotated[str | None, typer.Option(help="Learn from these tasks.")] = None,
    label_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Labels that come.")
    ] = 1.0,
    label_delay: Annotated[int, typer.Option(min=0, help="How late, in events.")] = 0,
    shuffle_within_task: Annotated[
        bool, typer.Option("--shuffle-within-task", help="Shuffle rows inside each task.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of order, labels, fitting and adaptation.")] = 0,
    meta_seconds: Annotated[
        float, typer.Option(min=0.0, help="Meta-training budget per algorithm; 0: none.")
    ] = 30.0,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration; default: all defaults.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report and picture.")] = Path("replay-out"),
    journal: Annotated[
        Path | None, typer.Option(help="Repeat the live run of this state folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Replay a file or a journal."""
    if journal is not None:
        _journal(journal, config, as_json=as_json)
        return
    if file is None or label is None:
        fail("give a FILE and its --label column, or --journal STATE_DIR", EXIT_CONFIG)
    from rich.console import Console

    from pipeline.commands.progress import Bars
    from pipeline.data_file_error import DataFileError
    from pipeline.replay_run import ReplayError, ReplayPlan, run_replay
    from pipeline.report.report_schema import encode_report
    from pipeline.report.table import report_tables

    plan = ReplayPlan(
        file=file,
        columns=columns_from(
            None,
            label=label,
            task=task,
            time=time,
            id=id,
            group=group,
            features=features,
            boundaries=boundaries,
        ),
        out=out,
        train_until=train_until,
        train_tasks=tuple(t.strip() for t in (train_tasks or "").split(",") if t.strip()),
        label_fraction=label_fraction,
        label_delay=label_delay,
        shuffle_within_task=shuffle_within_task,
        seed=seed,
        meta_seconds=meta_seconds,
    )
    settings = None if config is None else settings_from(config)
    try:
        with Bars() as bars:
            result = run_replay(plan, settings, bars.tell)
    except ReplayError as error:
        fail(str(error), EXIT_CONFIG)
    except (DataFileError, OSError) as error:
        fail(str(error), EXIT_DATA)
    if as_json:
        typer.echo(encode_report(result.report).decode())
        return
    console = Console()
    console.print(report_tables(result.report))
    for note in result.report.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"written: {out / 'report.json'}, {out / 'timeline.png'}", highlight=False)


def _journal(state_dir: Path, config: Path | None, *, as_json: bool) -> None:
    if config is None:
        fail("--journal needs the run's configuration: add -c CONFIG", EXIT_CONFIG)
    from pipeline.kafka_source import SourceError
    from pipeline.replay_journal import repeat
    from pipeline.state_file import StateError

    settings = settings_from(config)
    try:
        found = repeat(settings, state_dir)
    except SourceError as error:
        fail(str(error), EXIT_BROKER)
    except StateError as error:
        fail(str(error), EXIT_CONFIG)
    if as_json:
        print_json(found)
    else:
        if found["begins"] != 1:
            typer.echo(f"begins at entry {found['begins']}: what came before was compacted away")
        typer.echo(
            f"{found['steps']} steps, {found['decisions']} decisions: "
            + ("all the same" if found["same"] else f"different at {found['first_difference']}")
        )
    if not found["same"]:
        raise typer.Exit(1)
