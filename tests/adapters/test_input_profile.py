"""A task's inputs in a few numbers, and whether other rows are alike."""

import numpy as np
import pytest

from adapters.feature_schema import Rows
from adapters.input_profile import InputProfile


def mixed(seed: int, n: int, *, shift: float = 0.0, colours: str = "rgb") -> Rows:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 3)) + np.array([shift, 0.0, 0.0])
    numbers[rng.random(n) < 0.1, 2] = np.nan
    return Rows(numbers, tuple((str(c),) for c in rng.choice(list(colours), n)))


def test_quarters_nulls_and_categories_are_counted() -> None:
    numbers = np.array([[1.0], [2.0], [3.0], [4.0], [np.nan]])
    profile = InputProfile.of(Rows(numbers, (("a",), ("a",), ("b",), (None,), ("a",))))
    assert profile.rows == 5
    assert profile.edges == ((1.75, 2.5, 3.25),)
    assert profile.numbers == ((1, 1, 1, 1, 1),)
    assert profile.categories == ({"a": 3, "b": 1, None: 1},)


def test_rows_of_one_distribution_are_seldom_called_different() -> None:
    """300 pairs at 5 %: three standard deviations above it is 8.8 %."""
    wrong = sum(
        InputProfile.of(mixed(2 * s, 150)).p_value(mixed(2 * s + 1, 40)) <= 0.05 for s in range(300)
    )
    assert wrong / 300 <= 0.088


@pytest.mark.parametrize("moved", [{"shift": 2.0}, {"colours": "rx"}])
def test_a_feature_that_moved_is_seen(moved: dict[str, object]) -> None:
    profile = InputProfile.of(mixed(0, 150))
    assert profile.p_value(mixed(1, 40, **moved)) < 1e-4  # type: ignore[arg-type]


def test_features_that_never_vary_say_nothing() -> None:
    still = Rows(np.ones((30, 2)))
    assert InputProfile.of(still).p_value(still) == 1.0


def test_rows_with_other_features_are_refused() -> None:
    profile = InputProfile.of(mixed(0, 30))
    with pytest.raises(ValueError, match="3 numbers and 0 categories"):
        profile.p_value(Rows(np.zeros((5, 3))))
    with pytest.raises(ValueError, match="at least one row"):
        InputProfile.of(Rows(np.empty((0, 3))))
