from itertools import count

import numpy as np
import pytest
import torch
from torch import nn

from adapters.joint import JointFit, JointSettings, train_jointly
from adapters.model_file import pack_model
from adapters.modules import MLP
from adapters.tasks import Batch
from adapters.training import MOST_HOLDOUT_LOSSES, FitSettings, fit_joint
from tests.adapters.lanes import KINDS, LANES, LINE, SCHEMA, line, parcels, plan_champion, plans


def test_a_champion_learns_its_plan() -> None:
    champion = plan_champion()
    fresh = parcels(plans()[30], 400, 77, 50_000)
    losses = champion.losses(champion.predict(fresh.rows), fresh.labels)
    assert losses.mean() < 0.05
    assert champion.class_names == LANES
    assert champion.trained_on.tolist() == list(range(900_000, 900_300))


def test_holdout_losses_are_of_rows_that_weights_did_not_see() -> None:
    info = plan_champion().info
    losses = info["holdout_losses"]
    assert isinstance(losses, list)
    assert len(losses) == info["held_out_rows"] == 60
    assert info["rows"] == 240
    assert info["holdout_loss"] == pytest.approx(np.mean(losses))
    assert len(losses) <= MOST_HOLDOUT_LOSSES


def test_groups_are_held_out_whole() -> None:
    # one input per group and random labels: only a leak could predict the held-out copies
    rng = np.random.default_rng(0)
    alone = parcels(plans()[0], 200, 1)
    twice = alone.take(np.repeat(np.arange(200), 5))
    labels = tuple(LANES[lane] for lane in rng.integers(0, 2, 200).repeat(5))
    noise = type(twice)(twice.rows, labels, keys=twice.keys)
    settings = FitSettings(training=JointSettings(most_epochs=30, patience=30))
    info = fit_joint(SCHEMA, noise, settings=settings).info
    loss = info["holdout_loss"]
    assert isinstance(loss, float)
    assert loss > 0.3


def test_same_seed_same_bits_and_the_random_state_is_left_alone() -> None:
    data = parcels(plans()[1], 120, 3)
    state = torch.random.get_rng_state()
    one, two, other = (pack_model(fit_joint(SCHEMA, data, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one == two
    assert one != other


def test_a_regression_champion_has_a_loss_scale_of_four_training_errors() -> None:
    data = line(2.0, 300, 4)
    model = fit_joint(LINE, data)
    assert model.task_type == "regression"
    errors = np.abs(model.predict(data.rows).values - data.values)
    assert errors.mean() < 2
    assert model.loss_scale == pytest.approx(4 * errors.mean(), rel=0.25)  # held-out rows differ


def test_what_cannot_be_fitted_is_refused() -> None:
    data = parcels(plans()[1], 30, 3)
    with pytest.raises(ValueError, match="at least two classes"):
        fit_joint(SCHEMA, data.take([i for i, x in enumerate(data.labels) if x == "A"]))
    with pytest.raises(ValueError, match="all of them named"):
        fit_joint(SCHEMA, data, class_names=("A", "C"))
    with pytest.raises(ValueError, match="1 different keys"):
        fit_joint(SCHEMA, data.take([0]))
    with pytest.raises(ValueError, match="held_out is 1"):
        FitSettings(held_out=1.0)


def test_joint_training_looks_now_and_then_and_begins_no_epoch_past_its_time() -> None:
    rows = Batch(torch.eye(KINDS), torch.arange(KINDS) % 2)
    looks: list[int] = []
    ticks = count()

    def judge(module: nn.Module) -> float:
        assert not module.training
        looks.append(next(ticks))
        return 1.0 / len(looks)

    def fit(settings: JointSettings) -> JointFit:
        looks.clear()
        module = MLP(KINDS, [3], 2)
        return train_jointly(
            module,
            rows,
            judge,
            "classification",
            settings,
            seed=0,
            clock=lambda: float(next(ticks)),
        )

    whole = fit(JointSettings(most_epochs=10, look_every=4))
    assert (whole.epochs, len(looks), whole.out_of_time) == (10, 3, False)
    cut = fit(JointSettings(most_epochs=10, look_every=4, most_seconds=3.0))
    assert (cut.epochs, len(looks), cut.out_of_time) == (3, 1, True)
    assert cut.held_out_loss == 1.0
