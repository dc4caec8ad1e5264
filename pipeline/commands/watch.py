"""``metadrift get`` and ``metadrift watch``: the rollouts as a tree, once or live."""

import socket
import time
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import (
    CONFIG,
    DEFAULT_CONFIG,
    EXIT_CONFIG,
    JSON,
    fail,
    settings_from,
)

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.status_document import Status

_CODES = "Exit codes: 0 shown, 2 configuration, or no state yet."
_READS = "Reads the state file only: it needs no broker and no running daemon."

GET = f"""Show the rollout of each route: phase, steps, evidence, history.

{_READS}

Example: metadrift get -c metadrift.yaml

Example: metadrift get --json | jq '.["*"].rollout.phase'

{_CODES}
"""
WATCH = f"""Follow the rollouts in the terminal until Ctrl-C.

{_READS}

Example: metadrift watch -c metadrift.yaml

Example: metadrift watch --json | jq '.["*"].rollout.weight_pct'

With --json: one line for the routes as they are, and one for each change.

{_CODES}
"""


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("get", help=GET)(get)
    app.command("watch", help=WATCH)(watch)


def get(config: CONFIG = DEFAULT_CONFIG, as_json: JSON = False) -> None:
    """Show the rollouts once."""
    found = _look(settings_from(config))
    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(found.routes), indent=2).decode())
        return
    from rich.console import Console

    from pipeline.rollout_tree import tree_of

    Console(highlight=False).print(tree_of(found))


def watch(
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Show the rollouts live."""
    settings = settings_from(config)
    try:
        if as_json:
            _lines(settings, every, once=once)
        else:
            _tree(settings, every, once=once)
    except KeyboardInterrupt:
        return


def _tree(settings: "Settings", every: float, *, once: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    from pipeline.rollout_tree import tree_of

    console = Console(highlight=False)
    with Live(tree_of(_look(settings)), console=console, auto_refresh=False) as live:
        live.refresh()
        while not once:
            time.sleep(every)
            live.update(tree_of(_look(settings)), refresh=True)


def _lines(settings: "Settings", every: float, *, once: bool) -> None:
    import msgspec

    shown = b""
    while True:
        routes = msgspec.json.encode(_look(settings).routes)
        if routes != shown:
            typer.echo(routes.decode())
        shown = routes
        if once:
            return
        time.sleep(every)


def _look(settings: "Settings") -> "Status":
    from pipeline import arrivals
    from pipeline.commands.state_view import glimpse_here
    from pipeline.state_file import StateError, wall_s
    from pipeline.status import status_of

    seen = glimpse_here(settings, 0)
    waiting = arrivals.read(settings.state_dir)
    try:
        return status_of(settings, seen, waiting, wall_s(), socket.gethostname())
    except StateError as error:
        fail(str(error), EXIT_CONFIG)
