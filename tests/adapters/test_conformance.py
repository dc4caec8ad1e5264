"""What every recipe that learns must do, whatever its algorithm."""

import numpy as np
import pytest
import torch

from adapters.bake_off import RecipeResult, run_bake_off
from adapters.model_file import pack_model
from tests.adapters.lanes import plan_champion
from tests.adapters.test_bake_off import SUPPORT, request

LEARNING = ("reptile", "maml", "fine_tune", "scratch", "prototypes")

each_recipe = pytest.mark.parametrize("recipe", LEARNING)


def alone(recipe: str, **changes: object) -> RecipeResult:
    (result,) = run_bake_off(request(recipes=(recipe,), earlier={}, **changes))
    return result


@each_recipe
def test_the_same_request_gives_the_same_bits(recipe: str) -> None:
    one, two = alone(recipe), alone(recipe)
    assert one.model is not None and two.model is not None
    assert pack_model(one.model) == pack_model(two.model)
    assert np.array_equal(one.holdout_losses, two.holdout_losses)


@each_recipe
def test_the_champion_is_left_as_it_was(recipe: str) -> None:
    champion = plan_champion()
    before = {n: t.clone() for n, t in champion.module.state_dict().items()}
    alone(recipe, champion=champion)
    after = champion.module.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


@each_recipe
def test_the_lineage_names_the_support_and_nothing_judged_on(recipe: str) -> None:
    asked = request()
    model = alone(recipe).model
    assert model is not None
    assert np.isin(SUPPORT.keys, model.trained_on).all()
    assert not np.isin(asked.query.keys, model.trained_on).any()
    assert not np.isin(asked.holdout.keys, model.trained_on).any()


@each_recipe
def test_the_support_teaches_something(recipe: str) -> None:
    asked = request()
    (frozen,) = run_bake_off(request(recipes=("frozen",), earlier={}))
    learned = alone(recipe)
    assert learned.outcome == "ok"
    assert learned.model is not None
    assert learned.model.class_names == plan_champion().class_names
    assert len(learned.holdout_losses) == len(asked.holdout)
    assert learned.holdout_losses.mean() < frozen.holdout_losses.mean()
