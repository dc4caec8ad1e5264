"""What a meta-evaluation found: plain frozen values that can be written as JSON.

Every number called ``score`` is an accuracy in [0, 1], larger is better, or for regression a mean
absolute error in target units, smaller is better. A ``gain`` is always better when it is larger.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Metric: TypeAlias = Literal["accuracy", "mean_absolute_error"]
Answer: TypeAlias = Literal["yes", "no", "not shown"]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Mean score after a number of steps."""

    steps: int
    score: float


@dataclass(frozen=True, slots=True)
class RecipeScore:
    """One recipe with one number of labels, over all episodes.

    Attributes:
        recipe: Its name.
        meta_learned: Whether it starts from meta-learned weights.
        shots: Labels per class; for regression labels in all.
        episodes: How many.
        score: Mean over the episodes.
        low: Lower end of the mean's 95 % interval (normal, over episodes).
        high: Upper end.
        seconds: Median wall time of one adaptation; null where all failed.
        peak_bytes: Resident memory at its highest during one adaptation, less what was resident
            before it (the models at hand are): measured once, after the episodes, on the first of
            them. Null where it failed or the system cannot say.
        failed: Episodes in which it diverged or could not run; each counts as the worst result.
        failure: Why, the first time.
        curve: Mean score over steps; empty for what takes no steps.
        steps_to_target: Fewest steps of the curve that reach the target; null: none.
    """

    recipe: str
    meta_learned: bool
    shots: int
    episodes: int
    score: float
    low: float
    high: float
    seconds: float | None
    peak_bytes: int | None = None
    failed: int = 0
    failure: str = ""
    curve: tuple[CurvePoint, ...] = ()
    steps_to_target: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """What the training before any adaptation took.

    Attributes:
        recipe: What was trained.
        seconds: Wall time.
        peak_bytes: Resident memory at its highest, less what was resident before: during the
            whole training of a baseline, during one meta-step of a start. Null where the system
            cannot say.
    """

    recipe: str
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class PairedGain:
    """A meta-learned recipe against a baseline on the same episodes.

    Attributes:
        shots: Labels per class.
        recipe: The meta-learned one.
        baseline: The other.
        gain: Mean by which the recipe is better; negative: it is worse.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end. Both from resampled tasks and episodes in them; with one task, from
            resampled episodes.
    """

    shots: int
    recipe: str
    baseline: str
    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether meta-learning was worth it with so many labels.

    Attributes:
        shots: Labels per class.
        answer: ``yes``: the whole interval of the gain over the strongest baseline is above 0.
            ``no``: the mean gain is not above 0. ``not shown``: neither.
        use: The recipe to take.
        words: The same as a sentence with its numbers.
    """

    shots: int
    answer: Answer
    use: str
    words: str


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Settings of a fine-tuned baseline for so many labels.

    Attributes:
        recipe: The baseline.
        shots: Labels per class.
        lr: Adam's step size.
        steps: How many.
        episodes: Meta-validation episodes that chose them; 0: the usual settings, because no
            meta-validation task has enough rows.
    """

    recipe: str
    shots: int
    lr: float
    steps: int
    episodes: int


@dataclass(frozen=True, slots=True)
class SupportWeight:
    """How much the support counted in ``pooled_logistic_regression``.

    Attributes:
        recipe: The baseline.
        shots: Labels per class.
        weight: Of the whole support, as a multiple of the weight of all pooled rows.
        episodes: Meta-validation episodes that chose it; 0: the usual one, because no
            meta-validation task has enough rows.
    """

    recipe: str
    shots: int
    weight: float
    episodes: int


@dataclass(frozen=True, slots=True)
class LabelsNeeded:
    """Fewest of the tried labels per class with which a recipe reaches the target; null: none."""

    recipe: str
    shots: int | None


@dataclass(frozen=True, slots=True)
class NotUsed:
    """What could give no episode: a task or a class of one, and why."""

    name: str
    shots: int
    reason: str


@dataclass(frozen=True, slots=True)
class MetaEvaluation:
    """All of it.

    Attributes:
        metric: What a score is.
        test_tasks: Tasks that gave episodes.
        recipe: The meta-learned recipe that meta-validation recommended; the verdicts are its.
        target: Score for ``steps_to_target`` and ``labels_needed``.
        scores: Per number of labels and recipe, best first.
        gains: Each meta-learned recipe against each baseline.
        verdicts: One per number of labels.
        verdict: One sentence for all.
        labels_needed: Per recipe.
        fine_tuning: What was chosen on meta-validation.
        support_weights: The same, for the pooled regression.
        not_used: Classes and tasks with too few rows.
        training_costs: Of the baselines that are trained beforehand; ``joint_fine_tuned`` and
            ``prototypes`` use the model of ``joint_frozen``.
        digests: Of meta-train, meta-validation and meta-test tasks.
        seed: Of everything drawn.
    """

    metric: Metric
    test_tasks: tuple[str, ...]
    recipe: str
    target: float
    scores: tuple[RecipeScore, ...]
    gains: tuple[PairedGain, ...]
    verdicts: tuple[Verdict, ...]
    verdict: str
    labels_needed: tuple[LabelsNeeded, ...]
    fine_tuning: tuple[FineTuning, ...]
    support_weights: tuple[SupportWeight, ...]
    not_used: tuple[NotUsed, ...]
    training_costs: tuple[TrainingCost, ...]
    digests: dict[str, str]
    seed: int
