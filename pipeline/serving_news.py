"""What the servers beside the daemon were seen to do, and what follows for a rollout."""

from deploy.rollout import Rollout, Traffic
from pipeline.core_state import ONE_ROUTE
from pipeline.records import ServingSeen
from pipeline.rollouts import abort_probation, abort_rollout
from pipeline.turn import Turn


def take_serving(turn: Turn, seen: ServingSeen) -> None:
    """Remember an observation; end a rollout whose candidate cannot be served.

    ``converge`` compares what is remembered with what the state calls for, so a step or a promotion
    goes on once its traffic was seen.
    """
    before = turn.core.serving
    if not seen.external:
        turn.core.serving = None
        return
    turn.core.serving = seen
    if before is None or before.traffic != seen.traffic:
        turn.decide("serving", ONE_ROUTE, _told(seen), **_facts(seen))
    for version, failed in seen.failures.items():
        if before is None or version not in before.failures:
            turn.decide(
                "server-failed",
                ONE_ROUTE,
                f"the server of {version} failed: {failed.reason}",
                version=version,
                failures=failed.count,
            )
    for name in turn.core.routes:
        route = turn.route(name)
        if (why := _not_servable(turn, route.probation, seen)) is not None:
            abort_probation(turn, name, "serving", why)
        if (why := _not_servable(turn, route.rollout, seen)) is not None:
            abort_rollout(turn, name, "serving", why)


def _not_servable(turn: Turn, rollout: Rollout | None, seen: ServingSeen) -> str | None:
    """Return why a candidate (in probation: the new champion) cannot be served, if it cannot."""
    failed = None if rollout is None else seen.failures.get(rollout.candidate)
    if rollout is None or failed is None:
        return None
    if failed.count < turn.settings.rollout.most_server_failures:
        return None
    return f"the server of {rollout.candidate} failed {failed.count} times: {failed.reason}"


def _told(seen: ServingSeen) -> str:
    traffic = seen.traffic
    if traffic is None:
        return f"nothing is served: {seen.problem or 'the servers are starting'}"
    if traffic.candidate is None:
        return f"{traffic.stable} serves everything"
    beside = f"{traffic.candidate_weight} % by {traffic.candidate}"
    if not traffic.candidate_weight:
        beside = f"{traffic.candidate} stands beside it"
    return f"{traffic.stable} serves, {beside}"


def _facts(seen: ServingSeen) -> dict[str, object]:
    traffic = seen.traffic or Traffic("")
    return {
        "stable": traffic.stable,
        "candidate": traffic.candidate,
        "weight_pct": traffic.candidate_weight,
        "problem": seen.problem,
    }
