"""What every meta-learning algorithm must do, and that its gradient is the right one."""

import copy
import gc
import math
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from adapters.anil import ANIL
from adapters.fomaml import FOMAML
from adapters.inner_loop import TaskLoss, trajectory, weights_of, with_weights
from adapters.joint_pretraining import JointPretraining
from adapters.maml import MAML
from adapters.meta_init import ALGORITHMS
from adapters.meta_learner import MetaLearner, MetaParameters, pooled
from adapters.meta_loops import train
from adapters.meta_plan import Plan
from adapters.meta_sgd import MetaSGD
from adapters.model_file import TaskType
from adapters.modules import MLP
from adapters.networks import Conv4, NormalisedMLP
from adapters.reptile import Reptile
from adapters.tasks import Batch, EpisodeBatch, Keys
from tests.adapters import slow_meta
from tests.adapters.slow_meta import TwoLayers

torch.set_num_threads(1)
NO_KEYS: Keys = np.zeros(0, dtype=np.uint64)
D, C, STEPS, SIZE = 4, 3, 3, 0.3

LEARNERS: dict[str, MetaLearner] = {
    "maml": MAML(STEPS, SIZE),
    "maml, learned step sizes": MAML(STEPS, SIZE, learn_step_sizes=True),
    "fomaml": FOMAML(STEPS, SIZE),
    "anil": ANIL(STEPS, SIZE),
    "meta-sgd": MetaSGD(SIZE, inner_steps=2),
    "reptile": Reptile(STEPS, SIZE, batch=100),
    "reptile, minibatches": Reptile(STEPS, SIZE, batch=5),
    "joint": JointPretraining(SIZE),
}
SECOND_ORDER = ("maml", "maml, learned step sizes", "anil", "meta-sgd")
MODULES: dict[str, Callable[[int], nn.Module]] = {
    "MLP": lambda outputs: MLP(D, [5], outputs),
    "batch norm": lambda outputs: TwoLayers(D, 5, outputs),
}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS.keys())
each_module = pytest.mark.parametrize("module_name", MODULES)
each_task_type = pytest.mark.parametrize("task_type", ["classification", "regression"])


def module_of(name: str, task_type: TaskType, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return MODULES[name](C if task_type == "classification" else 1).to(dtype)


def episodes(
    tasks: int, task_type: TaskType, n: int = 6, dtype: torch.dtype = torch.float64
) -> EpisodeBatch:
    generator = torch.Generator().manual_seed(3)

    def draw() -> Batch:
        inputs = torch.randn(tasks, n, D, generator=generator, dtype=dtype)
        if task_type == "regression":
            return Batch(inputs, torch.randn(tasks, n, generator=generator, dtype=dtype))
        return Batch(inputs, torch.randint(C, (tasks, n), generator=generator))

    return EpisodeBatch(draw(), draw(), NO_KEYS, NO_KEYS)


def started(learner: MetaLearner, module: nn.Module) -> MetaParameters:
    return learner.start(weights_of(module), torch.Generator().manual_seed(5))


def gradients(
    learner: MetaLearner,
    module: nn.Module,
    task_type: TaskType,
    parameters: MetaParameters,
    batch: EpisodeBatch,
) -> tuple[float, list[Tensor]]:
    value, found = learner.gradients(
        TaskLoss.of(module, task_type), parameters, batch, torch.Generator().manual_seed(7)
    )
    return value.item(), found


def test_every_algorithm_is_here() -> None:
    assert {learner.algorithm for learner in LEARNERS.values()} == set(ALGORITHMS)


@each_module
@each_task_type
@pytest.mark.parametrize("name", [*SECOND_ORDER, "joint"])
def test_the_gradient_is_the_finite_difference(
    name: str, module_name: str, task_type: TaskType
) -> None:
    learner, module = LEARNERS[name], module_of(module_name, task_type)
    parameters, batch = started(learner, module), episodes(2, task_type)
    _, found = gradients(learner, module, task_type, parameters, batch)
    h = 1e-6
    for leaf, gradient in zip(parameters.leaves, found, strict=True):
        for position in {0, leaf.numel() - 1}:
            flat = leaf.detach().view(-1)  # shares the leaf's memory
            was = flat[position].item()
            flat[position] = was + h
            above, _ = gradients(learner, module, task_type, parameters, batch)
            flat[position] = was - h
            below, _ = gradients(learner, module, task_type, parameters, batch)
            flat[position] = was
            difference = (above - below) / (2 * h)
            assert gradient.view(-1)[position].item() == pytest.approx(difference, 1e-5, 1e-8)


@each_module
@each_task_type
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_gradients_equal_a_loop_over_tasks(
    name: str, module_name: str, task_type: TaskType
) -> None:
    learner, module = LEARNERS[name], module_of(module_name, task_type)
    parameters, batch = started(learner, module), episodes(3, task_type)
    names = {n for n in parameters.weights if name != "anil" or n.startswith("head.")}
    value, found = gradients(learner, module, task_type, parameters, batch)
    expected, slow = slow_meta.second_order(
        module, parameters.weights, parameters.step_sizes, batch, learner.inner_steps, names
    )
    assert value == pytest.approx(expected, 1e-12)
    for mine, theirs in zip(found, slow, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@each_module
@each_task_type
def test_first_order_gradients_equal_a_loop_over_tasks(
    module_name: str, task_type: TaskType
) -> None:
    learner, module = LEARNERS["fomaml"], module_of(module_name, task_type)
    parameters, batch = started(learner, module), episodes(3, task_type)
    value, found = gradients(learner, module, task_type, parameters, batch)
    expected, slow = slow_meta.first_order(
        module, parameters.weights, parameters.step_sizes, batch, STEPS
    )
    assert value == pytest.approx(expected, 1e-12)
    for mine, theirs in zip(found, slow, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@each_module
@each_task_type
def test_reptile_moves_to_the_mean_of_a_loop_over_tasks(
    module_name: str, task_type: TaskType
) -> None:
    learner, module = LEARNERS["reptile"], module_of(module_name, task_type)
    parameters, batch = started(learner, module), episodes(3, task_type)
    _, found = gradients(learner, module, task_type, parameters, batch)
    together = pooled(batch)
    for position, name in enumerate(parameters.weights):
        ends = [
            slow_meta.adapted(
                module,
                parameters.weights,
                parameters.step_sizes,
                Batch(together.inputs[t], together.targets[t]),
                STEPS,
                set(parameters.weights),
                second_order=False,
            )[name]
            for t in range(3)
        ]
        moved = parameters.weights[name] - torch.stack(ends).mean(0)
        torch.testing.assert_close(found[position], moved, rtol=1e-9, atol=1e-12)


class Flat(TaskLoss):
    """A loss that is linear in the parameters of a linear model: no curvature at all."""

    def __call__(self, weights, batch, support=None):  # type: ignore[no-untyped-def]
        return (self.forward(weights, batch.inputs)[..., 0] * batch.targets).mean(1)


def test_without_curvature_first_order_is_second_order() -> None:
    module, batch = MLP(D, [], 1).double(), episodes(3, "regression")
    loss = Flat(TaskLoss.of(module, "regression").forward, "regression")
    found = [
        learner.gradients(loss, started(learner, module), batch, torch.Generator())
        for learner in (MAML(STEPS, SIZE), FOMAML(STEPS, SIZE), MAML(1, SIZE))
    ]
    for first, second in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)
    assert found[0][0].item() != found[2][0].item()  # the steps did move


def test_with_curvature_first_order_is_not_second_order() -> None:
    module, batch = module_of("MLP", "classification"), episodes(3, "classification")
    second, first = (
        gradients(learner, module, "classification", started(learner, module), batch)
        for learner in (MAML(STEPS, SIZE), FOMAML(STEPS, SIZE))
    )
    assert second[0] == pytest.approx(first[0], 1e-12)
    assert not torch.allclose(second[1][0], first[1][0], rtol=1e-3)


def test_reptile_with_one_full_step_is_joint_training() -> None:
    module, batch = module_of("MLP", "classification"), episodes(3, "classification")
    joint, reptile = JointPretraining(), Reptile(1, 0.1, batch=100)
    _, slope = gradients(joint, module, "classification", started(joint, module), batch)
    _, move = gradients(reptile, module, "classification", started(reptile, module), batch)
    for g, m in zip(slope, move, strict=True):
        torch.testing.assert_close(m, 0.1 * g, rtol=1e-9, atol=1e-12)


def test_anil_adapts_the_head_alone_and_trains_everything() -> None:
    learner, module = ANIL(STEPS, SIZE), module_of("MLP", "classification")
    parameters = started(learner, module)
    assert {name for name, size in parameters.step_sizes.items() if size} == {
        "head.weight",
        "head.bias",
    }
    _, found = gradients(
        learner, module, "classification", parameters, episodes(2, "classification")
    )
    assert all(bool(gradient.abs().max() > 0) for gradient in found)
    with pytest.raises(ValueError, match=r"ANIL adapts the part 'head'.*\['0'\]"):
        started(learner, nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("task_type", ["classification", "regression"])
def test_anil_runs_the_body_once_and_comes_to_the_same_gradient(task_type: TaskType) -> None:
    learner, module = ANIL(STEPS, SIZE), module_of("MLP", task_type)
    parameters, batch = started(learner, module), episodes(3, task_type)
    whole = TaskLoss.of(module, task_type)
    assert whole.body is not None
    runs: list[int] = []

    def counted(weights: Mapping[str, Tensor], inputs: Tensor, support: object = None) -> Tensor:
        runs.append(inputs.shape[1])
        assert whole.body is not None
        return whole.body(weights, inputs)

    quick = replace(whole, body=counted)
    slow = replace(whole, body=None, head=None)
    found, expected = (
        learner.gradients(loss, parameters, batch, torch.Generator()) for loss in (quick, slow)
    )
    assert runs == [batch.support.inputs.shape[1], batch.query.inputs.shape[1]]
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0)
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_meta_sgd_draws_its_step_sizes_in_their_range() -> None:
    module = MLP(30, [30], 2)
    one, two = (started(MetaSGD(0.2), module).step_sizes["layers.0.weight"] for _ in range(2))
    assert torch.equal(one, two)
    assert 0.01 <= one.min() < 0.02 < 0.19 < one.max() <= 0.2


@each_learner
@each_module
@each_task_type
def test_a_batch_averages_over_its_tasks(
    learner: MetaLearner, module_name: str, task_type: TaskType
) -> None:
    module, batch = module_of(module_name, task_type), episodes(4, task_type)
    parameters = started(learner, module)
    value, found = gradients(learner, module, task_type, parameters, batch)
    halves = [
        gradients(learner, module, task_type, parameters, batch.of_tasks(part, "cpu"))
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert value == pytest.approx((halves[0][0] + halves[1][0]) / 2, 1e-12)
    for whole, a, b in zip(found, halves[0][1], halves[1][1], strict=True):
        torch.testing.assert_close(whole, (a + b) / 2, rtol=1e-9, atol=1e-12)


@each_learner
@each_module
def test_nothing_of_the_source_changes(learner: MetaLearner, module_name: str) -> None:
    module = module_of(module_name, "classification").train()
    before = copy.deepcopy(module.state_dict())
    parameters = started(learner, module)
    at_start = {n: v.detach().clone() for n, v in parameters.weights.items()}
    batch = episodes(2, "classification")
    gradients(learner, module, "classification", parameters, batch)
    support = Batch(batch.support.inputs[0], batch.support.targets[0])
    path = trajectory(
        module,
        "classification",
        parameters.weights,
        parameters.step_sizes,
        support,
        steps=2,
        at={0, 2},
    )
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(torch.equal(at_start[n], value) for n, value in parameters.weights.items())
    assert not torch.equal(path[1][1]["head.weight"], path[0][1]["head.weight"])


class EndlessLines:
    """Tasks ``y = a x + b``, without end; a source that holds no rows."""

    most = 10**9

    def sample(
        self, tasks: int, support: int, query: int, generator: torch.Generator
    ) -> EpisodeBatch:
        x = torch.rand(tasks, support + query, 1, generator=generator) * 2 - 1
        a, b = torch.randn(2, tasks, 1, generator=generator)
        y = a * x[..., 0] + b
        return EpisodeBatch(
            Batch(x[:, :support], y[:, :support]),
            Batch(x[:, support:], y[:, support:]),
            NO_KEYS,
            NO_KEYS,
        )


@each_learner
def test_training_is_repeatable_and_teaches(learner: MetaLearner) -> None:
    module, plan = MLP(1, [16], 1), Plan(steps=150, tasks=4, support=5, query=5, rate=1e-2)
    if learner.outer == "pull":
        plan = Plan(steps=150, tasks=4, support=5, query=5, rate=0.5)
    one, two = (train(learner, module, "regression", EndlessLines(), plan) for _ in range(2))
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    assert all(torch.equal(one.step_sizes[name], two.step_sizes[name]) for name in one.weights)
    assert one.skipped == 0
    batch = EndlessLines().sample(200, 5, 20, torch.Generator().manual_seed(99))
    fresh = started(learner, module)

    def after_adapting(weights: dict[str, Tensor], step_sizes: dict[str, Tensor]) -> float:
        ends = [
            trajectory(
                module,
                "regression",
                weights,
                step_sizes,
                Batch(batch.support.inputs[t], batch.support.targets[t]),
                steps=max(1, learner.inner_steps),
                at={max(1, learner.inner_steps)},
            )[0][1]
            for t in range(50)
        ]
        return math.fsum(
            (with_weights(module, end)(batch.query.inputs[t])[:, 0] - batch.query.targets[t])
            .square()
            .mean()
            .item()
            for t, end in enumerate(ends)
        ) / len(ends)

    before, after = (after_adapting(s.weights, s.step_sizes) for s in (fresh, one))
    if learner.algorithm == "joint":  # a line is as likely as its opposite: nothing to share
        assert after < 1.5 * before
    else:
        assert after < 0.7 * before


@pytest.mark.parametrize(
    "module",
    [
        NormalisedMLP(D, [6], C, "inputs"),
        NormalisedMLP(D, [6], C, "batch"),
        NormalisedMLP(D, [6], C, "layer"),
        Conv4(C, side=16, filters=4),
    ],
    ids=["inputs", "batch", "layer", "conv"],
)
@each_learner
def test_an_adapted_network_answers_row_by_row(learner: MetaLearner, module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    width = 256 if isinstance(module, Conv4) else D
    support = Batch(
        torch.randn(9, width, generator=generator), torch.arange(9, dtype=torch.int64) % C
    )
    query = 5 + 3 * torch.randn(7, width, generator=generator)
    parameters = started(learner, module)
    ((_, ends),) = trajectory(
        module,
        "classification",
        parameters.weights,
        parameters.step_sizes,
        support,
        steps=2,
        at={2},
    )
    adapted = with_weights(module, ends).eval()
    forward = TaskLoss.of(module, "classification").forward
    fast = {name: ends[name][None] for name in weights_of(module)}
    with torch.no_grad():
        together = forward(fast, query[None], support.inputs[None])[0]
        alone = torch.cat([adapted(row[None]) for row in query])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    if not (isinstance(module, NormalisedMLP) and isinstance(module.layers[1], nn.LayerNorm)):
        assert "running_mean" in " ".join(ends)


def test_a_tasks_own_scale_does_not_matter_to_normalised_inputs() -> None:
    module = NormalisedMLP(D, [6], C, "inputs")
    forward = TaskLoss.of(module, "classification").forward
    weights = {name: value[None] for name, value in weights_of(module).items()}
    support, query = torch.randn(1, 30, D), torch.randn(1, 5, D)
    shift, scale = torch.tensor([3.0, -2.0, 0.5, 9.0]), torch.tensor([10.0, 0.5, 2.0, 7.0])
    with torch.no_grad():
        plain = forward(weights, query, support)
        moved = forward(weights, query * scale + shift, support * scale + shift)
    torch.testing.assert_close(plain, moved, rtol=1e-3, atol=1e-3)


def test_one_row_is_too_few_for_batch_norm() -> None:
    module = NormalisedMLP(D, [6], C, "batch")
    forward = TaskLoss.of(module, "classification").forward
    one = torch.zeros(1, 1, D)
    with pytest.raises(ValueError, match=r"layers\.1 is a batch norm .* two or more examples"):
        forward({name: value[None] for name, value in weights_of(module).items()}, one, one)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Conv4(5, side=8), "side is 8"),
        (lambda: Conv4(5, inputs=100), "rows have 100 inputs"),
        (lambda: NormalisedMLP(3, [0], 2), "every width"),
        (lambda: NormalisedMLP(3, [2], 2, "none"), "norm is 'none'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_networks_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_memory_stays_flat_over_ten_thousand_tasks() -> None:
    module, process = MLP(2, [4], 2), psutil.Process()
    loss = TaskLoss.of(module, "classification")
    generator = torch.Generator().manual_seed(0)
    learners = [MAML(2, 0.1, learn_step_sizes=True), Reptile(2, 0.1, batch=4)]
    starts = [started(learner, module) for learner in learners]

    def adapt(tasks: int) -> None:
        for _ in range(tasks // 100):
            inputs = torch.randn(50, 6, 2, generator=generator)
            batch = Batch(inputs, torch.randint(2, (50, 6), generator=generator))
            for learner, parameters in zip(learners, starts, strict=True):
                learner.gradients(
                    loss, parameters, EpisodeBatch(batch, batch, NO_KEYS, NO_KEYS), generator
                )
            trajectory(
                module,
                "classification",
                starts[0].weights,
                starts[0].step_sizes,
                Batch(batch.inputs[0], batch.targets[0]),
                steps=1,
                at={1},
            )

    adapt(1000)
    gc.collect()
    before = process.memory_info().rss
    tracemalloc.start()
    adapt(1000)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    adapt(8000)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - held < 2**20
    assert process.memory_info().rss - before < 64 * 2**20
