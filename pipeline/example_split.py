"""Cuts labelled examples into support, query and holdout: by time, and never through a group."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.example_buffer import Example


@dataclass(frozen=True, slots=True)
class Split:
    """Label numbers of the examples in each part, oldest first; parts are disjoint by group."""

    support: tuple[int, ...]
    query: tuple[int, ...]
    holdout: tuple[int, ...]


def split_by_time(
    examples: Sequence[Example], *, support: int, query: int, holdout: int
) -> Split | None:
    """Give the newest to holdout, those before to query, all older ones to support.

    An example whose group already has a part joins that part, so no group is in two.

    Args:
        examples: Oldest first.
        support: Fewest that support needs; 0: nothing older than query is used.
        query: How many query gets, at least.
        holdout: How many holdout gets, at least.

    Returns:
        The split, or None while there are too few examples.
    """
    parts: dict[str, list[int]] = {"support": [], "query": [], "holdout": []}
    home: dict[str, str] = {}
    for example in reversed(examples):
        group = example.group or example.id
        if group not in home:
            if len(parts["holdout"]) < holdout:
                home[group] = "holdout"
            elif len(parts["query"]) < query:
                home[group] = "query"
            elif support:
                home[group] = "support"
            else:
                continue
        parts[home[group]].append(example.number)
    wanted = {"support": support, "query": query, "holdout": holdout}
    if any(len(parts[p]) < n for p, n in wanted.items()):
        return None
    return Split(*(tuple(reversed(parts[p])) for p in ("support", "query", "holdout")))


def digest_of(examples: Sequence[Example]) -> str:
    """Return a content digest of a part: ids, raw features and labels."""
    total = hashlib.sha256()
    for e in examples:
        total.update(repr((e.id, e.label, e.categories)).encode())
        total.update(e.numbers.tobytes())
    return total.hexdigest()[:16]
