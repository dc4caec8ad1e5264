"""Make the traffic match the decision: the shell around ``deploy.rollout``.

Level-triggered: every tick looks at what is and applies what should be, however often and from
whatever point after a crash. Nothing is remembered here; the rollout's state is the target.
"""

from dataclasses import dataclass
from typing import Protocol

from deploy.rollout_plan import Traffic


class BackendError(Exception):
    """A serving backend could not do what it was asked.

    BackendError
     |-- TransientBackendError   it may work later: a later tick tries again
     '-- PermanentBackendError   it never will as things are: a person is needed
    """


class TransientBackendError(BackendError):
    """It may work later.

    Attributes:
        retry_in_s: When to look again, seconds.
    """

    def __init__(self, message: str, *, retry_in_s: float) -> None:
        super().__init__(message)
        self.retry_in_s = retry_in_s


class PermanentBackendError(BackendError):
    """Trying again does not help; the message says what does."""


class ServingBackend(Protocol):
    """Something that splits live requests between model versions."""

    def apply(self, traffic: Traffic) -> None:
        """Make the live split equal ``traffic``; idempotent.

        Raises:
            BackendError: It could not.
        """

    def observed(self) -> Traffic | None:
        """Return the split that is live, or None where nothing is served yet or nothing is settled.

        While a version is there without traffic, not ready yet or left over, the answer is None or
        names it as the candidate at weight 0: else nothing would ever remove it.

        Raises:
            BackendError: It could not be read.
        """


@dataclass(frozen=True, slots=True)
class Convergence:
    """Where a backend stands against its target.

    Attributes:
        live: The target is what was observed.
        observed: What was observed last; None if nothing is served or nothing could be read.
        applied: Whether this tick had to change something.
        error: What went wrong, if anything.
        retry_in_s: When to look again, seconds; None: at the next tick, or, beside an error, not
            before a person has done something.
    """

    live: bool
    observed: Traffic | None = None
    applied: bool = False
    error: str | None = None
    retry_in_s: float | None = None


def reconcile(target: Traffic, backend: ServingBackend) -> Convergence:
    """Look, apply if need be, and look again; safe to repeat from any point.

    ``Convergence.live`` is what ``deploy.rollout.advance`` takes as ``live``. Backend errors become
    values; anything else is a defect and rises.
    """
    observed: Traffic | None = None
    applied = False
    try:
        observed = backend.observed()
        if observed != target:
            applied = True
            backend.apply(target)
            observed = backend.observed()
    except TransientBackendError as error:
        return Convergence(False, observed, applied, str(error), error.retry_in_s)
    except BackendError as error:
        return Convergence(False, observed, applied, str(error))
    return Convergence(observed == target, observed, applied)
