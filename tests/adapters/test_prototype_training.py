"""Episodic training of an embedding, N-way evaluation, and turned images as classes."""

import numpy as np
import pytest
import torch
from torch import nn

from adapters.image_tasks import with_rotations
from adapters.meta_settings import MetaTrainingError
from adapters.model_file import Architecture
from adapters.modules import initialise
from adapters.n_way_evaluation import Answers, n_way_accuracies
from adapters.prototype_training import PrototypePlan, distance_logits, train_prototypes
from adapters.prototypes import GrowthError, with_prototype_head
from adapters.task_splits import LeakError, refuse_common
from adapters.tasks import Batch, NWayTasks, TaskSet
from tests.adapters.glyphs import SIDE, glyphs

SMALL = Architecture("adapters.networks:Conv4", {"outputs": 5, "side": SIDE, "filters": 12})
PLAN = PrototypePlan(steps=80, ways=10, queries=4, rate=3e-3)


def answers(module: nn.Module) -> Answers:
    def answer(support: Batch, query: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            seen, asked = module.embed(support.inputs), module.embed(query)
        return distance_logits(seen, support.targets, asked, 5).argmax(1)

    return answer


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    source = NWayTasks(glyphs(40, 12, seed=1), 10)
    return train_prototypes(initialise(SMALL, 0), source, PLAN).module


def test_unseen_glyphs_are_told_apart_better_than_before(trained: nn.Module) -> None:
    source = NWayTasks(glyphs(20, 12, seed=2), 5)
    contestants = {
        "untrained": answers(initialise(SMALL, 0).eval()),
        "pixels": lambda s, q: distance_logits(s.inputs, s.targets, q, 5).argmax(1),
        "trained": answers(trained),
    }
    found = n_way_accuracies(source, contestants, shots=1, queries=4, episodes=60, seed=0)
    means = {name: each.mean() for name, each in found.items()}
    assert means["trained"] > max(means["untrained"], means["pixels"]) + 0.1, means
    gaps = found["trained"] - found["pixels"]
    assert gaps.mean() > 3 * gaps.std() / len(gaps) ** 0.5


def test_an_answer_does_not_depend_on_the_other_queries(trained: nn.Module) -> None:
    batch = NWayTasks(glyphs(20, 12, seed=2), 5).sample(1, 5, 20, torch.Generator().manual_seed(3))
    together = trained.embed(batch.query.inputs[0])
    for row, one in zip(batch.query.inputs[0], together, strict=True):
        assert torch.allclose(trained.embed(row[None])[0], one, atol=1e-5)


def test_the_head_of_prototypes_answers_as_the_distances_do(trained: nn.Module) -> None:
    batch = NWayTasks(glyphs(20, 12, seed=4), 7).sample(1, 14, 21, torch.Generator().manual_seed(3))
    inputs, targets = batch.support.inputs[0], batch.support.targets[0]
    _, model = with_prototype_head(trained, SMALL, inputs, targets, 7)
    wanted = distance_logits(
        trained.embed(inputs), targets, trained.embed(batch.query.inputs[0]), 7
    ).argmax(1)
    assert torch.equal(model(batch.query.inputs[0]).argmax(1), wanted)


def test_training_repeats_bit_by_bit_and_leaves_the_module_as_it_was() -> None:
    source = NWayTasks(glyphs(12, 6, seed=1), 5)
    plan = PrototypePlan(steps=4, ways=5, queries=2)
    module = initialise(SMALL, 0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    once, again = (train_prototypes(module, source, plan).module for _ in range(2))
    for name, value in once.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert value.is_contiguous()
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert module.training


def test_the_best_look_at_validation_is_kept() -> None:
    scores = iter([0.2, 0.9, 0.1])
    seen: list[torch.Tensor] = []

    def validate(module: nn.Module) -> float:
        assert not module.training
        seen.append(module.blocks[0][0].weight.detach().clone())
        return next(scores)

    plan = PrototypePlan(steps=6, ways=5, queries=2, validate_every=2)
    found = train_prototypes(
        initialise(SMALL, 0), NWayTasks(glyphs(12, 6, seed=1), 5), plan, validate
    )
    assert found.validated == [(2, 0.2), (4, 0.9), (6, 0.1)] and found.steps == 6
    assert torch.equal(found.module.blocks[0][0].weight, seen[1])


def test_a_budget_of_no_time_trains_nothing_and_a_wild_rate_says_so() -> None:
    source = NWayTasks(glyphs(12, 6, seed=1), 5)
    nothing = PrototypePlan(steps=50, ways=5, queries=2, max_seconds=1e-9)
    assert train_prototypes(initialise(SMALL, 0), source, nothing).steps == 0
    broken = initialise(SMALL, 0)
    with torch.no_grad():
        broken.blocks[0][0].weight.fill_(float("nan"))
    with pytest.raises(MetaTrainingError, match="lower rate"):
        train_prototypes(broken, source, PrototypePlan(steps=3, ways=5, queries=2))
    with pytest.raises(GrowthError, match="embed"):
        train_prototypes(nn.Linear(SIDE * SIDE, 5), source, PLAN)
    with pytest.raises(ValueError, match="ways"):
        PrototypePlan(ways=1)


# ---------------------------------------------------------------- turned images


def test_each_class_becomes_four_whose_images_are_turned() -> None:
    classes = glyphs(3, 5, seed=1)
    turned = with_rotations(classes, SIDE)
    assert len(turned) == 12 and turned.names[:4] == tuple(
        f"glyph 0@{degrees}" for degrees in (0, 90, 180, 270)
    )
    original = classes.tasks[0].inputs.reshape(-1, SIDE, SIDE).numpy()
    for quarter in range(4):
        seen = turned.tasks[quarter].inputs.reshape(-1, SIDE, SIDE).numpy()
        assert np.array_equal(seen, np.rot90(original, quarter, (1, 2)))
        assert np.array_equal(turned.tasks[quarter].keys, classes.tasks[0].keys)
    with pytest.raises(ValueError, match="correct side"):
        with_rotations(classes, SIDE + 1)


def test_a_turned_copy_is_refused_on_the_other_side() -> None:
    classes = glyphs(8, 5, seed=1).tasks
    turned = with_rotations(TaskSet(classes[:4]), SIDE)
    refuse_common({"meta-train": turned, "meta-test": TaskSet(classes[4:])})
    with pytest.raises(LeakError, match=r"rows of \['glyph 3'\] in meta-test are in meta-train"):
        refuse_common({"meta-train": turned, "meta-test": TaskSet(classes[3:])})
    with pytest.raises(LeakError, match=r"\['glyph 4'\] are in a and b"):
        refuse_common({"a": TaskSet(classes[:5]), "b": TaskSet(classes[4:])})
