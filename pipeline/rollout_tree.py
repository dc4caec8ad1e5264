"""A route's rollout as a tree for the terminal."""

import time

from rich.markup import escape
from rich.tree import Tree

from pipeline.status_document import RolloutStatus, RouteStatus, Status

_SHOWN = 6


def tree_of(found: Status) -> Tree:
    """Return how the rollouts of a model stand, one branch a route."""
    root = Tree(f"[bold]{escape(found.model)}[/]  {found.owner.state}")
    for name, route in found.routes.items():
        _add_route(root, name, route)
    return root


def _add_route(root: Tree, name: str, route: RouteStatus) -> None:
    branch = root.add(f"route {escape(name)}: champion {route.champion or 'none'}")
    if route.episode is not None:
        branch.add(f"episode {route.episode.number} ({route.episode.kind}), {route.episode.phase}")
    shown = (("rollout", route.rollout), ("probation", route.probation), ("ended", route.ended))
    for title, rollout in shown:
        if rollout is not None:
            _add_rollout(branch, title, rollout)
    if route.rollout is None and route.probation is None:
        branch.add("no rollout in progress")


def _add_rollout(branch: Tree, title: str, rollout: RolloutStatus) -> None:
    over = title == "ended"
    head = f"{title} {rollout.id}: {rollout.candidate} against {rollout.stable}, "
    node = branch.add(escape(head) + f"[bold]{rollout.phase}[/] ({rollout.mode})")
    if rollout.paused:
        node.add(f"[yellow]paused: {escape(rollout.paused)}[/]")
    if not over:
        steps = node.add(escape(_traffic(rollout)))
        for number, weight in enumerate(rollout.weights, 1):
            steps.add(f"{_mark(rollout, number)} step {number}: {weight} %")
    node.add(
        f"{rollout.evidence} evidence: {rollout.labels} labels, gain {rollout.gain:.3f}, better "
        f"{rollout.e_better:.3g} of {rollout.e_needed:.3g}, worse {rollout.e_worse:.3g}"
    )
    history = node.add("history")
    for entry in rollout.history[-_SHOWN:]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.at_s))
        history.add(f"{at} {entry.phase}: {escape(entry.reason)}")


def _traffic(rollout: RolloutStatus) -> str:
    if rollout.phase == "probation":
        return f"{rollout.candidate} answers everything, {rollout.stable} can come back"
    return f"candidate {rollout.weight_pct} %, stable {100 - rollout.weight_pct} %"


def _mark(rollout: RolloutStatus, number: int) -> str:
    if rollout.phase in ("promoting", "probation", "promoted") or number < rollout.step:
        return "+"
    return ">" if number == rollout.step and rollout.phase == "canary" else "-"
