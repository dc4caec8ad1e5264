import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import (
    DetectorError,
    DetectorSnapshotError,
    ErrorMonitor,
    Signal,
    SignalKind,
    loss_still_raised,
    rise_start,
)

HOLDOUT = [1.0] * 3 + [0.0] * 97


def losses(rate: float, n: int, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(n) < rate).astype(float).tolist()


def feed(monitor: ErrorMonitor, stream: list[float], start: int = 0) -> list[Signal]:
    found = (monitor.update(loss, start + i) for i, loss in enumerate(stream))
    return [signal for signal in found if signal]


def primed(**arguments: object) -> ErrorMonitor:
    monitor = ErrorMonitor(**arguments)  # type: ignore[arg-type]
    monitor.prime(HOLDOUT)
    return monitor


def test_a_primed_monitor_alarms_soon_after_a_rise() -> None:
    delays, errors = [], []
    for seed in range(40):
        monitor = primed()
        before = feed(monitor, losses(0.03, 60, seed))
        after = feed(monitor, losses(0.5, 120, 1000 + seed), 60)
        assert not before and after
        delays.append(after[0].at - 60 + 1)
        errors.append(abs(after[0].change_point - 60))
    assert np.median(delays) <= 22
    assert np.median(errors) <= 3


def test_the_signal_says_what_it_saw() -> None:
    monitor = primed(least_effect=0.1)
    (signal,) = feed(monitor, [0.0] * 20 + [1.0] * 12, start=100)
    assert signal.kind is SignalKind.ERROR and signal.detector == "HDDMA"
    assert signal.change_point == 120 and signal.at <= 131
    assert (signal.statistic, signal.threshold) == (pytest.approx(0.97), 0.1)
    assert "0.030 to 1.000" in signal.detail


@pytest.mark.parametrize("name", ["ADWIN", "KSWIN", "DDM", "HDDMA", "HDDMW", "ShiryaevRoberts"])
def test_a_fall_of_the_loss_is_no_signal(name: str) -> None:
    for seed in range(3):
        monitor = ErrorMonitor(name)
        monitor.prime(losses(0.5, 100, seed))
        assert not feed(monitor, losses(0.5, 50, seed + 10) + losses(0.02, 300, seed + 20))


def test_two_sided_detectors_speak_only_of_rises() -> None:
    monitor = ErrorMonitor("HDDMA", {"two_sided_test": True})
    monitor.prime(losses(0.5, 100, 0))
    assert not feed(monitor, [0.0] * 100)


def test_a_lasting_rise_is_signalled_once() -> None:
    for name in ("HDDMA", "ADWIN"):
        assert len(feed(primed(detector=name), losses(0.5, 600, 5))) == 1


def test_a_further_rise_is_signalled_again() -> None:
    found = feed(primed(), losses(0.3, 200, 0) + losses(0.9, 200, 50))
    assert found[0].change_point < 20
    assert any(abs(signal.change_point - 200) <= 5 for signal in found[1:])


def test_a_rise_below_the_least_effect_is_no_signal() -> None:
    stream = [0.0] * 200 + losses(0.25, 400, 3)
    assert feed(primed(least_effect=0.05), stream)
    assert not feed(primed(least_effect=0.6), stream)


def test_stationary_losses_raise_no_alarm() -> None:
    monitor = ErrorMonitor()
    monitor.prime(losses(0.05, 200, 1))
    assert not feed(monitor, losses(0.05, 10_000, 2))


def test_the_order_of_the_holdout_does_not_matter() -> None:
    sorted_first, sorted_last = ErrorMonitor(), ErrorMonitor()
    sorted_first.prime(HOLDOUT)
    sorted_last.prime(HOLDOUT[::-1])
    assert sorted_first.snapshot() == sorted_last.snapshot()
    assert sorted_first.reference_loss == pytest.approx(0.03)


def test_an_unprimed_monitor_takes_its_first_thirty_labels_as_reference() -> None:
    monitor = ErrorMonitor()
    assert monitor.reference_loss is None
    feed(monitor, [1.0] * 3 + [0.0] * 27)
    assert monitor.reference_loss == pytest.approx(0.1)
    feed(monitor, [1.0] * 5)
    assert monitor.reference_loss == pytest.approx(0.1)


def test_reset_forgets_everything() -> None:
    monitor = primed()
    feed(monitor, losses(0.5, 100, 1))
    monitor.reset(HOLDOUT)
    assert monitor.snapshot() == primed().snapshot()


def test_labels_out_of_order_do_not_blur_the_change_point() -> None:
    monitor = primed()
    positions = list(range(200))
    rng = np.random.default_rng(0)
    late = sorted(positions, key=lambda p: p + 30 * rng.random())
    found = [s for p in late if (s := monitor.update(float(p >= 100), p))]
    assert len(found) == 1
    assert abs(found[0].change_point - 100) <= 15 and found[0].change_point <= found[0].at


def test_regression_uses_adwin_on_graded_losses() -> None:
    rng = np.random.default_rng(4)
    monitor = ErrorMonitor(task_type="regression")
    assert monitor.detector_name == "ADWIN" and monitor.detector_params["clock"] == 1
    monitor.prime(rng.uniform(0.0, 0.3, 100).tolist())
    assert not feed(monitor, rng.uniform(0.0, 0.3, 200).tolist())
    (signal,) = feed(monitor, rng.uniform(0.3, 0.9, 100).tolist(), 200)
    assert abs(signal.change_point - 200) <= 3


def test_eddm_is_refused_for_regression() -> None:
    with pytest.raises(DetectorError, match="regression wants ADWIN"):
        ErrorMonitor("EDDM", task_type="regression")


@pytest.mark.parametrize("loss", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_loss_outside_the_unit_interval_is_refused(loss: float) -> None:
    with pytest.raises(DetectorError, match="finite number in"):
        ErrorMonitor().update(loss, 0)
    with pytest.raises(DetectorError, match="finite number in"):
        ErrorMonitor().prime([0.0, loss])


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["HDDMA", "ADWIN", "HDDMW", "FHDDM", "ShiryaevRoberts"]),
    rates=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4),
    cut=st.integers(0, 240),
    seed=st.integers(0, 1000),
)
def test_a_crash_at_any_label_changes_nothing(
    name: str, rates: list[float], cut: int, seed: int
) -> None:
    stream = [x for i, rate in enumerate(rates) for x in losses(rate, 60, seed + i)]
    kept, crashed = primed(detector=name), primed(detector=name)
    assert feed(kept, stream[:cut]) == feed(crashed, stream[:cut])
    packed = crashed.snapshot()
    crashed = ErrorMonitor.restore(packed)
    assert crashed.snapshot() == packed
    assert feed(kept, stream[cut:], cut) == feed(crashed, stream[cut:], cut)
    assert kept.snapshot() == crashed.snapshot()


def test_kept_losses_are_bounded() -> None:
    monitor = primed()
    feed(monitor, losses(0.05, 600, 1))
    size = len(monitor.snapshot())
    feed(monitor, losses(0.05, 2_000, 2), 600)
    assert len(monitor.snapshot()) <= size + 64


def test_a_snapshot_of_another_monitor_is_refused() -> None:
    with pytest.raises(DetectorSnapshotError):
        ErrorMonitor.restore(ErrorMonitor()._detector.snapshot())


def test_loss_still_raised_at_its_edges() -> None:
    assert loss_still_raised(0.1, [0.2, 0.2], 0.05)
    assert not loss_still_raised(0.1, [0.1, 0.19], 0.05)
    assert not loss_still_raised(0.1, [], 0.0)


@given(st.lists(st.sampled_from([0.0, 1.0]), max_size=40), st.integers(0, 50))
def test_rise_start_is_the_most_likely_rise(stream: list[float], before: int) -> None:
    start = rise_start(stream, 0.0, before)
    if start is None:
        return
    left = ([0.0] * before) + stream[:start]
    right = stream[start:]
    assert sum(right) / len(right) > sum(left) / len(left)
    # The estimate never begins with a success: leaving it out only raises the mean.
    assert right[0] == 1.0
