"""Time and peak memory of a piece of work, as the system counts them.

Memory is what becomes resident while the work runs, whoever allocates it: torch, numpy, trees in C.
Free memory goes back to the system first (``malloc_trim``), so that what is used again counts
again, and the process's high-water mark is reset (``/proc/self/clear_refs``, see proc(5)). Counted
in pages, so the last 100 kB or so say nothing; other threads of the process count too. Work
that has not run before also loads libraries, which counts: run it once, then measure.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True, slots=True, eq=False)
class Measured(Generic[T]):
    """What came of the work and what it took.

    Attributes:
        result: Of the work.
        seconds: By the clock that was given.
        peak_bytes: Resident memory at its highest while the work ran, less what was resident
            before; None where the system cannot say (anything but Linux with glibc).
    """

    result: T
    seconds: float
    peak_bytes: int | None


def measured(work: Callable[[], T], clock: Callable[[], float]) -> Measured[T]:
    """Do the work and return it with its time and peak memory; not to be nested."""
    before = _start_counting()
    began = clock()
    result = work()
    seconds = clock() - began
    if before is None:
        return Measured(result, seconds, None)
    return Measured(result, seconds, max(0, _kilobytes("VmHWM") - before) * 1024)


def _start_counting() -> int | None:
    """Return the resident kB of now and make it the high-water mark; None: it cannot be done."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
        return _kilobytes("VmRSS")
    except (AttributeError, OSError):
        return None


def _kilobytes(name: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {name}")
