"""Suspect labels: a swap is seen, a change of plan is not called one."""

import numpy as np
import pytest

from deploy.label_permutation import LEAST_LABELS, suspect

TRIALS = 300


def plan_change(rng, n, flipped, accuracy):
    """Confusion of a champion of one sorting plan on another that flips so many digits."""
    plan = rng.integers(0, 2, 10)
    other = plan.copy()
    other[rng.choice(10, flipped, replace=False)] ^= 1
    digits = rng.integers(0, 10, n)
    predicted = plan[digits] ^ (rng.random(n) > accuracy)
    counts = np.zeros((2, 2), np.int64)
    np.add.at(counts, (predicted, other[digits]), 1)
    return counts


def renamed(rng, n, names, accuracy, noise=0.0):
    """Confusion of a champion when class c is labelled ``names[c]``, a share at random."""
    classes = len(names)
    truth = rng.integers(0, classes, n)
    slip = (truth + rng.integers(1, classes, n)) % classes
    predicted = np.where(rng.random(n) < accuracy, truth, slip)
    labels = np.array(names)[truth]
    labels = np.where(rng.random(n) < noise, rng.integers(0, classes, n), labels)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (predicted, labels), 1)
    return counts


def share(make, reference, trials=TRIALS):
    """How often the labels are called suspect."""
    rng = np.random.default_rng(17)
    found = [
        suspect(make(rng), reference_accuracy=reference, inputs_moved=False).holds
        for _ in range(trials)
    ]
    return float(np.mean(found))


@pytest.mark.parametrize(("n", "least"), [(15, 0.85), (20, 0.9), (40, 0.97), (80, 0.99)])
@pytest.mark.parametrize("accuracy", [0.93, 0.97])
def test_a_lane_swap_is_suspect(n, least, accuracy):
    power = share(lambda rng: plan_change(rng, n, 10, accuracy), accuracy)
    print(f"swap, accuracy {accuracy}, {n} labels: {power:.3f}")
    assert power >= least


@pytest.mark.parametrize("n", [15, 20, 40, 80])
@pytest.mark.parametrize("flipped", [0, 4, 5, 6])
def test_a_plan_change_is_not(n, flipped):
    false = share(lambda rng: plan_change(rng, n, flipped, 0.93), 0.93)
    print(f"{flipped} of 10 digits flipped, {n} labels: {false:.3f}")
    assert false <= (0.05 if n < 40 else 0.01)


def test_a_plan_change_is_not_even_when_asked_after_every_label():
    rng = np.random.default_rng(18)
    held = 0
    for _ in range(100):
        counts, ever = np.zeros((2, 2), np.int64), False
        plan, flips = rng.integers(0, 2, 10), rng.choice(10, 6, replace=False)
        for _ in range(80):
            digit = rng.integers(0, 10)
            predicted = plan[digit] ^ int(rng.random() > 0.93)
            counts[predicted, plan[digit] ^ int(digit in flips)] += 1
            ever |= suspect(counts, reference_accuracy=0.93, inputs_moved=False).holds
        held += ever
    assert held <= 15  # at most RISK = .1 in expectation, three standard errors above half of it


@pytest.mark.parametrize(
    ("names", "n", "least"),
    [
        ((1, 2, 3, 4, 5, 0), 20, 0.85),
        ((1, 2, 0, 3, 4, 5), 40, 0.95),
        ((1, 0, 2, 3, 4, 5), 80, 0.97),
    ],
)
def test_six_renamed_classes_are_suspect(names, n, least):
    assert share(lambda rng: renamed(rng, n, names, 0.93), 0.93) >= least


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("classes", [2, 6])
def test_labels_replaced_at_random_are_not(noise, classes):
    names = tuple(range(classes))
    for n in (20, 80):
        assert share(lambda rng, n=n: renamed(rng, n, names, 0.93, noise), 0.93) <= 0.02


def test_the_permutation_is_named():
    counts = np.array([[0, 9, 0], [1, 0, 8], [9, 0, 0]])
    found = suspect(counts, reference_accuracy=0.95, inputs_moved=False)
    assert found.holds and found.permutation == (1, 2, 0)
    assert found.accuracy == 0.0 and found.accuracy_permuted == pytest.approx(26 / 27)
    assert "0.00 as it is, 0.96 renamed, on 27 labels" in found.reason


def test_classes_never_predicted_keep_their_name():
    counts = np.zeros((5, 5), np.int64)
    counts[0, 1], counts[1, 0] = 12, 11
    assert suspect(counts, reference_accuracy=0.9, inputs_moved=False).permutation == (
        *(1, 0, 2, 3, 4),
    )


def test_of_equally_good_renamings_the_one_that_renames_least_is_named():
    counts = np.array([[1, 1, 0, 2], [1, 2, 2, 2], [0, 2, 0, 1], [1, 2, 0, 2]])
    found = suspect(counts, reference_accuracy=0.9, inputs_moved=False)
    assert found.permutation == (0, 2, 1, 3)


def test_moved_inputs_explain_more_than_labels():
    counts = np.array([[0, 20], [20, 0]])
    found = suspect(counts, reference_accuracy=0.95, inputs_moved=True)
    assert not found.holds and "inputs moved" in found.reason


def test_an_old_confusion_of_two_classes_is_no_news():
    counts = np.array([[60, 0, 0], [0, 3, 17], [0, 17, 3]])
    old = suspect(counts, reference_accuracy=0.68, inputs_moved=False)
    assert not old.holds and "no more errors" in old.reason
    assert suspect(counts, reference_accuracy=0.95, inputs_moved=False).holds


def test_too_few_labels_and_a_reference_near_chance_tell_nothing():
    few = suspect(
        np.array([[0, LEAST_LABELS - 1], [0, 0]]), reference_accuracy=0.95, inputs_moved=False
    )
    assert not few.holds and few.n == LEAST_LABELS - 1
    near = suspect(np.array([[0, 30], [30, 0]]), reference_accuracy=0.5, inputs_moved=False)
    assert not near.holds and "near chance" in near.reason
    assert not suspect(np.zeros((2, 2)), reference_accuracy=0.9, inputs_moved=False).holds


@pytest.mark.parametrize(
    "counts", [np.zeros((2, 3)), np.zeros((1, 1)), np.array([[0, -1], [0, 0]])]
)
def test_senseless_counts_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        suspect(counts, reference_accuracy=0.9, inputs_moved=False)


def test_an_accuracy_that_is_none_is_refused():
    with pytest.raises(ValueError, match="reference_accuracy"):
        suspect(np.zeros((2, 2)), reference_accuracy=1.2, inputs_moved=False)
