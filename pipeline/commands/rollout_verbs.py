"""A person's word on a rollout: ``metadrift approve``, ``abort``, ``promote``, ``undo`` ..."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import CONFIG, DEFAULT_CONFIG, JSON, settings_from
from pipeline.commands.control import BY, EXIT_CODES, REASON, ROUTE, WAIT, new_id, report, send, who

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.messages import Verb

_DIGEST = Annotated[
    str | None,
    typer.Option(
        help="First digits of the review packet that was read; of another candidate: refused."
    ),
]


_HELP = {
    "approve": "Let a candidate that waits for approval into traffic.",
    "reject": "Turn down a candidate that waits, or whose labels look permuted.",
    "pause": "Hold a rollout where it stands; its weights stay.",
    "resume": "Let a paused rollout go on; of suspect labels it says that they are right.",
    "abort": "Roll back now: the stable version gets all traffic.",
    "promote": "Skip the rollout's current step; with --full make the candidate champion now.",
    "retry": "Roll the same candidate out again after a roll back, an expiry or an abort.",
    "undo": "Make the champion before this one the champion again, in probation or later.",
}


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for verb in (approve, reject, pause, resume, abort, promote, retry, undo):
        name = verb.__name__
        example = f'metadrift {name} -m "looked at its numbers" -c metadrift.yaml'
        text = f"{_HELP[name]}\n\nExample: {example}\n\n{EXIT_CODES}"
        app.command(name, help=text)(verb)


def approve(
    digest: _DIGEST = None,
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Approve the candidate."""
    _say("approve", config, by, reason, route, wait, digest=digest, as_json=as_json)


def reject(
    digest: _DIGEST = None,
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Reject the candidate."""
    _say("reject", config, by, reason, route, wait, digest=digest, as_json=as_json)


def pause(
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Pause the rollout."""
    _say("pause", config, by, reason, route, wait, as_json=as_json)


def resume(
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Resume the rollout."""
    _say("resume", config, by, reason, route, wait, as_json=as_json)


def abort(
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Abort the rollout."""
    _say("abort", config, by, reason, route, wait, as_json=as_json)


def promote(
    full: Annotated[
        bool, typer.Option("--full", help="All the way, without waiting for the evidence.")
    ] = False,
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Promote by hand."""
    _say("promote-full" if full else "promote", config, by, reason, route, wait, as_json=as_json)


def retry(
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Start the candidate's rollout again."""
    _say("retry", config, by, reason, route, wait, as_json=as_json)


def undo(
    by: BY = None,
    reason: REASON = "",
    route: ROUTE = "*",
    wait: WAIT = 15.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Take the last promotion back."""
    _say("undo", config, by, reason, route, wait, as_json=as_json)


def _say(
    verb: "Verb",
    config: "Path",
    by: str | None,
    reason: str,
    route: str,
    wait_s: float,
    *,
    digest: str | None = None,
    as_json: bool,
) -> None:
    settings = settings_from(config)
    from pipeline.messages import Control

    command = Control(verb=verb, id=new_id(), by=who(by), reason=reason, route=route, digest=digest)
    send(settings, command)
    report(settings, command, wait_s, as_json=as_json)
