"""The loop: crashes change nothing, divergence is recorded, validation stops it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters.maml import MAML
from adapters.meta_learner import MetaLearner
from adapters.meta_loops import Checkpoint, MetaTrained, Surroundings, train
from adapters.meta_plan import Plan
from adapters.meta_settings import MetaTrainingError
from adapters.modules import MLP
from adapters.reptile import Reptile
from adapters.tasks import Batch, EpisodeBatch
from tests.adapters.test_meta_learners import EndlessLines

torch.set_num_threads(1)
PLAN = Plan(steps=40, tasks=4, support=5, query=5, rate=1e-2)
LEARNERS: tuple[tuple[MetaLearner, Plan], ...] = (
    (MAML(2, 0.1, learn_step_sizes=True), PLAN),
    (Reptile(2, 0.1, batch=5), replace(PLAN, rate=0.5)),
)
each_learner = pytest.mark.parametrize(("learner", "plan"), LEARNERS, ids=["maml", "reptile"])


def trained(learner: MetaLearner, plan: Plan, around: Surroundings | None = None) -> MetaTrained:
    torch.manual_seed(1)
    return train(learner, MLP(1, [8], 1), "regression", EndlessLines(), plan, around)


def same_bits(one: MetaTrained, two: MetaTrained) -> bool:
    return all(torch.equal(one.weights[n], two.weights[n]) for n in one.weights) and all(
        torch.equal(one.step_sizes[n], two.step_sizes[n]) for n in one.weights
    )


class CrashError(Exception):
    """The process died here."""


class BadAt(EndlessLines):
    """Gives episodes of NaN at the named draws, counted over its life."""

    def __init__(self, draws: set[int]) -> None:
        self.draws, self.count = draws, 0

    def sample(
        self, tasks: int, support: int, query: int, generator: torch.Generator
    ) -> EpisodeBatch:
        found = super().sample(tasks, support, query, generator)
        self.count += 1
        if self.count in self.draws:
            nothing = torch.full_like(found.query.targets, math.nan)
            bad = Batch(found.query.inputs, nothing)
            return EpisodeBatch(
                replace(found.support, targets=nothing[:, :support]),
                bad,
                found.support_keys,
                found.query_keys,
            )
        return found


@dataclass
class CrashingValidation:
    """Judges by the weights, and crashes at its n-th call."""

    at: int
    calls: int = 0

    def __call__(self, weights: Mapping[str, Tensor], sizes: Mapping[str, Tensor]) -> float:
        self.calls += 1
        if self.calls == self.at:
            raise CrashError
        return float(weights["head.bias"].abs().sum())


@each_learner
def test_a_crash_anywhere_changes_no_bit(learner: MetaLearner, plan: Plan, tmp_path: Path) -> None:
    watched = replace(plan, validate_every=1, patience=100)
    whole = trained(learner, watched, Surroundings(validate=CrashingValidation(0)))
    checkpoint = Checkpoint(tmp_path / "state", "this", every=3)
    for at in (1, 2, 5, 20, 40):  # steps after the last life's checkpoint
        with pytest.raises(CrashError):
            trained(
                learner,
                watched,
                Surroundings(validate=CrashingValidation(at), checkpoint=checkpoint),
            )
        if at == 20:
            break
    resumed = trained(
        learner, watched, Surroundings(validate=CrashingValidation(0), checkpoint=checkpoint)
    )
    assert same_bits(whole, resumed)
    assert resumed.validations == whole.validations
    assert resumed.steps == 40
    again = trained(
        learner, watched, Surroundings(validate=CrashingValidation(1), checkpoint=checkpoint)
    )
    assert same_bits(whole, again)  # finished: not even one more look


def test_a_foreign_or_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    learner, plan = LEARNERS[0]
    path = tmp_path / "deep" / "state"
    trained(learner, plan, Surroundings(checkpoint=Checkpoint(path, "this")))
    with pytest.raises(MetaTrainingError, match="of a training with other data"):
        trained(learner, plan, Surroundings(checkpoint=Checkpoint(path, "that")))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(MetaTrainingError, match="delete it to start anew"):
        trained(learner, plan, Surroundings(checkpoint=Checkpoint(path, "this")))


def test_a_checkpoint_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    learner, plan = LEARNERS[0]
    folder = tmp_path / "file"
    folder.write_text("")
    with pytest.raises(MetaTrainingError, match=r"checkpoint .*file/state cannot be"):
        trained(learner, plan, Surroundings(checkpoint=Checkpoint(folder / "state", "this")))
    (tmp_path / "state").mkdir()
    with pytest.raises(MetaTrainingError, match=r"cannot be read .*another checkpoint folder"):
        trained(learner, plan, Surroundings(checkpoint=Checkpoint(tmp_path / "state", "this")))
    (tmp_path / "new.partial").mkdir()
    with pytest.raises(MetaTrainingError, match=r"cannot be written .*make room"):
        trained(learner, plan, Surroundings(checkpoint=Checkpoint(tmp_path / "new", "this")))


@each_learner
def test_a_bad_step_is_skipped_and_counted(learner: MetaLearner, plan: Plan) -> None:
    module = MLP(1, [8], 1)
    good = train(learner, module, "regression", BadAt(set()), plan)
    bad = train(learner, module, "regression", BadAt({3, 4, 17}), plan)
    assert (good.skipped, bad.skipped, bad.rolled_back) == (0, 3, 0)
    assert not same_bits(good, bad)
    all_but_one = train(learner, module, "regression", BadAt({40}), plan)
    before_the_last = train(
        learner, module, "regression", BadAt({40}), replace(plan, max_gradient_norm=1e6)
    )
    assert same_bits(all_but_one, before_the_last)


@each_learner
def test_a_run_of_bad_steps_rolls_back_and_no_progress_since_is_an_error(
    learner: MetaLearner, plan: Plan
) -> None:
    longer = replace(plan, steps=100)
    mended = train(learner, MLP(1, [8], 1), "regression", BadAt(set(range(60, 80))), longer)
    assert (mended.skipped, mended.rolled_back, mended.steps) == (20, 1, 100)
    with pytest.raises(MetaTrainingError, match="no finite loss for 20 meta-steps; lower step_siz"):
        train(learner, MLP(1, [8], 1), "regression", BadAt(set(range(60, 101))), longer)
    with pytest.raises(MetaTrainingError, match="no finite loss"):
        train(learner, MLP(1, [8], 1), "regression", BadAt(set(range(21))), longer)


@each_learner
def test_validation_stops_and_keeps_the_best(learner: MetaLearner, plan: Plan) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    seen: list[Mapping[str, Tensor]] = []

    def scripted(weights: Mapping[str, Tensor], sizes: Mapping[str, Tensor]) -> float:
        seen.append(weights)
        return next(losses)

    found = trained(
        learner, replace(plan, validate_every=5, patience=3), Surroundings(validate=scripted)
    )
    assert found.stopped_early
    assert found.validations == ((5, 3.0), (10, 1.0), (15, 2.0), (20, 2.0), (25, 2.0))
    assert all(torch.equal(found.weights[name], seen[1][name]) for name in found.weights)
    with pytest.raises(ValueError, match="without a validate function"):
        trained(learner, replace(plan, validate_every=5))


def test_a_long_gradient_is_shortened() -> None:
    learner = Reptile(2, 0.1, batch=5)
    plan = replace(PLAN, steps=1, rate=1.0, max_gradient_norm=1e-3)
    torch.manual_seed(1)
    before = {n: p.detach().clone() for n, p in MLP(1, [8], 1).named_parameters()}
    after = trained(learner, plan).weights
    moved = torch.cat([(after[n] - before[n]).flatten() for n in before]).norm().item()
    assert moved == pytest.approx(1e-3, rel=1e-2)
