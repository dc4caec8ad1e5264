"""How a candidate earns traffic: steps, evidence, guards and bounds."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.settings_section import Section


class RolloutSettings(Section):
    """How a candidate earns traffic."""

    mode: Literal["shadow", "recommend", "auto"] = "auto"
    """shadow: scored, never served; recommend: waits for approval; auto: by the evidence."""
    evidence: Literal["paired", "unpaired"] = "paired"
    """paired: both versions score each event here; unpaired: by what the router's answers say."""
    steps: tuple[int, ...] = (5, 25, 50)
    """Percent of answers served by the candidate, step by step; a first 0 only scores it."""
    least_labels: int = Field(10, ge=1)
    """Labels needed within a step."""
    least_labels_per_arm: int = Field(10, ge=1)
    """unpaired: labels that each version's answers need before a verdict or a step."""
    least_label_coverage: float = Field(0.0, ge=0, le=1)
    """Share of each version's answers whose label must have come before PASS or a step."""
    settle_s: float = Field(2.0, ge=0)
    """Answers of a router count from this long after its split was seen, in seconds."""
    dwell_s: float = Field(0.0, ge=0)
    """Engine seconds needed within a step."""
    dwell_labels: int = Field(0, ge=0)
    """Labels needed within a step, beside least_labels."""
    longest_wait_s: float | None = Field(7 * 86_400.0, gt=0)
    """Engine seconds without a verdict until the rollout expires; null: off."""
    longest_wait_labels: int | None = Field(1000, ge=1)
    """Labels without a verdict until the rollout expires; null: off."""
    longest_approval_wait_s: float | None = Field(7 * 86_400.0, gt=0)
    """Engine seconds that a candidate waits for a reviewer; null: off."""
    least_gain: float = Field(0.0, ge=0, lt=1)
    """PASS shows a fall of the mean loss of more than this."""
    acceptable_harm: float = Field(0.05, gt=0, lt=1)
    """A step advances when a rise of the mean loss by this much is excluded."""
    probation_labels: int | None = Field(100, ge=1)
    """Labels after promotion during which the old champion can come back; null: off."""
    probation_s: float | None = Field(None, gt=0)
    """Engine seconds of probation; null: off. The first bound that is met ends it."""
    longest_unserved_s: float | None = Field(3600.0, gt=0)
    """With serving.backend: engine seconds that a candidate's traffic may go unseen; null: off."""
    most_server_failures: int = Field(5, ge=1)
    """With serving.backend: failures of a candidate's server, none long past, that roll it back."""
    most_error_rate: float | None = Field(0.1, ge=0, lt=1)
    """Where model servers are read: share of failed requests that rolls back; null: off."""
    longest_latency_ms: float | None = Field(None, gt=0)
    """The same: bound on the 95th percentile of the time to answer, milliseconds; null: off."""
    guard_requests: int = Field(50, ge=1)
    """The same: requests that a server must have had before the two say anything."""
    guard_window_s: float = Field(300.0, gt=0)
    """The same: how far back the two look, seconds."""
    label_permutation: Literal["hold", "adapt"] = "hold"
    """When the labels look permuted: hold for a person, or adapt to them."""
    wrong_promotions_per_30_days: float = Field(0.5, gt=0)
    """Risk budget: bound on the expected number of promotions of a candidate that is no better."""
    risk_per_rollout: float = Field(0.05, gt=0, lt=1)
    """Most of the budget that one rollout may take: its chance of a wrong PASS."""
    salt: str = "metadrift"
    """Decides, with the event's id, which arm serves it."""

    @model_validator(mode="after")
    def _steps(self) -> Self:
        rising = all(a < b for a, b in zip((-1, *self.steps), self.steps, strict=False))
        if not any(self.steps) or not rising or self.steps[-1] > 100:
            raise ValueError(
                "steps must rise strictly within 1..100 (a first 0 is a shadow step), got "
                f"{list(self.steps)}"
            )
        lone = self.mode == "shadow" or bool({0, 100} & set(self.steps))
        if self.evidence == "unpaired" and lone:
            raise ValueError(
                f"evidence is unpaired, with mode {self.mode} and steps {list(self.steps)}: where "
                "one version answers everything nothing is compared; use mode auto or recommend "
                "and steps above 0, the last step below 100, from which PASS promotes"
            )
        if self.probation_labels is None and self.probation_s is None:
            raise ValueError("probation_labels and probation_s are both null: set one of them")
        return self
