"""The console script: names of commands, their options, and nothing heavy.

Every command's work is in ``pipeline.commands.<verb>`` and is imported when it is called, so
``metadrift --help`` answers at once.
"""

import importlib
import sys

import typer

app = typer.Typer(
    name="metadrift",
    help="Keeps a deployed model right while the world changes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERBS = (
    "init",
    "check",
    "meta_train",
    "meta_evaluate",
    "model",
    "run",
    "produce",
    "status",
    "watch",
    "rollout_verbs",
    "signal",
    "serve",
    "replay",
    "demo",
    "schema",
)
"""Modules of ``pipeline.commands``, in the order of the help."""


@app.callback()
def _root() -> None:
    """Make a single command stay a subcommand."""


for _verb in VERBS:
    importlib.import_module(f"pipeline.commands.{_verb}").add_to(app)


def main() -> None:
    """Run the command line."""
    sys.exit(app())
