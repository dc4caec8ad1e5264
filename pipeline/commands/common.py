"""What every command says and does alike: the config option, JSON output, failure."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from pipeline.settings import Settings

EXIT_CONFIG = 2

CONFIG = Annotated[Path, typer.Option("--config", "-c", help="The configuration file (YAML).")]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


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
