import copy
from dataclasses import replace
from functools import cache
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapters.bake_off import BakeOff, RecipeResult, choose, run_bake_off
from adapters.bake_off_codec import (
    BakeOffCodecError,
    decode_request,
    decode_results,
    encode_request,
    encode_results,
    model_digests,
)
from adapters.examples import Examples
from adapters.feature_schema import Preprocessor, Rows
from adapters.model_file import Architecture, Model, ModelFileError, model_digest, pack_model
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

NEW = plans()[31]
USUAL = ("frozen", "recalled", "reptile", "maml", "fine_tune", "scratch")
SUPPORT = parcels(NEW, 12, 1, 10_000)
QUERY = parcels(NEW, 60, 2, 20_000)
HOLDOUT = parcels(NEW, 100, 3, 30_000)
NONE = Examples(Rows(np.empty((0, KINDS))))


class Normed(nn.Module):
    """A user's network: batch norm, dropout, no embedding."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(inputs, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.drop(self.norm(x)))
        return out


class Brittle(Normed):
    """A user's network that cannot be trained."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise KeyError("no gradients here")
        return super().forward(x)


def users(kind: type[Normed]) -> Model:
    torch.manual_seed(0)
    return Model(
        module=kind(KINDS),
        architecture=Architecture(f"{__name__}:{kind.__name__}", {"inputs": KINDS}),
        schema=SCHEMA,
        preprocessor=Preprocessor.fit(SCHEMA, SUPPORT.rows),
        task_type="classification",
        class_names=LANES,
    )


def request(**changes: object) -> BakeOff:
    whole = BakeOff(
        USUAL,
        SUPPORT,
        QUERY,
        HOLDOUT,
        champion=plan_champion(),
        earlier={"3": plan_champion()},
        meta_init=plan_init(),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


@cache
def everything() -> tuple[RecipeResult, ...]:
    return run_bake_off(request())


def named(results: tuple[RecipeResult, ...], name: str) -> RecipeResult:
    return next(result for result in results if result.name == name)


def test_every_recipe_answers_in_order() -> None:
    results = everything()
    assert [result.name for result in results] == [
        *("frozen", "recalled:3", "reptile", "maml", "fine_tune", "scratch"),
    ]
    for result in results:
        assert (result.outcome, result.message) == ("ok", "")
        assert result.query_losses.shape == (60,)
        assert result.holdout_losses.shape == (100,)
        assert result.zero_step == (result.name in {"frozen", "recalled:3"})
        assert (result.model is None) == result.zero_step
        assert bool(result.curve) != result.zero_step


def test_a_few_steps_from_the_meta_init_beat_the_frozen_champion() -> None:
    frozen, maml = (named(everything(), name) for name in ("frozen", "maml"))
    assert maml.holdout_losses.mean() < 0.2
    assert frozen.holdout_losses.mean() > 0.3
    assert choose(everything(), recommended="maml") not in {"frozen", "recalled:3"}


def test_the_curve_starts_at_the_start_and_ends_at_the_candidate() -> None:
    for result in everything():
        if result.curve:
            steps = [at for at, _ in result.curve]
            assert steps[0] == 0
            assert steps == sorted(set(steps))
            assert result.curve[-1][1] == result.query_loss
    fine_tune, frozen = (named(everything(), name) for name in ("fine_tune", "frozen"))
    assert fine_tune.curve[0][1] == frozen.query_loss


def test_the_same_request_gives_the_same_bits() -> None:
    ticks = count()
    again = run_bake_off(request(), clock=lambda: float(next(ticks)))
    assert encode_results(tuple(replace(r, seconds=0.0) for r in again)) == encode_results(
        tuple(replace(r, seconds=0.0) for r in everything())
    )
    assert all(result.seconds > 0 for result in again)
    other = run_bake_off(request(recipes=("scratch",), seed=1))
    model, was = other[0].model, named(everything(), "scratch").model
    assert model is not None
    assert was is not None
    assert pack_model(model) != pack_model(was)


def test_candidates_carry_lineage_classes_and_scale() -> None:
    champion, init = plan_champion(), plan_init()
    before = {
        "maml": init.trained_on,
        "reptile": init.trained_on,
        "fine_tune": champion.trained_on,
        "scratch": np.empty(0, np.uint64),
    }
    for name, keys in before.items():
        model = named(everything(), name).model
        assert model is not None
        assert model.trained_on.tolist() == sorted({*keys.tolist(), *SUPPORT.keys.tolist()})
        assert model.class_names == LANES
        assert model.loss_scale == champion.loss_scale
        assert model.info["recipe"] == name


def test_adapting_leaves_a_users_champion_as_it_was() -> None:
    champion = users(Normed)
    before = copy.deepcopy(champion.module.state_dict())
    (result,) = run_bake_off(request(recipes=("fine_tune",), champion=champion))
    assert result.outcome == "ok"
    assert result.model is not None
    after = result.model.module.state_dict()
    assert not torch.equal(after["out.weight"], before["out.weight"])
    assert torch.equal(after["norm.running_mean"], before["norm.running_mean"])
    for name, value in champion.module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_diverging_recipe_loses_and_is_recorded() -> None:
    start = plan_init().starts["maml"]
    wild = {name: size * 1e25 for name, size in start.step_sizes.items()}
    init = replace(
        plan_init(), starts={**plan_init().starts, "maml": replace(start, step_sizes=wild, steps=9)}
    )
    results = run_bake_off(request(recipes=("frozen", "maml"), meta_init=init))
    lost = results[1]
    assert lost.outcome == "diverged"
    assert "not finite after" in lost.message
    assert lost.model is None
    assert lost.query_loss == float("inf")
    assert choose(results, recommended="maml") == "frozen"


def test_a_recipe_that_raises_loses_and_says_what() -> None:
    results = run_bake_off(request(recipes=("frozen", "fine_tune"), champion=users(Brittle)))
    assert [result.outcome for result in results] == ["ok", "error"]
    assert results[1].message == "KeyError: 'no gradients here'"


def test_what_is_missing_is_said() -> None:
    lonely = request(
        recipes=("frozen", "reptile", "fine_tune", "scratch"),
        champion=None,
        meta_init=None,
        schema=SCHEMA,
    )
    frozen, reptile, fine_tune, scratch = run_bake_off(lonely)
    assert frozen.message == "there is no champion"
    assert "run meta-train" in reptile.message
    assert fine_tune.message == "there is no champion to fine-tune"
    assert scratch.outcome == "ok"
    assert scratch.model is not None
    assert scratch.model.class_names == LANES
    with pytest.raises(ValueError, match="pass schema"):
        run_bake_off(replace(lonely, schema=None))


def test_a_meta_init_of_other_classes_or_features_is_not_used() -> None:
    other = replace(plan_init(), class_names=("B", "A"))
    (result,) = run_bake_off(request(recipes=("maml",), meta_init=other))
    assert "in that order" in result.message
    (result,) = run_bake_off(request(recipes=("maml",), meta_init=line_init()))
    assert "another schema" in result.message
    only = replace(plan_init(), starts={"maml": plan_init().starts["maml"]}, recommended="maml")
    (result,) = run_bake_off(request(recipes=("reptile",), meta_init=only))
    assert "no reptile start" in result.message


def test_labels_of_unknown_classes_are_dropped_and_counted() -> None:
    labels = ("C", "C", *SUPPORT.labels[2:])
    mixed = Examples(SUPPORT.rows, labels, keys=SUPPORT.keys)
    maml, frozen = run_bake_off(request(recipes=("maml", "frozen"), support=mixed))
    assert maml.outcome == "ok"
    assert maml.message == "dropped 2 of 12 support labels outside the classes ['A', 'B']"
    assert frozen.message == ""
    assert maml.model is not None
    assert not set(SUPPORT.keys[:2].tolist()) & set(maml.model.trained_on.tolist())
    (nothing,) = run_bake_off(
        request(recipes=("maml",), support=Examples(SUPPORT.rows, ("C",) * 12, keys=SUPPORT.keys))
    )
    assert nothing.outcome == "error"
    assert "dropped 12 of 12" in nothing.message


def test_without_support_only_zero_step_recipes_stand() -> None:
    results = run_bake_off(request(support=NONE))
    assert [result.outcome for result in results] == ["ok"] * 2 + ["error"] * 4
    assert named(results, "maml").message == "maml needs support"


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("query", "3 of 3 query examples share 3 keys with support"),
        ("holdout", "3 of 3 holdout examples share 3 keys with support"),
    ],
)
def test_keys_in_support_are_refused(split: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request(**{split: SUPPORT.take([0, 1, 2])})


def test_keys_in_query_and_holdout_are_refused() -> None:
    with pytest.raises(ValueError, match="2 of 2 holdout examples share 1 keys with query"):
        request(holdout=QUERY.take([4, 4]))


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="recipes is"):
        request(recipes=("maml", "magic"))
    with pytest.raises(ValueError, match="recipes is"):
        request(recipes=("maml", "maml"))
    with pytest.raises(ValueError, match="scratch_steps is 0"):
        request(scratch_steps=0)


def result(name: str, losses: list[float], outcome: str = "ok") -> RecipeResult:
    values = np.array(losses)
    assert outcome in {"ok", "error", "diverged"}
    return RecipeResult(
        name,
        name.startswith(("frozen", "recalled")),
        "ok" if outcome == "ok" else "error",
        "",
        values,
        values,
        (),
        0.0,
        None,
    )


@pytest.mark.parametrize(
    ("losses", "recommended", "winner"),
    [
        ({"scratch": 0.1, "maml": 0.2, "frozen": 0.3}, "maml", "scratch"),
        ({"scratch": 0.1, "maml": 0.1, "recalled:2": 0.1, "frozen": 0.1}, "maml", "frozen"),
        ({"scratch": 0.1, "maml": 0.1, "recalled:2": 0.1, "frozen": 0.2}, "maml", "recalled:2"),
        ({"reptile": 0.1, "maml": 0.1, "frozen": 0.2}, "maml", "maml"),
        ({"scratch": 0.1, "fine_tune": 0.1, "maml": 0.3}, "maml", "fine_tune"),
        ({"recalled:9": 0.1, "recalled:2": 0.1}, None, "recalled:9"),
    ],
)
def test_the_least_loss_wins_and_ties_have_an_order(
    losses: dict[str, float], recommended: str | None, winner: str
) -> None:
    results = [result(name, [loss]) for name, loss in losses.items()]
    assert choose(results, recommended=recommended) == winner


def test_without_query_the_recommended_recipe_wins_if_it_is_ok() -> None:
    frozen, maml = result("frozen", []), result("maml", [])
    assert choose([frozen, maml], recommended="maml") == "maml"
    assert choose([frozen, maml], recommended=None) == "frozen"
    lost = result("maml", [], "error")
    assert choose([frozen, lost], recommended="maml") == "frozen"
    assert choose([result("frozen", [], "error"), lost], recommended="maml") == "frozen"


def test_an_announced_task_has_no_query_and_no_curve() -> None:
    results = run_bake_off(request(query=NONE, holdout=NONE))
    assert all(r.outcome == "ok" and not len(r.query_losses) and not r.curve for r in results)
    assert choose(results, recommended=plan_init().recommended) == plan_init().recommended


def test_a_bake_off_travels_as_bytes() -> None:
    sent = request(seed=5, schema=SCHEMA)
    raw = encode_request(sent)
    arrived = decode_request(raw)
    assert encode_request(arrived) == raw
    one, two = (
        encode_results(tuple(replace(r, seconds=0.0) for r in run_bake_off(each)))
        for each in (sent, arrived)
    )
    assert one == two
    back = decode_results(one)
    assert encode_results(back) == one
    assert [r.name for r in back] == [r.name for r in everything()]


def test_results_that_are_kept_name_their_models_by_digest() -> None:
    results = run_bake_off(request(seed=5, schema=SCHEMA))
    shelf: dict[str, Model] = {}

    def keep(model: Model) -> str:
        digest = model_digest(model)
        shelf[digest] = model
        return digest

    whole, kept = encode_results(results), encode_results(results, keep)
    learned = [r.model for r in results if r.model is not None]
    assert model_digests(kept) == [model_digest(model) for model in learned]
    assert len(shelf) == len(learned) > 2
    assert model_digests(whole) == []
    assert len(whole) > 5 * len(kept)
    assert encode_results(decode_results(kept, shelf.__getitem__)) == whole
    assert encode_results(decode_results(whole)) == whole, "as earlier releases kept them"
    with pytest.raises(BakeOffCodecError, match=r"names its model by the digest sha256:.*: pass"):
        decode_results(kept)


def test_a_regression_request_travels_too() -> None:
    support = line(1.0, 5, 0)
    sent = BakeOff(("maml",), support, support.take([]), line(1.0, 5, 1, 99), meta_init=line_init())
    arrived = decode_request(encode_request(sent))
    assert np.array_equal(arrived.support.values, support.values)
    assert run_bake_off(arrived)[0].outcome == "ok"


def test_bytes_that_are_no_bake_off_are_refused() -> None:
    raw = encode_request(request())
    with pytest.raises(BakeOffCodecError, match="both sides must run one version"):
        decode_request(raw[:50])
    with pytest.raises(BakeOffCodecError):
        decode_results(raw)
    at = raw.index(b"metadrift-pack-1") + 4_000
    damaged = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
    with pytest.raises(ModelFileError):
        decode_request(damaged)


def test_examples_must_fit_together() -> None:
    with pytest.raises(ValueError, match="one label"):
        Examples(SUPPORT.rows, SUPPORT.labels[:3], keys=SUPPORT.keys)
    with pytest.raises(ValueError, match="12 rows with 11"):
        Examples(SUPPORT.rows, SUPPORT.labels, keys=SUPPORT.keys[:11])
    with pytest.raises(ValueError, match="NaN"):
        Examples(Rows(np.zeros((1, 1))), values=np.array([np.nan]), keys=np.ones(1, np.uint64))
