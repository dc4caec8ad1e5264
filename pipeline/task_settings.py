"""What is kept of tasks: models of those that are over, own weights of those that go on."""

from typing import Self

from pydantic import Field, model_validator

from pipeline.settings_section import Section


class MemorySettings(Section):
    """Which tasks are remembered, and how it is decided whether one of them is back."""

    tasks: int = Field(8, ge=0, le=64)
    """Confirmed tasks whose models take part as they are; the least recently used goes first."""
    keep: tuple[str, ...] = ()
    """Names of versions that are never forgotten; the first champion never is."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """Bound on the chance that a decision noise, recurring, drifted or new is wrong."""
    recurring_within: float = Field(0.2, gt=0, lt=1)
    """A task is back when a rise of its model's mean loss by this much is excluded."""
    noise_within: float = Field(0.1, gt=0, lt=1)
    """An alarm is noise when a rise of the champion's mean loss by this much is excluded."""
    examples: int = Field(200, ge=0, le=2000)
    """Labelled examples kept of each task, for `meta-train --from-memory`."""


class RoutesSettings(Section):
    """Own weights for tasks, with `model.route_by: task`."""

    most: int = Field(10_000, ge=1, le=1_000_000)
    """Tasks that may have a route; later ones are counted and served by the fall-back."""
    in_memory: int = Field(256, ge=1)
    """Routes kept in memory; the least recently used ones are only on disk."""
    support: int = Field(20, ge=1)
    """Fewest labels of a task to adapt on."""
    holdout: int = Field(10, ge=3)
    """Labels of a task, the newest, that say whether its own weights are better."""
    examples: int = Field(120, ge=4, le=2000)
    """Recent labelled examples kept of each task."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.support + self.holdout > self.examples:
            raise ValueError(
                f"examples ({self.examples}) is smaller than support + holdout "
                f"({self.support + self.holdout}); raise it"
            )
        return self
