"""Named places at which a test may kill the process, to prove that nothing is lost there.

``METADRIFT_CRASH_AT=name`` or ``name:n`` ends the process with SIGKILL at the n-th visit. Without
the variable a visit costs one comparison.
"""

import os
import signal

CRASH_POINTS = (
    "after-poll",
    "after-intent",
    "after-publish",
    "before-state",
    "inside-state",
    "after-state",
    "before-effect",
    "after-effect",
    "after-bake-off",
)
"""In the loop."""

COMPACTION_POINTS = (
    "before-checkpoint",
    "after-checkpoint",
    "inside-drop",
    "after-drop",
    "before-shelf-drop",
    "inside-shelf-drop",
)
"""In the compaction beside it."""

_name, _, _count = os.environ.get("METADRIFT_CRASH_AT", "").partition(":")
if _name and _name not in CRASH_POINTS + COMPACTION_POINTS:
    raise ValueError(
        f"METADRIFT_CRASH_AT: {_name!r} is no crash point; choose from "
        f"{[*CRASH_POINTS, *COMPACTION_POINTS]}"
    )
_left = int(_count or 1)


def crash_point(name: str) -> None:
    """Die here, when this is the place and the time."""
    global _left  # noqa: PLW0603
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
