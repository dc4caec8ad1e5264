"""What is still open when a run ends: its numbers as they stand, not as of the last decision."""

from pipeline.core_state import Core
from pipeline.messages import Decision
from pipeline.rollouts import rollout_facts


def standing(core: Core, model: str) -> list[Decision]:
    """Return a record per open rollout, in the form of a decision, for the report alone."""
    return [
        Decision(
            key=f"{model}-{core.state_id}-standing-{name}",
            kind="rollout-standing",
            model=model,
            route=name,
            position=core.next,
            labels=core.labels,
            at_ms=core.time_ms,
            reason=f"still open at the end: {route.rollout.reason}",
            facts=rollout_facts(route.rollout),
        )
        for name, route in core.routes.items()
        if route.rollout is not None
    ]
