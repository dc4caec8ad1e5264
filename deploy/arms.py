"""Whose answer is served: a salted hash of the event's id decides.

The same id always lands in the same of 10,000 buckets under one salt, so the arm needs no memory,
survives a restart and is the same for a repeated event. Buckets fill from below: who is the
candidate's at 5 % is the candidate's at 25 % too. Give each rollout a salt of its own, so that the
same ids are not the guinea pigs of every one.

>>> [arm_of(f"event-{i}", "metadrift/3", weight_pct=50) for i in range(4)]
[True, False, True, True]
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

BUCKETS = 10_000


def arm_of(id: str, salt: str, weight_pct: int) -> bool:  # noqa: A002 - the message's field
    """Return whether the candidate answers the event, at a weight of 0 to 100 percent."""
    return bool(candidate_serves([id], salt, weight_pct)[0])


def candidate_serves(ids: Sequence[str], salt: str, weight_pct: int) -> NDArray[np.bool_]:
    """Return ``(n,)`` for a batch: whether the candidate answers each event.

    Args:
        ids: ``n`` event ids.
        salt: Of the rollout; any text.
        weight_pct: ``Traffic.candidate_weight``.

    Raises:
        ValueError: ``weight_pct`` is outside 0..100.
    """
    if not 0 <= weight_pct <= 100:
        raise ValueError(f"weight_pct must lie in 0..100, got {weight_pct}")
    # The salt is hashed to fit blake2b's key, which has at most 64 bytes.
    keyed = blake2b(digest_size=8, key=blake2b(salt.encode(), digest_size=32).digest())
    below = weight_pct * BUCKETS // 100
    served = np.empty(len(ids), dtype=np.bool_)
    for i, name in enumerate(ids):
        hashed = keyed.copy()
        hashed.update(name.encode())
        served[i] = int.from_bytes(hashed.digest(), "big") % BUCKETS < below
    return served
