import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors import (
    Column,
    DetectorError,
    DetectorSnapshotError,
    LabelFreeMonitor,
    LabelFreeSettings,
    Signal,
    SignalKind,
)
from detectors.rank_reference import RankReference, own_scores, spread
from detectors.window_variance import WindowVariance, window_sums

COLUMNS = (
    Column("uncertainty", SignalKind.CONFIDENCE, tail=True),
    Column("energy", SignalKind.CONFIDENCE, tail=True),
    Column("class_distance", SignalKind.FEATURES, tail=True),
    Column("component_1", SignalKind.FEATURES, tail=False),
)


def rows(n: int, seed: int, shift: float = 0.0, columns: tuple[int, ...] = (0, 1, 2, 3)) -> NDArray:
    matrix = np.random.default_rng(seed).normal(size=(n, len(COLUMNS)))
    matrix[:, list(columns)] += shift
    return matrix


def calibrated(n: int = 100, **settings_: float) -> LabelFreeMonitor:
    monitor = LabelFreeMonitor(COLUMNS, LabelFreeSettings(**settings_))
    monitor.calibrate(rows(n, seed=99))
    return monitor


def cut_feed(monitor: LabelFreeMonitor, matrix: NDArray, cuts: list[int]) -> list[Signal]:
    edges = [0, *sorted(min(cut, len(matrix)) for cut in cuts), len(matrix)]
    return [
        signal
        for start, stop in itertools.pairwise(edges)
        for signal in monitor.update(matrix[start:stop], start)
    ]


def test_a_shift_is_seen_within_thirty_events_with_its_change_point() -> None:
    delays, errors = [], []
    for seed in range(20):
        monitor = calibrated(60)
        assert not monitor.update(rows(200, seed), 0)
        found = monitor.update(rows(200, 100 + seed, shift=1.2), 200)
        assert {signal.kind for signal in found} == {SignalKind.CONFIDENCE, SignalKind.FEATURES}
        delays.append(found[0].at - 200 + 1)
        errors.append(abs(found[-1].change_point - 200))
    assert np.median(delays) <= 20 and max(delays) <= 40
    assert np.median(errors) <= 2


def test_the_kind_names_the_columns_that_moved() -> None:
    moved = rows(150, 5, shift=2.0, columns=(3,))
    (signal,) = calibrated().update(moved, 1000)
    assert signal.kind is SignalKind.FEATURES and "component_1" in signal.detail
    assert signal.change_point in range(1000, 1006)
    assert signal.statistic > signal.threshold == 5.2
    (signal,) = calibrated().update(rows(150, 6, shift=-2.0, columns=(0,)), 0)
    assert signal.kind is SignalKind.CONFIDENCE and "uncertainty" in signal.detail


def test_rare_extremes_raise_the_tail_alone() -> None:
    matrix = rows(400, 7)
    matrix[::9, 2] += 9.0
    monitor = calibrated(1000, location_threshold=50.0)
    found = monitor.update(matrix, 0)
    assert found and all("tail" in signal.detail for signal in found)
    small = rows(400, 7)
    small[::9, 2] -= 9.0
    assert not calibrated(1000, location_threshold=50.0).update(small, 0)


@pytest.mark.parametrize("calibration", [60, 400])
def test_stationary_events_raise_no_alarm(calibration: int) -> None:
    monitor = calibrated(calibration)
    assert not monitor.update(rows(10_000, 3), 0)


def test_a_stream_that_wanders_raises_hardly_an_alarm() -> None:
    noise = rows(10_300, 4)
    for t in range(1, len(noise)):
        noise[t] += 0.8 * noise[t - 1]
    monitor = LabelFreeMonitor(COLUMNS)
    monitor.calibrate(noise[:300])
    assert len(monitor.update(noise[300:], 0)) <= 1


def test_a_kind_is_silent_after_its_alarm_until_it_was_quiet() -> None:
    monitor = calibrated(400)
    assert len(monitor.update(rows(40, 8, shift=1.5), 0)) == 2
    assert not monitor.update(rows(20, 9), 40)
    assert not monitor.update(rows(20, 10, shift=1.5), 60)
    assert not monitor.update(rows(200, 11), 80)
    assert len(monitor.update(rows(60, 12, shift=1.5), 280)) == 2


def test_calibration_for_the_model_in_force_ends_the_silence_and_sets_the_new_normal() -> None:
    monitor = calibrated()
    assert len(monitor.update(rows(300, 8, shift=1.5), 0)) == 2
    monitor.calibrate(rows(100, 13, shift=1.5))
    assert monitor.change_point() is None
    assert not monitor.update(rows(300, 14, shift=1.5), 300)
    assert len(monitor.update(rows(60, 15), 600)) == 2


def test_constant_and_saturated_columns_raise_nothing() -> None:
    monitor = LabelFreeMonitor(COLUMNS)
    still = rows(6_000, 11)
    still[:, 0] = 0.0
    still[:, 2] = np.round(still[:, 2])
    monitor.calibrate(still[:100])
    assert not monitor.update(still[100:], 0)


def test_values_that_are_no_numbers_count_as_strange() -> None:
    broken = rows(40, 12)
    broken[:, 1] = np.nan
    broken[::2, 1] = 1e300
    assert [s.kind for s in calibrated().update(broken, 0)] == [SignalKind.CONFIDENCE]


streams = st.builds(
    lambda seed, parts: np.concatenate(
        [rows(70, seed + i, shift) for i, shift in enumerate(parts)]
    ),
    st.integers(0, 10_000),
    st.lists(st.sampled_from([0.0, 0.0, 0.4, 1.0, -2.0]), min_size=1, max_size=5),
)


@settings(max_examples=40, deadline=None)
@given(streams, st.lists(st.integers(0, 350), max_size=12))
def test_results_do_not_depend_on_how_events_are_cut(matrix: NDArray, cuts: list[int]) -> None:
    whole, parts = calibrated(70), calibrated(70)
    assert cut_feed(whole, matrix, []) == cut_feed(parts, matrix, cuts)
    assert whole.snapshot() == parts.snapshot()
    assert whole.change_point() == parts.change_point()


@settings(max_examples=30, deadline=None)
@given(streams, st.integers(0, 350))
def test_a_crash_at_any_event_changes_nothing(matrix: NDArray, crash: int) -> None:
    kept, crashed = calibrated(70), calibrated(70)
    assert kept.update(matrix[:crash], 0) == crashed.update(matrix[:crash], 0)
    packed = crashed.snapshot()
    crashed = LabelFreeMonitor.restore(packed)
    assert crashed.snapshot() == packed
    assert kept.update(matrix[crash:], crash) == crashed.update(matrix[crash:], crash)
    assert kept.snapshot() == crashed.snapshot()


def test_one_row_at_a_time_equals_one_batch_over_a_full_reference() -> None:
    matrix = np.concatenate([rows(1_400, 13), rows(200, 14, shift=1.0)])
    whole, single = calibrated(900), calibrated(900)
    assert cut_feed(whole, matrix, []) == cut_feed(single, matrix, list(range(len(matrix))))
    assert whole.snapshot() == single.snapshot()


def test_memory_is_bounded() -> None:
    monitor = calibrated(2_000)
    monitor.update(rows(3_000, 15), 0)
    size = len(monitor.snapshot())
    monitor.update(rows(64 * 40, 16), 3_000)
    assert len(monitor.snapshot()) == size < 60_000


def test_wrong_use_is_named() -> None:
    with pytest.raises(DetectorError, match="call calibrate"):
        LabelFreeMonitor(COLUMNS).update(rows(3, 0), 0)
    with pytest.raises(DetectorError, match="call calibrate"):
        LabelFreeMonitor(COLUMNS).snapshot()
    with pytest.raises(DetectorError, match="give at least 16"):
        LabelFreeMonitor(COLUMNS).calibrate(rows(15, 0))
    with pytest.raises(DetectorError, match="rows of 4 columns"):
        calibrated().update(np.zeros((2, 3)), 0)
    with pytest.raises(DetectorError, match="above 0"):
        LabelFreeSettings(tail_threshold=0.0)
    with pytest.raises(DetectorError, match="confidence or features"):
        LabelFreeMonitor([Column("x", SignalKind.ERROR, tail=False)])


def test_damaged_snapshots_are_refused() -> None:
    packed = calibrated().snapshot()
    for broken in (b"", packed[:-1], packed[:200] + b"\x00" + packed[201:]):
        with pytest.raises(DetectorSnapshotError):
            LabelFreeMonitor.restore(broken)


def test_fewer_than_fifty_reference_rows_keep_the_columns_off_until_they_have_come() -> None:
    monitor = LabelFreeMonitor(COLUMNS)
    monitor.calibrate(rows(20, 17))
    assert not monitor.update(rows(30, 18, shift=5.0), 0)
    monitor = LabelFreeMonitor(COLUMNS)
    monitor.calibrate(rows(20, 17))
    assert not monitor.update(rows(192, 19), 0)
    assert monitor.update(rows(30, 18, shift=5.0), 192)


def test_ranks_against_a_hand_computed_reference() -> None:
    reference = RankReference(np.array([[1.0], [2.0], [2.0], [4.0]], dtype=np.float32))
    values = np.array([[0.0], [2.0], [3.0], [9.0]], dtype=np.float32)
    u = spread(0, 4, 1)[:, 0]
    expected = 1.0 - np.array([u[0], 1 + 3 * u[1], 3 + u[2], 4 + u[3]]) / 5.0
    assert reference.above(values, 0)[:, 0] == pytest.approx(expected)


def test_own_scores_are_the_normal_scores_of_the_ranks() -> None:
    scores = own_scores(np.array([[3.0], [1.0], [2.0]], dtype=np.float32))[:, 0]
    assert scores == pytest.approx([0.967422, -0.967422, 0.0], abs=1e-6)


def test_window_sums_by_hand() -> None:
    z = np.arange(1.0, 6.0)[:, None]
    assert window_sums(z, 2)[:, 0].tolist() == [3.0, 5.0, 7.0, 9.0]


def test_the_variance_counts_the_full_windows_of_the_new_rows() -> None:
    z = rows(200, 20)
    variance = WindowVariance(np.zeros((4, 4)), np.zeros(4), np.zeros(4))
    variance.add(z, 64)
    assert variance.counts.tolist() == [64.0] * 4
    for i, w in enumerate((8, 16, 32, 64)):
        expected = np.square(window_sums(z, w)[-64:]).sum(axis=0) / w
        assert variance.squares[i] == pytest.approx(expected)
    short = WindowVariance(np.zeros((4, 4)), np.zeros(4), np.zeros(4))
    short.add(z[:64], 64)
    assert short.counts.tolist() == [57.0, 49.0, 33.0, 1.0]


def test_an_independent_stream_has_window_sums_of_its_length() -> None:
    variance = WindowVariance.calibrate(own_scores(rows(1000, 21).astype(np.float32)))
    inverse = variance.inverse(1000)
    for i, w in enumerate((8, 16, 32, 64)):
        assert 1.0 / inverse[i] == pytest.approx(w * (1 + w / 1000), rel=0.35)
