"""What every command says and does alike: options, exit codes, JSON output, failure."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from pipeline.settings import Settings

EXIT_CONFIG = 2
"""A wrong option or configuration, or a state file that cannot be used."""
EXIT_DATA = 3
"""A data file or a model folder that cannot be used."""
EXIT_NO_CHAMPION = 4
"""There is no model to serve."""
EXIT_BROKER = 5
"""The broker does not answer, or a topic does not exist."""
EXIT_TAKEN_OVER = 6
"""Another process owns the model now."""
EXIT_REFUSED = 7
"""The command was understood and refused; the reason is printed."""
EXIT_NO_ANSWER = 8
"""The command was sent; no daemon took it in time."""
EXIT_REGISTRY = 9
"""The result is kept here, but MLflow could not be told."""

CONFIG = Annotated[Path, typer.Option("--config", "-c", help="The configuration file (YAML).")]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

DEFAULT_CONFIG = Path("metadrift.yaml")


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong on standard error and end with ``code``."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def settings_from(config: Path) -> "Settings":
    """Read the configuration; a wrong one ends the command with exit code 2."""
    from pipeline.settings import ConfigError, load_settings

    try:
        return load_settings(config)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)


def print_json(value: object) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, indent=2, default=str))
