"""What a registry is told: plain frozen values that can wait in an outbox for hours.

Every field is JSON-able, so ``msgspec.json`` carries a record through the outbox and back
unchanged. Each record names itself by ``key``: deterministic, so that telling a registry twice
leaves one run and one version.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Scalar = str | int | float | bool

# A key is quoted inside the registry's search filters, so it must hold no quote.
_KEY = re.compile(r"[A-Za-z0-9._:/*@+-]{1,250}")


def check_key(key: str) -> None:
    """Refuse a key that could not be searched for.

    Raises:
        ValueError: Empty, too long, or holding other characters.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"key is {key!r}: expected 1 to 250 of the characters A-Z a-z 0-9 . _ : / * @ + -"
        )


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """The alarm that started an episode.

    Attributes:
        kind: What moved (``error``, ``confidence``, ``announced``, ...).
        detector: Who said so.
        at: Event position of the alarm.
        change_point: Event position since which things are estimated to be different.
        statistic: The detector's number.
        threshold: What it was held against.
        detail: One sentence.
    """

    kind: str
    detector: str
    at: int
    change_point: int
    statistic: float
    threshold: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Records of one Kafka partition: offsets ``first`` to ``last``, both included."""

    topic: str
    partition: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class SplitRecord:
    """One part of an episode's labelled examples.

    Attributes:
        name: ``support``, ``query`` or ``holdout``.
        rows: How many examples.
        digest: Of their content.
    """

    name: str
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class RecipeRecord:
    """What one recipe of a bake-off reached.

    Attributes:
        name: The recipe (``frozen``, ``maml``, ``recalled:3``, ...).
        zero_step: Whether it learned nothing from the support rows.
        outcome: ``ok``, ``diverged`` or ``error``.
        message: Why, where the outcome is not ``ok``.
        query_loss: Mean loss on the query rows, in [0, 1]; absent without query rows.
        holdout_loss: Mean loss on the holdout rows, in [0, 1].
        accuracy: Share of holdout rows (of query rows where there are none) predicted right;
            classification only.
        seconds: Wall time; the one number that a repetition does not reproduce.
        curve: (step, mean query loss).
        params: The recipe's settings (steps, step size, ...).
    """

    name: str
    zero_step: bool
    outcome: str = "ok"
    message: str = ""
    query_loss: float | None = None
    holdout_loss: float | None = None
    accuracy: float | None = None
    seconds: float = 0.0
    curve: tuple[tuple[int, float], ...] = ()
    params: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateRecord:
    """The holdout gate's verdict on the winner, with its numbers.

    Attributes:
        verdict: ``pass``, ``fail``, ``inconclusive`` or ``error``.
        n: Holdout rows compared.
        n_min: Fewest rows on which the gate decides.
        champion_loss: Mean holdout loss of the champion.
        candidate_loss: Mean holdout loss of the candidate.
        wins: Rows where only the candidate was right (regression: was nearer).
        losses: Rows where only the champion was.
        p_value: Of the one-sided test that the candidate is better.
        reason: One sentence.
    """

    verdict: str
    n: int
    n_min: int
    champion_loss: float
    candidate_loss: float
    wins: int
    losses: int
    p_value: float
    reason: str


@dataclass(frozen=True, slots=True)
class StandingRecord:
    """How a known task stands against the labels of an episode.

    Attributes:
        name: Its version.
        reference: Loss that its model is held to; absent without one.
        labels: How many labels its model was asked about.
        loss: Its mean loss on them.
        e_explains: Evidence that it explains them.
        e_fails: Evidence that it does not.
        standing: ``explains``, ``fails`` or ``open``.
        inputs_p: P-value of equal inputs; absent where they were not compared.
    """

    name: str
    reference: float | None
    labels: int
    loss: float | None
    e_explains: float
    e_fails: float
    standing: str
    inputs_p: float | None = None


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """Which task an episode is about.

    Attributes:
        kind: ``noise``, ``recurring``, ``drifted``, ``new`` or ``undecided``.
        task: The version whose task it is; may be empty.
        reason: One sentence with its numbers.
        alpha: Bound on the chance that the kind is wrong.
        needed: Evidence that a standing needs.
        champion: How the champion stands.
        remembered: How the remembered tasks stand.
    """

    kind: str
    task: str
    reason: str
    alpha: float
    needed: float
    champion: StandingRecord
    remembered: tuple[StandingRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One adaptation episode: why it ran, on what, what each recipe reached, what was decided.

    Attributes:
        key: Names the episode.
        model: ``model.name`` of the daemon.
        route: Whose weights.
        at_ms: Engine time of the decision, epoch milliseconds.
        position: Events scored by then.
        labels: Labels joined by then.
        task_type: ``classification`` or ``regression``.
        champion: Version that served.
        signal: What started it.
        offsets: Where its inputs came from.
        splits: Its labelled examples.
        recipes: The bake-off.
        winner: The recipe chosen on the query rows.
        outcome: What came of it (``candidate``, ``frozen wins``, ``rejected``, ...).
        reason: One sentence with the numbers that led to it.
        gate: Absent where no candidate reached the gate.
        candidate_digest: Of the candidate's folder; absent where there is no candidate.
        seeds: By purpose.
        versions: Of the libraries.
        settings: Configuration values that shaped the episode.
        config_fingerprint: Of the whole configuration.
        task: Which task it is about; absent where that was not asked.
    """

    key: str
    model: str
    route: str
    at_ms: int
    position: int
    labels: int
    task_type: str
    champion: str
    signal: SignalRecord
    offsets: tuple[OffsetRange, ...]
    splits: tuple[SplitRecord, ...]
    recipes: tuple[RecipeRecord, ...]
    winner: str
    outcome: str
    reason: str
    gate: GateRecord | None = None
    candidate_digest: str | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    config_fingerprint: str = ""
    task: TaskRecord | None = None

    def __post_init__(self) -> None:
        check_key(self.key)
        for recipe in self.recipes:
            check_key(self.recipe_key(recipe.name))

    def recipe_key(self, recipe: str) -> str:
        """Key of a recipe's own run; a candidate's ``ModelVersionRecord.run_key``."""
        return f"{self.key}/{recipe}"


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A run that belongs to no episode: meta-training, an imported model.

    Attributes:
        key: Names the run.
        name: For the eye.
        at_ms: When it ended, epoch milliseconds.
        params: Settings, seeds, versions, digests.
        metrics: Final numbers.
        curves: By name, (step, value).
    """

    key: str
    name: str
    at_ms: int
    params: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_key(self.key)


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """How a candidate's rollout stands or ended.

    Attributes:
        episode_key: The episode that made the candidate.
        version: The candidate.
        at_ms: Engine time, epoch milliseconds.
        phase: Of the rollout (``canary``, ``promoted``, ``rolled_back``, ...).
        verdict: Of its test.
        reason: One sentence.
        metrics: Labels, wins, losses, e-values, wrong predictions served, ...
        weights: (event position, percent of traffic) at each change.
    """

    episode_key: str
    version: str
    at_ms: int
    phase: str
    verdict: str
    reason: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        check_key(self.episode_key)


@dataclass(frozen=True, slots=True)
class ModelVersionRecord:
    """A model folder that becomes a version.

    Attributes:
        key: Names the version.
        run_key: Key of the run that made it: a recipe's run or a training run, which are recorded
            by themselves, or ``<key>/made`` (or ``key``) for a run of its own, which is finished
            with the version. A run of that key is created where there is none.
        at_ms: Engine time, epoch milliseconds.
        digest: Of the folder: ``sha256:`` and the hexadecimal sha256 of its ``manifest.json``.
        recipe: How it was made (``maml``, ``joint``, ``imported``, ...).
        reason: One sentence, shown as the version's description.
        parent: The version it was made from.
        packet_digest: Of the review packet, where one was recorded.
        facts: Further tags.
    """

    key: str
    run_key: str
    at_ms: int
    digest: str
    recipe: str
    reason: str
    parent: str | None = None
    packet_digest: str | None = None
    facts: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def own_run(self) -> bool:
        """Whether nobody else tells of its run."""
        return self.run_key in (self.key, f"{self.key}/made")

    def __post_init__(self) -> None:
        check_key(self.key)
        check_key(self.run_key)
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", self.digest):
            raise ValueError(f"digest is {self.digest!r}: expected 'sha256:' and 64 hex digits")
