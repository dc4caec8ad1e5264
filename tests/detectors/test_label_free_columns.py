import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import covariance

from detectors import (
    DetectorError,
    DetectorSnapshotError,
    LabelFreeMonitor,
    LabelFreeReference,
    SignalKind,
)
from detectors.reference_gaussian import fit_precision, ledoit_wolf, principal_directions

Data = tuple[NDArray, NDArray, NDArray, NDArray]


def data(n: int, seed: int, width: int = 20, classes: int = 3, shift: float = 0.0) -> Data:
    world = np.random.default_rng(0)
    centres, mixing = world.normal(size=(classes, width)) * 2, world.normal(size=(width, width))
    head = world.normal(size=(12, classes))
    rng = np.random.default_rng(seed)
    member = rng.integers(0, classes, n)
    inputs = centres[member] + rng.normal(size=(n, width)) @ mixing * 0.4 + shift
    embedding = np.maximum(inputs[:, :12], 0.0)
    outputs = embedding @ head
    return (
        outputs.astype(np.float32),
        embedding.astype(np.float32),
        inputs.astype(np.float32),
        outputs.argmax(axis=1),
    )


@pytest.mark.parametrize(("n", "width"), [(60, 64), (500, 20), (5, 3), (40, 1)])
def test_ledoit_wolf_equals_scikit_learn(n: int, width: int) -> None:
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
    expected = covariance.ledoit_wolf(rows, assume_centered=True)[0]
    assert ledoit_wolf(rows) == pytest.approx(expected)


def test_the_full_precision_is_the_inverse_of_the_shrunk_covariance() -> None:
    rows = np.random.default_rng(1).normal(size=(200, 6)) * np.arange(1.0, 7.0)
    precision, inverse = fit_precision(rows), np.linalg.inv(ledoit_wolf(rows))
    assert precision.times(rows) == pytest.approx(rows @ inverse)
    expected = np.einsum("ni,ij,nj->n", rows, inverse, rows)
    assert precision.length(rows, rows @ precision.factor) == pytest.approx(expected)


def test_the_wide_precision_is_positive_and_close_to_the_truth() -> None:
    rng = np.random.default_rng(2)
    loadings = rng.normal(size=(5, 100))
    draw = lambda n: rng.normal(size=(n, 5)) @ loadings + 0.5 * rng.normal(size=(n, 100))  # noqa: E731
    precision, fresh = fit_precision(draw(800)), draw(500)
    lengths = precision.length(fresh, fresh @ precision.factor)
    truth = np.linalg.inv(loadings.T @ loadings + 0.25 * np.eye(100))
    expected = np.einsum("ni,ij,nj->n", fresh, truth, fresh)
    assert lengths.min() > 0
    assert np.corrcoef(lengths, expected)[0, 1] > 0.8


def test_principal_directions_agree_whichever_side_is_shorter() -> None:
    rows = np.random.default_rng(3).normal(size=(30, 29)) * np.linspace(5, 0.1, 29)
    narrow, values = principal_directions(rows, 4)
    wide, _ = principal_directions(np.hstack([rows, np.zeros((30, 10))]), 4)
    assert wide[:29] == pytest.approx(narrow, abs=1e-9)
    assert np.all(np.diff(values) <= 0)


def test_columns_by_name_and_kind() -> None:
    outputs, embedding, inputs, classes = data(80, 1)
    columns = LabelFreeReference.fit(outputs, embedding, inputs, classes).signal_columns
    assert [c.name for c in columns[:5]] == [
        "uncertainty",
        "energy",
        "class_distance",
        "input_distance",
        "input_spread",
    ]
    assert len(columns) == 9
    assert [c.kind for c in columns[:2]] == [SignalKind.CONFIDENCE] * 2
    assert {c.kind for c in columns[2:]} == {SignalKind.FEATURES}
    assert [c.tail for c in columns] == [True] * 4 + [False] * 5


def test_regression_has_no_confidence_columns() -> None:
    _, embedding, inputs, _ = data(80, 1)
    outputs = embedding[:, :1]
    reference = LabelFreeReference.fit(outputs, embedding, inputs, None)
    assert {c.kind for c in reference.signal_columns} == {SignalKind.FEATURES}
    assert reference.columns(outputs, embedding, inputs).shape == (80, 7)


def test_confidence_columns_by_hand() -> None:
    outputs, embedding, inputs, classes = data(80, 1, classes=2)
    reference = LabelFreeReference.fit(outputs, embedding, inputs, classes)
    logits = np.array([[0.0, 0.0], [np.log(3.0), 0.0], [90.0, 0.0]], dtype=np.float32)
    made = reference.columns(logits, embedding[:3], inputs[:3])
    assert made[:, 0] == pytest.approx([0.5, 0.25, np.exp(-90.0)])
    assert made[:, 1] == pytest.approx([-np.log(2.0), -np.log(4.0), -90.0])


def test_the_class_distance_is_the_least_over_the_classes() -> None:
    outputs, embedding, inputs, classes = data(300, 2)
    reference = LabelFreeReference.fit(outputs, embedding, inputs, classes)
    made = reference.columns(outputs, embedding, inputs)[:, 2]
    centred = embedding - embedding.mean(axis=0, dtype=np.float64)
    counts = np.bincount(classes)[:, None]
    sums = np.stack([centred[classes == c].sum(axis=0) for c in range(3)])
    inverse = np.linalg.inv(ledoit_wolf(centred - (sums / counts)[classes]))
    gaps = centred[:, None, :] - sums / (counts + 1)
    expected = np.einsum("nci,ij,ncj->nc", gaps, inverse, gaps).min(axis=1)
    assert made == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("width", [20, 300])
def test_a_row_does_not_depend_on_its_batch(width: int) -> None:
    outputs, embedding, inputs, classes = data(200, 3, width)
    reference = LabelFreeReference.fit(outputs, embedding, inputs, classes)
    whole = reference.columns(outputs, embedding, inputs)
    for step in (1, 7, 63, 65):
        parts = [
            reference.columns(outputs[i : i + step], embedding[i : i + step], inputs[i : i + step])
            for i in range(0, 200, step)
        ]
        assert np.array_equal(np.concatenate(parts), whole)


def test_sixty_rows_are_enough_for_a_calm_and_a_quick_monitor() -> None:
    for seed in range(5):
        outputs, embedding, inputs, classes = data(60, seed)
        reference = LabelFreeReference.fit(outputs, embedding, inputs, classes)
        monitor = LabelFreeMonitor(reference.signal_columns)
        monitor.calibrate(reference.cross_fitted(outputs, embedding, inputs, classes))
        assert not monitor.update(reference.columns(*data(2_000, 100 + seed)[:3]), 0)
        assert monitor.update(reference.columns(*data(60, 200 + seed, shift=1.5)[:3]), 2_000)


def test_cross_fitting_measures_rows_as_if_they_were_new() -> None:
    outputs, embedding, inputs, classes = data(60, 4, width=40)
    reference = LabelFreeReference.fit(outputs, embedding, inputs, classes)
    own = np.median(reference.columns(outputs, embedding, inputs)[:, 3])
    crossed = np.median(reference.cross_fitted(outputs, embedding, inputs, classes)[:, 3])
    fresh = np.median(reference.columns(*data(2_000, 5, width=40)[:3])[:, 3])
    assert own < 0.8 * fresh
    assert crossed == pytest.approx(fresh, rel=0.25)


def test_degenerate_reference_rows_are_survived() -> None:
    outputs, embedding, inputs, classes = data(30, 6)
    embedding[:], inputs[:, 3:] = 0.0, 1.0
    reference = LabelFreeReference.fit(outputs, embedding, inputs, classes)
    assert np.isfinite(reference.columns(*data(50, 7)[:3])).all()
    single = LabelFreeReference.fit(outputs[:1], embedding[:1], inputs[:1], classes[:1])
    assert np.isfinite(single.columns(*data(50, 7)[:3])).all()


def test_a_reference_survives_packing() -> None:
    rows = data(100, 8, width=80)
    reference = LabelFreeReference.fit(*rows)
    packed = reference.snapshot()
    restored = LabelFreeReference.restore(packed)
    assert restored.snapshot() == packed
    assert restored.signal_columns == reference.signal_columns
    assert np.array_equal(restored.columns(*rows[:3]), reference.columns(*rows[:3]))
    with pytest.raises(DetectorSnapshotError):
        LabelFreeReference.restore(packed[:-1])


def test_wrong_shapes_are_named() -> None:
    outputs, embedding, inputs, classes = data(60, 9)
    reference = LabelFreeReference.fit(outputs, embedding, inputs, classes)
    with pytest.raises(DetectorError, match="embedding shape"):
        reference.columns(outputs, embedding[:-1], inputs)
    with pytest.raises(DetectorError, match="inputs width"):
        reference.columns(outputs, embedding, inputs[:, :-1])
    with pytest.raises(DetectorError, match="at least one row"):
        LabelFreeReference.fit(outputs[:0], embedding[:0], inputs[:0], classes[:0])
    with pytest.raises(DetectorError, match="leave such rows out"):
        LabelFreeReference.fit(outputs, embedding * np.float32(np.nan), inputs, classes)
    with pytest.raises(DetectorError, match="at least 16"):
        reference.cross_fitted(outputs[:15], embedding[:15], inputs[:15], classes[:15])
