"""The split: newest to holdout, and no group in two parts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.example_buffer import Example
from pipeline.example_split import digest_of, split_by_time


def example(number: int, group: str | None) -> Example:
    return Example(
        number=number,
        position=number,
        id=f"e{number}",
        group=group,
        label=float(number % 2),
        numbers=np.array([float(number)]),
        categories=(),
        version=1,
        answer=0.0,
        own_features=False,
    )


groups = st.lists(st.sampled_from([None, "a", "b", "c", "d", "e"]), max_size=60)


@given(groups, st.integers(0, 15), st.integers(0, 10), st.integers(1, 10))
def test_parts_are_disjoint_by_group_and_large_enough(
    named: list[str | None], support: int, query: int, holdout: int
) -> None:
    examples = [example(i, g) for i, g in enumerate(named)]
    split = split_by_time(examples, support=support, query=query, holdout=holdout)
    if split is None:
        return
    parts = (split.support, split.query, split.holdout)
    for part, least in zip(parts, (support, query, holdout), strict=True):
        assert len(part) >= least
        assert list(part) == sorted(part)
    homes = [{examples[i].group or examples[i].id for i in part} for part in parts]
    assert not homes[0] & homes[1]
    assert not homes[0] & homes[2]
    assert not homes[1] & homes[2]
    numbers = [i for part in parts for i in part]
    assert len(numbers) == len(set(numbers))
    if support:
        assert len(numbers) == len(examples), "with support no example is left out"
    else:
        assert split.support == ()


@given(st.integers(0, 40), st.integers(0, 15), st.integers(0, 10), st.integers(1, 10))
def test_without_groups_parts_are_cut_by_time(
    n: int, support: int, query: int, holdout: int
) -> None:
    split = split_by_time(
        [example(i, None) for i in range(n)], support=support, query=query, holdout=holdout
    )
    if n < support + query + holdout:
        assert split is None
        return
    assert split is not None
    assert split.holdout == tuple(range(n - holdout, n))
    assert split.query == tuple(range(n - holdout - query, n - holdout))
    assert split.support == (tuple(range(n - holdout - query)) if support else ())


def test_a_group_stays_with_its_newest_example() -> None:
    named = ["old", "x", None, None, "x", "y", None, "y"]
    split = split_by_time(
        [example(i, g) for i, g in enumerate(named)], support=1, query=2, holdout=2
    )
    assert split is not None
    assert split.holdout == (5, 6, 7)
    assert split.query == (1, 3, 4)
    assert split.support == (0, 2)


def test_the_digest_tells_content_apart() -> None:
    one = [example(1, None), example(2, None)]
    assert digest_of(one) == digest_of([example(1, "named"), example(2, None)])
    assert digest_of(one) != digest_of(list(reversed(one)))
    assert digest_of(one) != digest_of(one[:1])
