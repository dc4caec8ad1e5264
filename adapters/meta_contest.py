"""Whether a newly trained meta-init may replace the one in force: both on tasks that neither saw.

Each judging task gives the same episodes to both: support and query of different keys, drawn under
a seed; the recommended start of each adapts and is judged on the query. The new one wins where its
mean loss over the tasks is lower and the one-sided sign-flip test of the paired differences, one a
task, has a p-value of at most ``risk`` (Fisher, The Design of Experiments, 1935, section 21; exact
up to 16 tasks, else over 20,000 draws). Episodes of one task are no news beside each other, so
tasks are what is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.examples import Examples
from adapters.inner_loop import one_thread
from adapters.meta_init import MetaInit
from adapters.meta_settings import MetaTrainingError
from adapters.recipes import DivergedError, RecipeError, Target, few_step, usable_support
from adapters.task_splits import LeakError, refuse_shared

FEWEST_TASKS = 5
"""With fewer no outcome has a p-value of .05: 1 / 2**5 is .031."""
EXACT_UP_TO, DRAWS = 16, 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Contest:
    """How both did.

    Attributes:
        tasks: Judging tasks.
        old: ``(tasks,)`` mean losses of the one in force, 1 where it diverged.
        new: The same of the new one.
        p_value: Of the test that the new one is better.
        risk: What it was held against.
    """

    tasks: tuple[str, ...]
    old: NDArray[np.float64]
    new: NDArray[np.float64]
    p_value: float
    risk: float

    @property
    def wins(self) -> bool:
        """Whether the new one replaces the old one."""
        return self.p_value <= self.risk and float(self.new.mean()) < float(self.old.mean())

    @property
    def reason(self) -> str:
        """One sentence with the numbers."""
        verdict = "replaces the old one" if self.wins else "does not replace the old one"
        return (
            f"the new meta-init {verdict}: mean loss {self.new.mean():.3f} against "
            f"{self.old.mean():.3f} on {len(self.tasks)} tasks that neither was trained on, "
            f"p={self.p_value:.3g} at {self.risk:g}"
        )


def contest(
    old: MetaInit,
    new: MetaInit,
    judges: Sequence[tuple[str, Examples]],
    *,
    support: int,
    query: int,
    episodes: int = 8,
    seed: int = 0,
    risk: float = 0.05,
) -> Contest:
    """Return how two meta-inits do on the same episodes.

    Args:
        old: In force.
        new: Wants to replace it.
        judges: Tasks by name, none of whose keys trained the new one; the old one may have chosen
            its steps on some, which favours it.
        support: Examples to adapt from.
        query: Examples that judge.
        episodes: Per task.
        seed: Of the draws.
        risk: Bound on the chance that one that is no better replaces the old one.

    Raises:
        LeakError: A judging task's key trained the new one.
        MetaTrainingError: Too few judging tasks of sufficient size.
    """
    large = large_enough(judges, support + query)
    for name, examples in large:
        try:
            refuse_shared(new.trained_on, examples.keys, f"judging task {name!r}")
        except LeakError as error:
            raise LeakError(f"{error}; the new meta-init was trained on it") from error
    losses: dict[str, list[float]] = {"old": [], "new": []}
    with one_thread():
        for number, (_, examples) in enumerate(large):
            rng = np.random.default_rng([seed, number])
            drawn = [_episode(examples, support, query, rng) for _ in range(episodes)]
            for side, init in (("old", old), ("new", new)):
                losses[side].append(float(np.mean([_loss(init, *pair) for pair in drawn])))
    ours, theirs = np.array(losses["old"]), np.array(losses["new"])
    names = tuple(name for name, _ in large)
    return Contest(names, ours, theirs, sign_flip(ours - theirs, seed), risk)


def large_enough(judges: Sequence[tuple[str, Examples]], rows: int) -> list[tuple[str, Examples]]:
    """Return the judging tasks with ``rows`` different rows.

    Raises:
        MetaTrainingError: They are too few for any outcome to be significant.
    """
    large = [(name, examples) for name, examples in judges if len(np.unique(examples.keys)) >= rows]
    if len(large) < FEWEST_TASKS:
        raise MetaTrainingError(
            f"{len(large)} of {len(judges)} tasks that the meta-init in force was not trained on "
            f"have {rows} different rows; {FEWEST_TASKS} are needed to tell which is better: bring "
            "the file that it was trained on, more confirmed tasks, or lower support and query"
        )
    return large


def sign_flip(gains: NDArray[np.float64], seed: int = 0) -> float:
    """Return the one-sided p-value of gains whose signs were as likely either way.

    >>> sign_flip(np.array([0.1, 0.2, 0.1, 0.3, 0.2]))
    0.03125
    """
    n = len(gains)
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(signs @ gains >= gains.sum() - 1e-12))
    drawn = np.random.default_rng(seed).choice([-1, 1], (DRAWS, n))
    reached = int(np.count_nonzero(drawn @ gains >= gains.sum() - 1e-12))
    return (1 + reached) / (1 + DRAWS)


def _episode(
    examples: Examples, support: int, query: int, rng: np.random.Generator
) -> tuple[Examples, Examples]:
    """Return support and query, one row a key."""
    order = rng.permutation(len(examples))
    _, first = np.unique(examples.keys[order], return_index=True)
    chosen = rng.permutation(order[first])[: support + query]
    return examples.take(chosen[:support]), examples.take(chosen[support:])


def _loss(init: MetaInit, support: Examples, query: Examples) -> float:
    target = Target(init.schema, init.task_type, init.class_names, 4 * init.target_std)
    known, _ = usable_support(target, support)
    try:
        model = few_step(target, init, init.starts[init.recommended].algorithm, known).model
    except (RecipeError, DivergedError):
        return 1.0
    return float(model.losses(model.predict(query.rows), query.truths).mean())
