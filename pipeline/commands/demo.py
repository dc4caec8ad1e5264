"""``metadrift demo``: the whole loop on one machine, in minutes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import EXIT_BROKER, EXIT_CONFIG, JSON, fail

if TYPE_CHECKING:
    from pipeline.demo.conductor import Played

EXIT_CLAIM = 1

HELP = """Watch metadrift do its job: a sorting centre whose plans change without notice.

Starts a broker (or uses the one in METADRIFT_KAFKA__BOOTSTRAP_SERVERS), meta-trains on 40 plans,
runs the daemon and a producer as processes of their own, and tells a story of seven chapters whose
every claim is checked against the numbers. Leaves summary.json and timeline.png in --out.

Example: metadrift demo --seed 3 --out demo-out

Exit codes: 0 every claim held, 1 a claim did not hold, 2 the folder, 5 the broker or a process.
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", help=HELP)(demo)


def demo(
    seed: Annotated[
        int, typer.Option(min=0, help="Decides images, plans, noise and label choice.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Folder of everything it writes.")] = Path("demo-out"),
    as_json: JSON = False,
) -> None:
    """Play the demo and check its story."""
    from rich.console import Console

    from pipeline.demo.broker import BrokerError
    from pipeline.demo.conductor import perform
    from pipeline.demo.folder import DemoFolder, FolderError
    from pipeline.demo.live_view import LiveView
    from pipeline.demo.processes import CommandError
    from pipeline.demo.summary import draw, report_of
    from pipeline.replay_run import versions
    from pipeline.report.report_schema import encode_report
    from pipeline.report.table import report_tables

    folder = DemoFolder(out)
    console = Console(stderr=as_json)
    try:
        with LiveView(console) as view:
            played = perform(folder, seed, view)
    except FolderError as error:
        fail(str(error), EXIT_CONFIG)
    except (BrokerError, CommandError) as error:
        fail(str(error), EXIT_BROKER)
    report = report_of(played.record, played.settings, seed, versions())
    folder.summary.write_bytes(encode_report(report))
    draw(folder.timeline, report, played.record, seed)
    if as_json:
        typer.echo(encode_report(report).decode())
    else:
        console.print(report_tables(report))
    _say_where(folder.summary, folder.timeline, played, err=as_json)
    if not all(claim.held for claim in report.story or ()):
        raise typer.Exit(EXIT_CLAIM)


def _say_where(summary: Path, timeline: Path, played: "Played", *, err: bool) -> None:
    from pipeline.tracking_store import tracking_uri

    spent = ", ".join(f"{name} {seconds:g} s" for name, seconds in played.seconds.items())
    typer.echo(f"written: {summary}, {timeline}", err=err)
    typer.echo(f"seconds: {spent}", err=err)
    typer.echo(
        f"look at the candidates: mlflow ui --backend-store-uri {tracking_uri(played.settings)}",
        err=err,
    )
