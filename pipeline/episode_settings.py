"""How a candidate is made, and what its holdout must show."""

from typing import Any, Self

from pydantic import Field, model_validator

from pipeline.settings_section import Section

USUAL_RECIPES = ("frozen", "recalled", "reptile", "maml", "fine_tune", "scratch")
META_RECIPES = ("reptile", "maml", "fomaml", "anil", "meta-sgd", "joint")
RECIPES = (*USUAL_RECIPES, *(name for name in META_RECIPES if name not in USUAL_RECIPES))


class EpisodeSettings(Section):
    """How a candidate is made."""

    support: int = Field(40, ge=1)
    """Labelled examples to adapt on."""
    most_support: int = Field(400, ge=1)
    """Most of them; the newest are taken."""
    query: int = Field(20, ge=1)
    """Labelled examples that choose the recipe."""
    holdout: int = Field(20, ge=1)
    """Labelled examples that gate the winner."""
    least_support: int = Field(10, ge=1)
    """At the deadline: fewest support examples to go on with."""
    new_class_support: int = Field(20, ge=2)
    """Most labels of a new class to adapt on; its episode opens at twice as many."""
    announced_holdout_share: float = Field(0.25, ge=0.1, le=0.5)
    """Share of an announced task's examples kept back for the gate."""
    deadline_labels: int | None = Field(400, ge=1)
    """Labels after the opening until the episode decides with what it has; null: off."""
    deadline_s: float | None = Field(7 * 86_400.0, gt=0)
    """Engine seconds after the opening until the episode decides with what it has; null: off."""
    recipes: tuple[str, ...] = USUAL_RECIPES
    """The bake-off; `frozen` always takes part."""
    timeout_s: float = Field(120.0, gt=0)
    """The worker is killed when one bake-off takes longer."""
    buffer_examples: int = Field(2000, ge=50)
    """Recent labelled examples kept."""
    seed: int = 0
    """Seeds every recipe, together with the episode's number."""

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        if isinstance(values, dict) and "earlier_champions" in values:
            raise ValueError(
                "earlier_champions is no key any more: confirmed tasks take part instead; "
                f"remove it and set memory.tasks: {values['earlier_champions']}"
            )
        return values

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = sorted(set(self.recipes) - set(RECIPES))
        if unknown:
            raise ValueError(f"recipes: {unknown} unknown; choose from {list(RECIPES)}")
        if "frozen" not in self.recipes:
            raise ValueError("recipes: 'frozen' must take part; add it")
        if self.most_support < self.support:
            raise ValueError(
                f"most_support ({self.most_support}) is below support ({self.support}); raise it"
            )
        if self.support + self.query + self.holdout > self.buffer_examples:
            raise ValueError(
                f"buffer_examples ({self.buffer_examples}) is smaller than support + query + "
                f"holdout ({self.support + self.query + self.holdout}); raise it"
            )
        return self


class GateSettings(Section):
    """What the holdout must show before a candidate may serve anything."""

    target_from: float = Field(0.30, gt=0, lt=1)
    """The champion's loss in the case worth acting on."""
    target_to: float = Field(0.10, ge=0, lt=1)
    """The candidate's loss in that case."""
    risk: float = Field(0.05, gt=0, lt=0.5)
    """Chance that an equal candidate passes."""
    power: float = Field(0.8, gt=0, lt=1)
    """Chance that the target case passes; with risk it gives the least holdout."""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.target_to >= self.target_from:
            raise ValueError(
                f"target_to ({self.target_to}) must be below target_from ({self.target_from})"
            )
        return self
