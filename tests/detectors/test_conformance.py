"""Every detector of the catalog passes the same list of checks."""

import numpy as np
import pytest

from detectors import (
    DetectorError,
    DetectorSnapshotError,
    default_params,
    detector_names,
    make_detector,
    restore_detector,
)

NAMES = detector_names()
BASELINES = ("DummyDriftDetector", "NoDrift")
REAL = tuple(name for name in NAMES if name not in BASELINES)
# River's default of 50 is for long streams of unbounded values; losses gain at most 1 a label.
SUITABLE = {"PageHinkley": {"threshold": 20.0}}


def losses(rate: float, n: int, seed: int) -> list[float]:
    draws = np.random.default_rng(seed).random(n) < rate
    return draws.astype(float).tolist()


def test_the_catalog_holds_all_of_rivers_detectors_and_ours() -> None:
    assert set(NAMES) >= {"ADWIN", "KSWIN", "PageHinkley", "DDM", "EDDM", "FHDDM", "HDDMA", "HDDMW"}
    assert set(NAMES) >= {"ShiryaevRoberts", *BASELINES}


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("name", REAL)
def test_no_alarm_on_a_constant_stream(name: str, level: float) -> None:
    detector = make_detector(name, SUITABLE.get(name))
    assert not any(detector.update(level) for _ in range(300))


@pytest.mark.parametrize("name", REAL)
def test_alarm_within_400_labels_after_a_jump(name: str) -> None:
    detector = make_detector(name, SUITABLE.get(name))
    for loss in losses(0.1, 500, seed=1):
        detector.update(loss)
    after = [detector.update(loss) for loss in losses(0.9, 400, seed=2)]
    assert any(after)


@pytest.mark.parametrize("name", NAMES)
def test_update_answers_drift_detected(name: str) -> None:
    detector = make_detector(name)
    for loss in losses(0.1, 150, seed=3) + losses(0.9, 150, seed=4):
        assert detector.update(loss) is detector.drift_detected
        assert isinstance(detector.warning_detected, bool)


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_restored_at_every_label_continues_identically(name: str) -> None:
    kept, restored = make_detector(name), make_detector(name)
    stream = losses(0.1, 200, seed=5) + losses(0.8, 150, seed=6) + losses(0.1, 100, seed=7)
    for loss in stream:
        assert kept.update(loss) is restored.update(loss)
        packed = kept.snapshot()
        assert packed == restored.snapshot()
        restored = restore_detector(packed)
        assert restored.snapshot() == packed
    assert (restored.name, restored.params) == (name, kept.params)
    assert restored.width == kept.width


@pytest.mark.parametrize("name", NAMES)
def test_graded_losses_pack_too(name: str) -> None:
    detector = make_detector(name)
    for loss in np.random.default_rng(8).random(150).tolist():
        detector.update(loss)
    assert restore_detector(detector.snapshot()).snapshot() == detector.snapshot()


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_bounded(name: str) -> None:
    detector = make_detector(name)
    sizes = []
    for n in (300, 1200):
        for loss in losses(0.2, n, seed=9):
            detector.update(loss)
        sizes.append(len(detector.snapshot()))
    assert max(sizes) < 8_000


@pytest.mark.parametrize("name", NAMES)
def test_equal_inputs_give_equal_detectors(name: str) -> None:
    first, second = make_detector(name), make_detector(name)
    for loss in losses(0.3, 250, seed=10):
        assert first.update(loss) is second.update(loss)
    assert first.snapshot() == second.snapshot()


@pytest.mark.parametrize("name", NAMES)
def test_priming_is_updating_without_asking(name: str) -> None:
    detector = make_detector(name)
    detector.prime(losses(0.05, 100, seed=11))
    fresh = make_detector(name)
    assert detector.snapshot() != fresh.snapshot() or name == "NoDrift"


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_snapshot_is_refused(name: str) -> None:
    packed = bytearray(make_detector(name).snapshot())
    packed[-3] ^= 1
    with pytest.raises(DetectorSnapshotError):
        restore_detector(bytes(packed))


def test_another_river_version_is_refused() -> None:
    packed = make_detector("HDDMA").snapshot()
    start = packed.index(b"river-0.")
    changed = packed[: start + 8] + b"1" + packed[start + 9 :]
    assert changed != packed
    with pytest.raises(DetectorSnapshotError, match=r"river-0\.1"):
        restore_detector(changed)


@pytest.mark.parametrize("packed", [b"", b"\x93", b"\x80\x04N.", b"not msgpack at all"])
def test_foreign_bytes_are_refused(packed: bytes) -> None:
    with pytest.raises(DetectorSnapshotError):
        restore_detector(packed)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DetectorError, match="choose one of ADWIN, DDM"):
        make_detector("HDDM_A")


@pytest.mark.parametrize(
    ("name", "params", "fix"),
    [
        ("ADWIN", {"clok": 1}, "it has the parameters clock, delta"),
        ("ADWIN", {"clock": 1.5}, "give a int, as 1"),
        ("ADWIN", {"delta": "small"}, "give a int or float, as 0.002"),
        ("HDDMA", {"two_sided_test": 1}, "give a bool, as False"),
        ("HDDMA", {"drift_confidence": True}, "give a int or float"),
        ("HDDMA", {"drift_confidence": 5.0}, "River refuses it"),
        ("KSWIN", {"seed": None}, "give a int"),
        ("KSWIN", {"window_size": 5}, "River refuses it"),
        ("PageHinkley", {"mode": "sideways"}, "River refuses it"),
        ("NoDrift", {"delta": 1}, "it has the parameters none"),
        ("ShiryaevRoberts", {"margin": 2.0}, r"give a loss in \[0, 0.5\)"),
    ],
)
def test_a_wrong_parameter_is_named_with_its_fix(
    name: str, params: dict[str, object], fix: str
) -> None:
    with pytest.raises(DetectorError, match=fix) as caught:
        make_detector(name, params)
    assert name in caught.value.key


def test_our_defaults_suit_few_labels() -> None:
    assert default_params("ADWIN")["clock"] == 1
    assert default_params("KSWIN")["seed"] == 0
    assert default_params("PageHinkley")["mode"] == "up"


def test_an_int_for_a_float_is_the_same_detector() -> None:
    whole = make_detector("PageHinkley", {"threshold": 50})
    assert whole.snapshot() == make_detector("PageHinkley", {"threshold": 50.0}).snapshot()


@pytest.mark.parametrize("two_sided", [False, True])
def test_our_hddma_is_rivers_value_for_value(two_sided: bool) -> None:
    from river.drift import binary

    rng = np.random.default_rng(0)
    ours = make_detector("HDDMA", {"two_sided_test": two_sided})
    theirs = binary.HDDMA(two_sided_test=two_sided)
    alarms = 0
    for at in range(6_000):
        loss = float(rng.random() < (0.05, 0.4, 0.2)[at // 500 % 3])
        theirs.update(loss)
        assert ours.update(loss) == theirs.drift_detected
        assert ours.warning_detected == theirs.warning_detected
        alarms += theirs.drift_detected
    assert alarms > 3
