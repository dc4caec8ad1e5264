"""What the guards of a rollout have to go by."""

from deploy.guards import GuardReading
from deploy.rollout import Rollout
from pipeline.turn import Turn


def reading_of(turn: Turn, rollout: Rollout) -> GuardReading | None:
    """Return the last reading of the candidate's server (in probation: the new champion's)."""
    seen = turn.core.serving
    return None if seen is None else seen.readings.get(rollout.candidate)
