"""A world that gets worse twice: the second rise is signalled, however soon it follows."""

import numpy as np
import pytest

from detectors.error_monitor import ErrorMonitor


@pytest.mark.parametrize("labels_between", [40, 60, 90])
def test_a_further_rise_right_after_an_alarm_is_signalled(labels_between: int) -> None:
    rng = np.random.default_rng(0)
    monitor = ErrorMonitor("HDDMA", {"drift_confidence": 0.02})
    monitor.prime([0.0] * 190 + [1.0] * 10)
    losses = [float(x) for x in rng.random(labels_between) < 0.3] + [1.0] * 60
    signals = [s for at, loss in enumerate(losses) if (s := monitor.update(loss, at))]
    assert len(signals) >= 2
    assert signals[0].change_point < labels_between
    assert labels_between - 3 <= signals[-1].change_point <= labels_between + 3


def test_a_lasting_high_loss_is_signalled_once() -> None:
    rng = np.random.default_rng(1)
    monitor = ErrorMonitor("HDDMA", {"drift_confidence": 0.02})
    monitor.prime([0.0] * 190 + [1.0] * 10)
    losses = [float(x) for x in rng.random(400) < 0.5]
    signals = [s for at, loss in enumerate(losses) if (s := monitor.update(loss, at))]
    assert len(signals) == 1
