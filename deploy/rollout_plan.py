"""The words of a rollout: its phases, verdicts, plan and traffic."""

import enum
import math
from dataclasses import dataclass
from typing import Literal

Mode = Literal["shadow", "recommend", "auto"]
Kind = Literal["gated", "announced", "inconclusive_gate"]
Arm = Literal["stable", "candidate"]
EvidenceKind = Literal["paired", "unpaired"]


class Verdict(enum.Enum):
    """Outcome of one look at the evidence."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


class Phase(enum.Enum):
    """Where a rollout stands."""

    VALIDATING = "validating"
    AWAITING_APPROVAL = "awaiting_approval"
    CANARY = "canary"
    PROMOTING = "promoting"
    PROBATION = "probation"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether the phase is final."""
        return self in _TERMINAL


_TERMINAL = frozenset({Phase.PROMOTED, Phase.REJECTED, Phase.ROLLED_BACK, Phase.EXPIRED})


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """How a candidate earns traffic.

    Risks are chances of being wrong over all looks at the data together.

    Attributes:
        weights: Percent of answers that the candidate gives at each step; strictly rising. A first
            step of 0 is a shadow step: the candidate is scored and stands ready, and serves nothing
            until the step's labels, dwell and evidence let it go on.
        least_labels: Labels needed within a step before it can end, in a promotion too.
        dwell_s: Seconds needed within a step.
        dwell_labels: Labels needed within a step, beside ``least_labels``.
        longest_wait_s: Seconds in the canary until it expires; None: off.
        longest_wait_labels: Labels in the canary until it expires; None: off.
        longest_approval_wait_s: Seconds that the candidate waits for a reviewer; None: off.
        least_gain: PASS shows that the mean loss falls by more than this.
        acceptable_harm: FAIL shows that it rises by more than this; a step is taken when a rise by
            this much is excluded.
        risk: Chance that a candidate which gains no more than ``least_gain`` passes.
        fail_risk: Chance that a candidate whose harm is acceptable fails; in probation, that a
            champion no worse than the old one is rolled back. Where old classes are judged apart,
            half of it goes to them.
        step_risk: Chance that a candidate whose harm is not acceptable takes a step; or is promoted
            with such a harm to old classes, or without naming the new ones, where those are judged
            apart.
        skew_risk: Chance that sound assignment, or sound label arrival, is called skewed.
        promote_on_pass: Promote at PASS from any step, since the evidence is paired and pooled over
            the steps (they bound the blast radius, they do not add evidence). False: PASS takes the
            candidate up step by step, and the last step promotes.
        probation_labels: Labels after the promotion during which the old champion can come back;
            None: off.
        probation_s: Seconds of probation; None: off. The first bound that is met ends it.
        longest_promotion_s: Seconds until the promoted version's traffic must have been observed;
            past it the stable version comes back. None: off.
        evidence: ``paired``: both versions score every event; ``unpaired``: a router sends each
            event to one of them.
        least_labels_per_arm: Labels that each arm needs before a verdict or a step (unpaired).
        least_label_coverage: Share of each arm's answers whose label must have come before PASS or
            a step. No count shows that labels of wrong answers go missing more often than others;
            a share near 1 leaves little room for it.
        most_error_rate: Share of the candidate's requests that may fail, as its server counts them;
            more is FAIL. None: off.
        longest_latency_ms: Bound on the candidate's 95th percentile of latency, as its server
            measures it; above is FAIL. None: off.
        guard_requests: Requests before the two guards above say anything.
        mode: ``shadow``: scored, never served, never promoted; ``recommend``: waits for approval
            before the first step; ``auto``: goes by the evidence.
        label_permutation: When the labels look permuted: ``hold`` for a person or ``adapt``.
    """

    weights: tuple[int, ...] = (5, 25, 50)
    least_labels: int = 10
    dwell_s: float = 0.0
    dwell_labels: int = 0
    longest_wait_s: float | None = 7 * 86_400.0
    longest_wait_labels: int | None = 1000
    longest_approval_wait_s: float | None = 7 * 86_400.0
    least_gain: float = 0.0
    acceptable_harm: float = 0.05
    risk: float = 0.05
    fail_risk: float = 0.05
    step_risk: float = 0.1
    skew_risk: float = 0.001
    promote_on_pass: bool = True
    probation_labels: int | None = 100
    probation_s: float | None = None
    longest_promotion_s: float | None = 3600.0
    evidence: EvidenceKind = "paired"
    least_labels_per_arm: int = 10
    least_label_coverage: float = 0.0
    most_error_rate: float | None = None
    longest_latency_ms: float | None = None
    guard_requests: int = 50
    mode: Mode = "auto"
    label_permutation: Literal["hold", "adapt"] = "hold"

    def __post_init__(self) -> None:
        pairs = zip((-1, *self.weights), (*self.weights, 101), strict=True)
        if not any(self.weights) or any(a >= b for a, b in pairs):
            raise ValueError(
                "weights must rise strictly within 1..100, after a shadow step of 0 if wanted, "
                f"got {self.weights}"
            )
        for name in ("risk", "fail_risk", "step_risk", "skew_risk"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not 0.0 <= self.least_gain < 1.0:
            raise ValueError(f"least_gain must lie in [0, 1), got {self.least_gain}")
        if not 0.0 < self.acceptable_harm < 1.0:
            raise ValueError(
                f"acceptable_harm must lie strictly between 0 and 1, got {self.acceptable_harm}"
            )
        if self.least_labels < 1 or self.dwell_labels < 0:
            raise ValueError(
                f"least_labels ({self.least_labels}) must be >= 1 and dwell_labels "
                f"({self.dwell_labels}) >= 0"
            )
        if not 0.0 <= self.dwell_s < math.inf:
            raise ValueError(f"dwell_s must be a finite number >= 0, got {self.dwell_s}")
        for name in (
            *("longest_wait_s", "longest_wait_labels", "longest_approval_wait_s"),
            *("probation_labels", "probation_s", "longest_promotion_s", "longest_latency_ms"),
        ):
            bound = getattr(self, name)
            if bound is not None and not 0 < bound < math.inf:
                raise ValueError(f"{name} must be a finite number > 0, or None for off: {bound}")
        if self.longest_wait_s is not None and self.longest_wait_s < self.dwell_s:
            raise ValueError(
                f"longest_wait_s ({self.longest_wait_s}) is shorter than dwell_s ({self.dwell_s}): "
                "no step could ever end"
            )
        needed = max(self.least_labels, self.dwell_labels)
        if self.longest_wait_labels is not None and self.longest_wait_labels < needed:
            raise ValueError(
                f"longest_wait_labels ({self.longest_wait_labels}) is below the {needed} labels "
                "that a step needs: no step could ever end"
            )
        self._check_evidence()
        if self.probation_labels is None and self.probation_s is None:
            raise ValueError("probation_labels and probation_s are both None: set one of them")

    def _check_evidence(self) -> None:
        if self.least_labels_per_arm < 1 or self.guard_requests < 1:
            raise ValueError(
                f"least_labels_per_arm ({self.least_labels_per_arm}) and guard_requests "
                f"({self.guard_requests}) must be >= 1"
            )
        if not 0.0 <= self.least_label_coverage <= 1.0:
            raise ValueError(
                f"least_label_coverage must lie in [0, 1], got {self.least_label_coverage}"
            )
        if self.most_error_rate is not None and not 0.0 <= self.most_error_rate < 1.0:
            raise ValueError(
                f"most_error_rate must lie in [0, 1), or be None for off: {self.most_error_rate}"
            )
        if self.evidence == "unpaired" and self.mode == "shadow":
            raise ValueError(
                "mode shadow serves no answer of the candidate, so that unpaired evidence never "
                "comes: choose recommend or auto, or evidence paired"
            )
        if self.evidence == "unpaired" and {0, 100} & set(self.weights):
            raise ValueError(
                f"weights {self.weights} hold 0 or 100, where unpaired evidence compares nothing: "
                "stay between them, PASS promotes from the last"
            )


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who answers.

    Attributes:
        stable: Version that answers all the rest.
        candidate: Version beside it that scores every event too, if any.
        candidate_weight: Percent of the answers that are the candidate's.
        shadow: The candidate scores and is never served (weight 0).
    """

    stable: str
    candidate: str | None = None
    candidate_weight: int = 0
    shadow: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.candidate_weight <= 100:
            raise ValueError(f"candidate_weight must lie in 0..100, got {self.candidate_weight}")
        if self.candidate_weight and (self.candidate is None or self.shadow):
            raise ValueError(
                f"candidate_weight is {self.candidate_weight} without a candidate that may serve"
            )

    @property
    def stable_weight(self) -> int:
        """Percent of the answers that are the stable version's."""
        return 100 - self.candidate_weight
