"""The pages of benchmarks with few labels: who wins is said, whoever it is."""

import numpy as np
import pytest

from adapters.baselines import BASELINES
from benchmarks.few_shot import OWN, answer, pooled, table


def errors(maml: float, best: float) -> dict[str, list[float]]:
    """Forty episodes of four owners; ``pooled_logistic_regression`` is the best baseline."""
    noise = np.random.default_rng(0).normal(0, 0.01, 40)
    found = {name: (0.6 + noise).tolist() for name in (*OWN, *BASELINES)}
    found["maml"] = (maml + noise).tolist()
    found["pooled_logistic_regression"] = (best - noise).tolist()
    return found


OWNERS = [f"user {i % 4}" for i in range(40)]


@pytest.mark.parametrize(
    ("maml", "best", "says"),
    [
        (0.2, 0.3, "`maml` wins: +10."),
        (0.3, 0.2, "**A baseline wins**: `maml` is -"),
        (0.3, 0.3, "**Neither wins**: `maml` is "),
    ],
)
def test_the_winner_is_named(maml: float, best: float, says: str) -> None:
    told = answer(errors(maml, best), OWNERS)
    assert told.startswith(says) and "`pooled_logistic_regression`" in told


def test_rows_are_in_order_and_their_differences_paired() -> None:
    rows = table(errors(0.3, 0.2), OWNERS)
    names = [row.split("|")[1].strip() for row in rows]
    assert names[:2] == ["pooled_logistic_regression", "maml *"] and names[-1] == "scratch"
    assert rows[1].endswith("| - |")
    twin = {**errors(0.3, 0.2), "scratch": errors(0.3, 0.2)["maml"]}
    (row,) = (row for row in table(twin, OWNERS) if row.startswith("| scratch"))
    assert row.endswith("| +0.0 [+0.0, +0.0] |")  # unpaired, the interval would have a width


def test_seeds_are_pooled_by_number_of_labels() -> None:
    parts = [
        {"shots": 1, "owners": ["a"], "errors": {"maml": [0.1]}},
        {"shots": 5, "owners": ["b"], "errors": {"maml": [0.2]}},
    ]
    found = {"results": [{"parts": parts}, {"parts": parts}]}
    assert pooled(found, 5) == ({"maml": [0.2, 0.2]}, ["b", "b"])
