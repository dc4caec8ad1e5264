"""What the candidate's own server says of it: errors, latency, or that nothing is known."""

from dataclasses import dataclass

from deploy.rollout_plan import CanaryPlan, Verdict


@dataclass(frozen=True, slots=True)
class GuardReading:
    """One look at the counters of the candidate's server (in probation: the new champion's).

    Attributes:
        requests: Requests that it took in the window the reading is about.
        errors: Of them, those that got no proper answer.
        latency_ms: 95th percentile of the time to answer, milliseconds; None: not measured.
        problem: Why the server cannot be read, or not all of it. It vouches for nothing then, but
            what was counted may be enough to fail.
    """

    requests: int = 0
    errors: int = 0
    latency_ms: float | None = None
    problem: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.errors <= self.requests:
            raise ValueError(f"errors must lie in 0..{self.requests}, got {self.errors}")


def guarded(plan: CanaryPlan, reading: GuardReading | None) -> tuple[Verdict, str] | None:
    """Return FAIL or ERROR with the numbers behind it, or None when the guards let it go on.

    Args:
        plan: Its guards that are None ask for nothing.
        reading: None where nothing was read: an ERROR as soon as the plan has a guard.
    """
    if reading is None:
        wanted = plan.most_error_rate is not None or plan.longest_latency_ms is not None
        return (Verdict.ERROR, "guard: the candidate's server was not read") if wanted else None
    enough = reading.requests >= plan.guard_requests
    found = (_errors(plan, reading) or _latency(plan, reading)) if enough else None
    if reading.problem is not None and (found is None or found[0] is not Verdict.FAIL):
        return Verdict.ERROR, f"guard: {reading.problem}"
    return found


def _errors(plan: CanaryPlan, reading: GuardReading) -> tuple[Verdict, str] | None:
    rate = reading.errors / reading.requests
    if plan.most_error_rate is None or rate <= plan.most_error_rate:
        return None
    counts = f"{reading.errors} of {reading.requests} requests failed"
    return Verdict.FAIL, f"guard: {counts}, {rate:.3g} > {plan.most_error_rate:g}"


def _latency(plan: CanaryPlan, reading: GuardReading) -> tuple[Verdict, str] | None:
    if plan.longest_latency_ms is None:
        return None
    if reading.latency_ms is None:
        return Verdict.ERROR, "guard: the candidate's latency was not measured"
    if reading.latency_ms <= plan.longest_latency_ms:
        return None
    slow = f"{reading.latency_ms:.4g} ms > {plan.longest_latency_ms:g} ms"
    return Verdict.FAIL, f"guard: 95th percentile of latency {slow}"
