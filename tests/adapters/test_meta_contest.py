"""A new meta-init replaces the old one only where it is better on tasks that neither saw."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from adapters.examples import Examples
from adapters.meta_contest import Contest, contest, sign_flip
from adapters.meta_init import MetaInit, Start
from adapters.meta_settings import MetaTrainingError
from adapters.task_splits import LeakError
from tests.adapters.lanes import parcels, plan_init, plans


def unlearned() -> MetaInit:
    """Return a start that no few steps bring anywhere: dead units, steps of no length."""
    init = plan_init()
    start = init.starts[init.recommended]
    zero = {name: torch.zeros_like(w) for name, w in start.weights.items()}
    dead = Start(start.algorithm, zero, zero, start.steps)
    return replace(init, starts={**init.starts, init.recommended: dead})


def judges(n: int, rows: int = 40) -> list[tuple[str, Examples]]:
    return [
        (f"plan-{t}", parcels(plans()[t], rows, 70 + t, 50_000 + 100 * t))
        for t in range(22, 22 + n)
    ]


def test_the_better_start_replaces_the_other_and_never_the_other_way_round() -> None:
    won = contest(unlearned(), plan_init(), judges(6), support=12, query=12)
    assert won.wins
    assert won.p_value == pytest.approx(1 / 2**6)
    assert won.new.mean() < 0.2 < won.old.mean()
    assert "replaces the old one" in won.reason
    lost = contest(plan_init(), unlearned(), judges(6), support=12, query=12)
    assert not lost.wins
    assert "does not replace" in lost.reason
    same = contest(plan_init(), plan_init(), judges(6), support=12, query=12)
    assert not same.wins
    np.testing.assert_array_equal(same.old, same.new)


def test_better_by_chance_is_not_better() -> None:
    old, new = np.array([0.3] * 6), np.array([0.2, 0.25, 0.28, 0.33, 0.35, 0.2])
    assert new.mean() < old.mean()
    judged = Contest(tuple("abcdef"), old, new, sign_flip(old - new), 0.05)
    assert judged.p_value > 0.05
    assert not judged.wins


def test_both_meet_the_same_episodes_under_a_seed() -> None:
    one, two = (contest(unlearned(), plan_init(), judges(5), support=12, query=12) for _ in "ab")
    np.testing.assert_array_equal(one.new, two.new)
    other = contest(unlearned(), plan_init(), judges(5), support=12, query=12, seed=1)
    assert (one.new != other.new).any()


def test_a_judge_that_trained_the_new_one_is_refused() -> None:
    learned = [*judges(5), ("plan-0", parcels(plans()[0], 40, 0, 0))]
    with pytest.raises(LeakError, match=r"plan-0.*the new meta-init was trained on it"):
        contest(unlearned(), plan_init(), learned, support=12, query=12)


def test_too_few_or_too_small_judges_are_refused() -> None:
    with pytest.raises(MetaTrainingError, match=r"4 of 4 tasks .* 5 are needed"):
        contest(unlearned(), plan_init(), judges(4), support=12, query=12)
    with pytest.raises(MetaTrainingError, match=r"0 of 6 tasks .* have 48 different rows"):
        contest(unlearned(), plan_init(), judges(6), support=24, query=24)


def test_the_sign_flip_test_counts_every_sign() -> None:
    gains = np.array([0.3, -0.1, 0.2, 0.4, 0.0, 0.25, -0.05])
    every = [np.dot(s, gains) >= gains.sum() - 1e-12 for s in product((1, -1), repeat=7)]
    assert sign_flip(gains) == pytest.approx(np.mean(every))
    many = np.full(20, 0.1)
    assert sign_flip(many) == pytest.approx(1 / 20_001, rel=1)
    assert sign_flip(np.zeros(9)) == 1.0
