"""The bound on labels is about the test in use."""

import numpy as np
import pytest

from benchmarks.canary_bound import _best_stake, wealth
from deploy.sequential import BettingTest


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_the_way_called_six_stakes_is_the_test_in_use(margin: float) -> None:
    draws = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], 200, p=[0.1, 0.5, 0.4])
    test, seen = BettingTest.start(margin), []
    for x in draws:
        test = test.observe(float(x))
        seen.append(test.log_e())
    assert wealth("six stakes", draws[None, :], margin, 0.5)[0] == pytest.approx(seen)


def test_the_best_stake_on_wins_and_losses_is_their_difference() -> None:
    """Kelly: of 0.27 wins and 0.07 losses, (0.27 - 0.07) / (0.27 + 0.07)."""
    stake = _best_stake(np.array([-1.0, 0.0, 1.0]), np.array([0.07, 0.66, 0.27]), 0.0)
    assert stake == pytest.approx(0.2 / 0.34, abs=0.005)
