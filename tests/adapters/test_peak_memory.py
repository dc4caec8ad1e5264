"""Peak memory of a piece of work: what it holds at its highest, however it was allocated."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters import peak_memory
from adapters.peak_memory import measured

MEGABYTE = 1_000_000


def numbers(megabytes: int) -> float:
    return float(np.ones(megabytes * MEGABYTE // 8).sum())


def tensors(megabytes: int) -> float:
    return float(torch.ones(megabytes * MEGABYTE // 4).sum())


def small_pieces(megabytes: int) -> float:
    """Many small arrays, which come from the heap and stay in it when they are freed."""
    pieces = [np.ones(1_000) for _ in range(megabytes * MEGABYTE // 8_000)]
    return float(sum(piece[0] for piece in pieces))


@pytest.mark.parametrize("work", [numbers, tensors, small_pieces])
def test_what_is_held_counts_again_each_time(work: Callable[[int], float]) -> None:
    work(8)
    for megabytes in (64, 16, 64):
        peak = measured(lambda m=megabytes: work(m), time.perf_counter).peak_bytes
        assert peak is not None
        assert 0.9 * megabytes * MEGABYTE < peak < 1.3 * megabytes * MEGABYTE + MEGABYTE


def test_work_that_holds_nothing_counts_next_to_nothing() -> None:
    kept = np.ones(8 * MEGABYTE)  # resident before, so it does not count
    ticks = iter((3.0, 5.5))
    found = measured(lambda: kept[0] + 1, lambda: next(ticks))
    assert (found.result, found.seconds) == (2, 2.5)
    assert found.peak_bytes is not None and found.peak_bytes < MEGABYTE


def test_where_the_system_cannot_say_the_work_is_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "status")
    found = measured(lambda: 7, time.perf_counter)
    assert (found.result, found.peak_bytes) == (7, None)
