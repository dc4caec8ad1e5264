"""Heads that grow: Snell's head by hand, new units beside trained ones, and the recipes of them."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters.bake_off import BakeOff, RecipeResult, choose, run_bake_off
from adapters.bake_off_codec import decode_request, encode_request
from adapters.examples import Examples
from adapters.feature_schema import Preprocessor
from adapters.grown_models import grown_model, grown_start
from adapters.meta_init import Start
from adapters.model_file import Architecture, Model, pack_model, unpack_model
from adapters.modules import initialise
from adapters.prototypes import (
    GrowthError,
    Units,
    class_prototypes,
    grown,
    new_units,
    prototype_head,
)
from adapters.recipes import encoded, target_of
from adapters.tasks import Batch
from tests.adapters.lanes import (
    KINDS,
    LANES,
    SCHEMA,
    line,
    line_init,
    parcels,
    plan_champion,
    plan_init,
    plans,
)

PLAN = plans()[30]
"""What the champion knows."""


def opened(n: int, seed: int, first_key: int) -> Examples:
    """Parcels of the champion's plan, but kind 0 goes to lane C, which never existed."""
    plain = parcels(PLAN, n, seed, first_key)
    kinds = plain.rows.numbers.argmax(axis=1)
    labels = tuple("C" if k == 0 else a for k, a in zip(kinds, plain.labels, strict=True))
    return Examples(plain.rows, labels, keys=plain.keys)


SUPPORT, QUERY, HOLDOUT = (opened(n, i, 10_000 * i) for i, n in ((1, 60), (2, 40), (3, 300)))
KNOWN = HOLDOUT.take([i for i, label in enumerate(HOLDOUT.labels) if label != "C"])
NEW = HOLDOUT.take([i for i, label in enumerate(HOLDOUT.labels) if label == "C"])
LEARNING = ("reptile", "maml", "fine_tune", "scratch", "prototypes")


def request(**changes: object) -> BakeOff:
    whole = BakeOff(
        ("frozen", *LEARNING),
        SUPPORT,
        QUERY,
        HOLDOUT,
        champion=plan_champion(),
        meta_init=plan_init(),
        new_classes=("C",),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


@cache
def everything() -> dict[str, RecipeResult]:
    return {result.name: result for result in run_bake_off(request())}


def batch_for(model: Model, support: Examples, names: tuple[str, ...] = ("C",)) -> Batch:
    target = target_of(support, model, None, None, names)
    return encoded(target, support, model.preprocessor, 0.0, 1.0)


class Users(nn.Module):
    """A user's network with an embedding; its head has no bias."""

    def __init__(self, inputs: int, classes: int = 2) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.body = nn.Linear(inputs, 12)
        self.head = nn.Linear(12, classes, bias=False)

    def embed(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(self.norm(x)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed(x))
        return out


class Headless(Users):
    """A user's network whose head is not linear."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs)
        self.head = nn.Sequential(nn.Linear(12, 2))  # type: ignore[assignment]


def users(kind: type[Users]) -> Model:
    architecture = Architecture(f"{__name__}:{kind.__name__}", {"inputs": KINDS})
    return Model(
        module=initialise(architecture, 0),
        architecture=architecture,
        schema=SCHEMA,
        preprocessor=Preprocessor.fit(SCHEMA, SUPPORT.rows),
        task_type="classification",
        class_names=LANES,
    )


# ---------------------------------------------------------------- the head by hand


def test_prototypes_are_mean_embeddings_and_their_head_ranks_by_distance() -> None:
    embedding = torch.tensor([[0.0, 2.0], [2.0, 2.0], [5.0, -1.0]])
    found = class_prototypes(embedding, torch.tensor([0, 0, 1]), 2)
    assert found.tolist() == [[1.0, 2.0], [5.0, -1.0]]
    weight, bias = prototype_head(found)
    assert weight.tolist() == [[2.0, 4.0], [10.0, -2.0]]
    assert bias.tolist() == [-5.0, -26.0]
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) * 4
    nearest = torch.cdist(points, found).argmin(1)
    assert torch.equal((points @ weight.T + bias).argmax(1), nearest)


def test_beside_prototype_units_a_new_unit_is_its_prototype() -> None:
    """Whatever is added to all trained logits alike, and on whatever scale they are."""
    rng = torch.Generator().manual_seed(1)
    targets = torch.arange(30) % 3
    embedding = torch.randn(30, 4, generator=rng) + 3 * torch.eye(4)[targets]
    weight, bias = prototype_head(class_prototypes(embedding, targets, 3))
    common, offset = torch.randn(4, generator=rng), 7.0
    trained = Units(0.3 * weight[:2] + common, 0.3 * bias[:2] + offset)
    new = new_units(trained, embedding, targets, 3)
    torch.testing.assert_close(new.weight, 0.3 * weight[2:] + common)
    torch.testing.assert_close(new.bias, 0.3 * bias[2:] + offset)


def test_with_one_known_class_at_hand_the_scale_is_that_of_gaussians() -> None:
    embedding = torch.tensor([[0.0], [2.0], [10.0], [12.0]])  # within-class variance 1
    new = new_units(
        Units(torch.zeros(2, 1), torch.zeros(2)), embedding, torch.tensor([0, 0, 2, 2]), 3
    )
    # tau = 1/2; weight 2 (11 - 1) / 2, bias -(121 - 1) / 2: even at the middle, 6.
    assert (new.weight.tolist(), new.bias.tolist()) == ([[10.0]], [-60.0])


def test_a_class_without_examples_is_refused() -> None:
    known = Units(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(GrowthError, match="no example of class number 3"):
        new_units(known, torch.randn(3, 3), torch.tensor([0, 1, 2]), 4)
    with pytest.raises(GrowthError, match="any known class"):
        new_units(known, torch.randn(2, 3), torch.tensor([2, 2]), 3)


# ---------------------------------------------------------------- models that grow


@pytest.mark.parametrize("make", [plan_champion, lambda: users(Users)])
def test_growing_leaves_the_model_and_its_decisions_between_known_classes(make: object) -> None:
    champion = make()  # type: ignore[operator]
    before = {n: t.clone() for n, t in champion.module.state_dict().items()}
    wider = grown_model(champion, (*LANES, "C"), batch_for(champion, SUPPORT))
    assert wider.class_names == (*LANES, "C")
    assert all(torch.equal(t, before[n]) for n, t in champion.module.state_dict().items())
    old, new = champion.predict(HOLDOUT.rows).outputs, wider.predict(HOLDOUT.rows).outputs
    assert new.shape == (len(HOLDOUT), 3)
    np.testing.assert_allclose(new[:, :2], old, atol=1e-5)
    assert np.array_equal(new[:, :2].argmax(1), old.argmax(1))


def test_a_users_module_grows_twice_without_nesting_and_travels() -> None:
    once = grown_model(users(Users), (*LANES, "C"), batch_for(users(Users), SUPPORT))
    twice = grown_model(once, (*LANES, "C", "D"), batch_for(once, with_d(SUPPORT), ("D",)))
    assert twice.architecture.path == "adapters.prototypes:GrownHead"
    assert twice.architecture.kwargs["path"] == f"{__name__}:Users"
    back = unpack_model(pack_model(twice))
    assert back.class_names == (*LANES, "C", "D")
    rows = HOLDOUT.rows
    assert np.array_equal(back.predict(rows).outputs, twice.predict(rows).outputs)


def with_d(examples: Examples) -> Examples:
    labels = ("D", "D", *examples.labels[2:])
    return Examples(examples.rows, labels, keys=examples.keys)


def test_a_module_without_a_linear_head_loses_and_says_why() -> None:
    (lost,) = run_bake_off(request(recipes=("prototypes",), champion=users(Headless)))
    assert lost.outcome == "error"
    assert "needs embed(x) and an nn.Linear named head" in lost.message


def test_a_grown_start_gives_new_units_the_mean_step_size() -> None:
    init = plan_init()
    start = init.starts["maml"]
    rows = {n: torch.arange(1.0, len(w) + 1) for n, w in start.weights.items()}
    sizes = {
        n: rows[n].view(-1, *[1] * (w.dim() - 1)).expand(w.shape) for n, w in start.weights.items()
    }
    batch = batch_for(plan_champion(), SUPPORT)
    per_row = Start("maml", start.weights, sizes, 1)
    _, module, found = grown_start(init, per_row, 3, batch)
    assert found["head.bias"].tolist() == [1.0, 2.0, 1.5]
    assert found["head.weight"].shape == dict(module.named_parameters())["head.weight"].shape
    assert torch.equal(found["layers.0.weight"], sizes["layers.0.weight"])
    same, _, untouched = grown_start(init, start, 2, batch)
    assert same == init.architecture
    assert untouched == start.step_sizes


def test_grown_is_refused_for_embeddings_that_are_no_vectors() -> None:
    class Pictures(Users):
        def embed(self, x: Tensor) -> Tensor:
            return super().embed(x).view(len(x), 3, 4)

    with pytest.raises(GrowthError, match=r"a head needs \(n, e\)"):
        grown(
            Pictures(KINDS),
            Architecture(f"{__name__}:Users", {"inputs": KINDS}),
            torch.zeros(3, KINDS),
            torch.tensor([0, 1, 2]),
            3,
        )


# ---------------------------------------------------------------- recipes


def test_every_recipe_that_learns_names_the_new_class_and_frozen_cannot() -> None:
    for name in LEARNING:
        result = everything()[name]
        assert (result.outcome, result.message) == ("ok", "")
        assert result.model is not None
        assert result.model.class_names == (*LANES, "C")
    frozen = plan_champion()
    assert frozen.losses(frozen.predict(NEW.rows), NEW.labels).mean() == 1.0


def test_prototypes_find_the_new_class_and_cost_the_known_ones_nothing_but_it() -> None:
    model, champion = everything()["prototypes"].model, plan_champion()
    assert model is not None
    recall = 1 - model.losses(model.predict(NEW.rows), NEW.labels).mean()
    lost = [m.losses(m.predict(KNOWN.rows), KNOWN.labels).mean() for m in (model, champion)]
    assert recall > 0.9
    assert lost[0] - lost[1] <= 0.02
    old, new = (m.predict(HOLDOUT.rows).outputs[:, :2] for m in (champion, model))
    np.testing.assert_allclose(new, old, atol=1e-5)


def test_the_same_request_gives_the_same_bits_and_the_champion_stays() -> None:
    champion = plan_champion()
    before = pack_model(champion)
    (again,) = run_bake_off(request(recipes=("prototypes",)))
    was = everything()["prototypes"].model
    assert again.model is not None and was is not None
    assert pack_model(again.model) == pack_model(was)
    assert pack_model(champion) == before
    assert np.isin(SUPPORT.keys, again.model.trained_on).all()
    assert not np.isin(HOLDOUT.keys, again.model.trained_on).any()


def test_without_new_classes_the_whole_head_is_made_anew() -> None:
    other = plans()[31]
    support, holdout = parcels(other, 24, 5, 50_000), parcels(other, 100, 6, 60_000)
    asked = request(
        recipes=("frozen", "prototypes"),
        support=support,
        query=support.take([]),
        holdout=holdout,
        new_classes=(),
    )
    frozen, made = run_bake_off(asked)
    assert made.model is not None
    assert made.model.class_names == LANES
    assert made.holdout_losses.mean() < frozen.holdout_losses.mean() - 0.1


def test_a_meta_init_of_interchangeable_slots_cannot_grow() -> None:
    slots = replace(plan_init(), class_names=(), slots=2)
    (lost,) = run_bake_off(request(recipes=("maml",), meta_init=slots))
    assert "run meta-train with the champion's classes" in lost.message


def test_a_new_class_without_support_loses_and_says_so() -> None:
    support = SUPPORT.take([i for i, label in enumerate(SUPPORT.labels) if label != "C"])
    for result in run_bake_off(
        request(recipes=("maml", "fine_tune", "prototypes"), support=support)
    ):
        assert result.message == "the support holds no example of class number 2"


def test_regression_has_no_prototypes() -> None:
    init = line_init()
    champion = Model(
        module=initialise(init.architecture, 0),
        architecture=init.architecture,
        schema=init.schema,
        preprocessor=init.preprocessor,
        task_type="regression",
        class_names=(),
    )
    support = line(1.0, 9, 0)
    none = support.take([])
    (lost,) = run_bake_off(BakeOff(("prototypes",), support, none, none, champion=champion))
    assert "a regression has none" in lost.message
    with pytest.raises(ValueError, match="a champion that names classes"):
        BakeOff(("frozen",), support, none, none, champion=champion, new_classes=("C",))


@pytest.mark.parametrize("names", [("A",), ("C", "C")])
def test_new_classes_are_new_and_named_once(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="only classes that it lacks"):
        request(new_classes=names)
    with pytest.raises(ValueError, match="a champion that names classes"):
        request(new_classes=("C",), champion=None)


def test_a_request_for_new_classes_travels_as_bytes() -> None:
    raw = encode_request(request(recipes=("prototypes",), prototype_steps=7))
    arrived = decode_request(raw)
    assert (arrived.new_classes, arrived.prototype_steps) == (("C",), 7)
    assert encode_request(arrived) == raw


# ---------------------------------------------------------------- the careful choice


def judged(name: str, losses: list[float]) -> RecipeResult:
    values = np.array(losses)
    return RecipeResult(name, name == "frozen", "ok", "", values, values, (), 0.0, None)


@pytest.mark.parametrize(
    ("best", "careful", "winner"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], "prototypes"),
        ([0, 0, 0, 0], [1, 0, 0, 0], "prototypes"),  # one standard error
        ([0, 0, 0, 0], [1, 1, 0, 0], "maml"),  # 1.4 of them
        ([0, 0, 1, 1], [1, 1, 0, 0], "prototypes"),
    ],
)
def test_the_careful_recipe_wins_unless_it_is_clearly_worse(
    best: list[float], careful: list[float], winner: str
) -> None:
    results = [judged("frozen", [1] * 4), judged("maml", best), judged("prototypes", careful)]
    assert choose(results, recommended="maml", careful="prototypes") == winner


def test_the_careful_recipe_does_not_beat_frozen() -> None:
    results = [judged("frozen", [0, 0]), judged("prototypes", [0, 0])]
    assert choose(results, recommended=None, careful="prototypes") == "frozen"
    assert choose(results[:1], recommended=None, careful="prototypes") == "frozen"
