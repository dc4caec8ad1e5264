"""A loop on its way through a rollout, for the tests."""

from pathlib import Path

from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import quick_settings
from tests.pipeline.small_worlds import first, lane_start, second


def in_rollout(loop: Loop) -> Loop:
    """Bring the loop to a rollout of a candidate that knows the second plan."""
    loop.stream(200, first)
    loop.until(lambda: loop.route.rollout, second)
    return loop


def opened(folder: Path, **sections: dict[str, object]) -> Loop:
    return Loop(quick_settings(folder, **sections), meta_init=lane_start())


def arms(loop: Loop, since: int) -> list[object]:
    """Return who served each event at ``since`` and later."""
    return [loop.predictions[f"e{i}"]["arm"] for i in range(since, loop.next)]


def promoted(loop: Loop) -> Loop:
    in_rollout(loop)
    loop.until(lambda: loop.route.probation, second)
    return loop
