"""Sends a command over the control topic and waits for what the daemon makes of it."""

import getpass
import time
import uuid
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from pipeline.commands.common import (
    EXIT_BROKER,
    EXIT_NO_ANSWER,
    EXIT_REFUSED,
    fail,
    print_json,
)

if TYPE_CHECKING:
    from pipeline.messages import Control
    from pipeline.settings import Settings

BY = Annotated[str | None, typer.Option("--by", help="Who says so. Default: this user's name.")]
REASON = Annotated[str, typer.Option("--reason", "-m", help="Why; it is recorded.")]
ROUTE = Annotated[str, typer.Option("--route", help="Which route.")]
WAIT = Annotated[
    float,
    typer.Option("--wait", min=0.0, help="Seconds to wait for the daemon's answer; 0: only send."),
]

EXIT_CODES = (
    "Exit codes: 0 accepted (or sent, with --wait 0), 2 configuration, 5 the broker, "
    "7 refused, 8 sent, but no daemon took it in time."
)

_LOOK_S = 0.2
_DECISIONS = 200


def new_id() -> str:
    """Return an id under which a command is carried out once."""
    return uuid.uuid4().hex


def who(by: str | None) -> str:
    """Return the name that a command is recorded under."""
    if by:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return "unknown"


def send(settings: "Settings", command: "Control") -> None:
    """Put a command on the control topic; a broker that does not take it ends the command."""
    from pipeline.kafka_producer import KafkaOutlet, ProduceError

    try:
        with KafkaOutlet(settings.kafka, ("control",)) as outlet:
            outlet.send("control", command.id.encode(), msgspec.json.encode(command))
            outlet.flush()
    except ProduceError as error:
        fail(str(error), EXIT_BROKER)


def report(settings: "Settings", command: "Control", wait_s: float, *, as_json: bool) -> None:
    """Say what became of a command that was sent; a refused one ends with exit code 7."""
    outcome, reason = ("sent", "") if wait_s == 0 else _answer(settings, command.id, wait_s)
    if as_json:
        print_json({"command": command.id, "verb": command.verb, "outcome": outcome, "why": reason})
    elif outcome in ("accepted", "sent"):
        typer.echo(f"{command.verb}: {outcome}{': ' if reason else ''}{reason}")
    if outcome == "refused":
        fail(reason, EXIT_REFUSED)
    if outcome == "no answer":
        fail(
            f"{command.verb} was sent, but no daemon took it within {wait_s:g} s; it will when it "
            "runs (see `metadrift status`)",
            EXIT_NO_ANSWER,
        )


Outcome = Literal["accepted", "refused", "no answer", "sent"]


def _answer(settings: "Settings", command: str, wait_s: float) -> tuple[Outcome, str]:
    """Wait for the state to hold the command; return what became of it, and why."""
    from pipeline.commands.state_view import glimpse_here, state_file
    from pipeline.status import core_of

    path, deadline_s = state_file(settings.state_dir), time.monotonic() + wait_s
    while True:
        if path.exists():
            seen = glimpse_here(settings, _DECISIONS)
            if command in core_of(settings, seen).commands:
                return _outcome(seen.decisions, command)
        if time.monotonic() >= deadline_s:
            return "no answer", ""
        time.sleep(_LOOK_S)


def _outcome(decisions: list[bytes], command: str) -> tuple[Outcome, str]:
    from pipeline.messages import Decision

    said = ""
    for packed in decisions:
        decision = msgspec.json.decode(packed, type=Decision)
        if decision.facts.get("command") != command:
            continue
        if decision.kind == "command-refused":
            return "refused", decision.reason
        said = decision.reason
    return "accepted", said
