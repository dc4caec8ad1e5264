"""The embedded backend: the daemon scores the events itself, with no infrastructure beside it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deploy.arms import candidate_serves
from deploy.rollout_plan import Traffic


class EmbeddedBackend:
    """Splits the answers that this process gives.

    >>> backend = EmbeddedBackend()
    >>> backend.apply(Traffic("1-a", "2-b", candidate_weight=50))
    >>> backend.serves_candidate(["event-3", "event-4"], salt="s").tolist()
    [True, False]
    """

    def __init__(self) -> None:
        self._traffic: Traffic | None = None

    def apply(self, traffic: Traffic) -> None:
        """Answer by this split from the next batch on."""
        self._traffic = traffic

    def observed(self) -> Traffic | None:
        """Return the split in force, None before the first ``apply``."""
        return self._traffic

    def serves_candidate(self, ids: Sequence[str], salt: str) -> NDArray[np.bool_]:
        """Return ``(n,)``: whether the candidate answers each event.

        Raises:
            RuntimeError: Nothing has been applied yet.
        """
        if self._traffic is None:
            raise RuntimeError("no traffic applied yet; reconcile before the first batch")
        return candidate_serves(ids, salt, self._traffic.candidate_weight)
