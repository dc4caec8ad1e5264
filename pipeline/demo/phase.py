"""What the loop is doing, in a few words."""

from deploy.rollout import Phase, desired_traffic
from pipeline.core_state import ONE_ROUTE, Core


def phase_of(core: Core) -> str:
    """Return the state of the route: champion, and what is in progress."""
    route = core.routes[ONE_ROUTE]
    if not route.champion:
        return "no champion yet"
    champion = core.versions[route.champion].name
    if route.rollout is not None:
        rollout = route.rollout
        paused = f", paused: {rollout.pause.cause}" if rollout.pause else ""
        weight = desired_traffic(rollout).candidate_weight
        return (
            f"{champion} serves; canary of {rollout.candidate} at {weight} %, "
            f"{rollout.evidence.n} labels{paused}"
        )
    if route.episode is not None:
        episode = route.episode
        return f"{champion} serves; episode {episode.number} ({episode.kind}): {episode.phase}"
    if route.probation is not None and route.probation.phase is Phase.PROBATION:
        return f"{champion} serves, on probation ({route.probation.phase_labels} labels)"
    return f"{champion} serves; watching"
