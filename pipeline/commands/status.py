"""``metadrift status``: how the model stands, also while the daemon is down."""

import socket
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
    from collections.abc import Callable

    from rich.console import Console

    from pipeline.status_document import (
        RolloutStatus,
        RouteStatus,
        ServingStatus,
        Status,
        TaskRoutesStatus,
    )

HELP = """Show champion, episode, rollout, risk left, positions, counts and the last decisions.

Reads the state file only: it needs no broker and no running daemon.

Example: metadrift status -c metadrift.yaml

Example: metadrift status --json | jq '.routes["*"].champion'

Exit codes: 0 shown, 2 configuration, or no state yet.
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status", help=HELP)(status)


def status(
    decisions: Annotated[int, typer.Option(min=0, help="How many of the last ones.")] = 10,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Show how the model stands."""
    settings = settings_from(config)
    import msgspec

    from pipeline import arrivals
    from pipeline.commands.state_view import glimpse_here
    from pipeline.state_file import StateError, wall_s
    from pipeline.status import status_of

    seen = glimpse_here(settings, decisions)
    waiting = arrivals.read(settings.state_dir)
    try:
        found = status_of(settings, seen, waiting, wall_s(), socket.gethostname())
    except StateError as error:
        fail(str(error), EXIT_CONFIG)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    from rich.console import Console

    _show(Console(highlight=False), found)


def _show(console: "Console", found: "Status") -> None:
    from rich.markup import escape

    def line(name: str, value: str) -> None:
        console.print(f"[bold]{name:<12}[/]{escape(value)}", soft_wrap=True)

    line("model", f"{found.model} ({found.task_type})")
    line("daemon", _owner(found))
    seen = f"{found.events} events, {found.labels} labels"
    if found.served_loss is not None:
        seen += f", mean loss served {found.served_loss:.3f}"
    line("seen", seen)
    for name, route in found.routes.items():
        _show_route(line, name, route)
    if found.task_routes is not None:
        _show_tasks(line, found.task_routes)
    if found.serving is not None:
        line("serving", _serving(found.serving))
    if found.waiting_champion or found.waiting_meta_init:
        what = [w for w, d in _waiting(found) if d]
        line("waiting", f"{' and '.join(what)} for the daemon's next start")
    risk = found.risk
    line(
        "risk left",
        f"{risk.left:.3g} of {risk.per_30_days:.3g} wrong promotions in 30 days; "
        f"the next rollout gets {risk.next_rollout:.3g}",
    )
    line("outbox", f"{found.outbox} effects wait for MLflow or the decisions topic")
    line("positions", ", ".join(f"{p}@{o}" for p, o in found.positions.items()) or "none yet")
    line("counts", ", ".join(f"{n} {c}" for n, c in found.counts.items() if c) or "none yet")
    ignored = sorted(found.ignored_features.items(), key=lambda pair: -pair[1])
    if ignored:
        more = f" and {len(ignored) - 10} more" if len(ignored) > 10 else ""
        line("ignored", ", ".join(f"{n} {c}" for n, c in ignored[:10]) + more)
    for decision in found.decisions:
        line(f"#{decision.position}", f"{decision.kind}: {decision.reason}")


def _owner(found: "Status") -> str:
    owner = found.owner
    words = {
        "running": f"running, pid {owner.pid} on {owner.host}",
        "silent": f"silent: pid {owner.pid} on {owner.host}",
        "gone": f"gone: pid {owner.pid} on {owner.host} does not exist any more",
        "stopped": "stopped",
        "never started": "never started",
    }
    heard = "" if owner.heard_s_ago is None else f", heard {owner.heard_s_ago:.0f} s ago"
    return words[owner.state] + heard


def _serving(seen: "ServingStatus") -> str:
    words = f"{seen.stable} answers" if seen.stable else "nothing is served yet"
    if seen.candidate:
        words += f", {seen.weight_pct} % by {seen.candidate}"
    for version, count in seen.failures.items():
        words += f"; the server of {version} failed {count} times"
    return words + (f"; {seen.problem}" if seen.problem else "")


def _waiting(found: "Status") -> list[tuple[str, str]]:
    return [("a first champion", found.waiting_champion), ("a meta-init", found.waiting_meta_init)]


def _show_tasks(line: "Callable[[str, str], None]", found: "TaskRoutesStatus") -> None:
    waiting = f", {found.waiting} tries wait for the worker" if found.waiting else ""
    line("tasks", f"{found.open} of {found.tasks} are served by their own weights{waiting}")
    for route in found.busiest:
        line("  busiest", f"{route.task}: {route.labels} labels, {'own' if route.open else '*'}")


def _show_route(line: "Callable[[str, str], None]", name: str, route: "RouteStatus") -> None:
    champion = route.champion or "none: `metadrift meta-train` or `metadrift model import`"
    line(f"route {name}", f"champion {champion}, {route.labels_since_champion} labels under it")
    if route.earlier:
        line("  earlier", ", ".join(route.earlier))
    if route.remembered:
        line("  remembered", ", ".join(route.remembered))
    if route.waiting:
        line("  waiting", route.waiting)
    if route.raised:
        line("  raised", route.raised)
    episode = route.episode
    if episode is not None:
        bound = episode.labels_to_deadline
        line(
            "  episode",
            f"{episode.number} ({episode.kind}), {episode.phase}, "
            f"{episode.labels_since_opening} labels since it opened"
            + ("" if bound is None else f", {bound} to its deadline"),
        )
        line("", episode.signal)
        if episode.decision:
            line("", episode.decision)
    for title, rollout in (("  rollout", route.rollout), ("  probation", route.probation)):
        if rollout is not None:
            _show_rollout(line, title, rollout)


def _show_rollout(line: "Callable[[str, str], None]", title: str, rollout: "RolloutStatus") -> None:
    line(
        title,
        f"{rollout.id}: {rollout.candidate} against {rollout.stable}, {rollout.phase}, "
        f"step {rollout.step} of {rollout.steps} at {rollout.weight_pct} % ({rollout.mode})",
    )
    line(
        "",
        f"{rollout.labels} labels, gain {rollout.gain:.3f}, "
        + ("" if rollout.wins is None else f"{rollout.wins} wins and {rollout.losses} losses, ")
        + f"evidence {rollout.e_better:.3g} of {rollout.e_needed:.3g}",
    )
    if rollout.paused:
        line("", f"paused: {rollout.paused}")
    line("", rollout.reason)
    if rollout.phase == "awaiting_approval" and rollout.packet:
        line("", f"to answer: metadrift approve --digest {rollout.packet}, or reject")
