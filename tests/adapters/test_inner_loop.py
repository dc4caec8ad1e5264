import copy

import pytest
import torch
from torch import Tensor, nn

from adapters.inner_loop import (
    TaskLoss,
    are_finite,
    descend,
    for_tasks,
    one_thread,
    same_step,
    trajectory,
    weights_of,
    with_weights,
)
from adapters.joint import Descent, train_few
from adapters.modules import MLP
from adapters.tasks import Batch


class ThroughVmap(MLP):
    """The same network, but not our exact MLP: it takes the general path."""


class Normed(nn.Module):
    """A network with buffers and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.drop(self.norm(x)))
        return out


def examples(tasks: int, n: int = 8, d: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(tasks, n, d, generator=generator)
    return Batch(inputs, torch.randint(2, (tasks, n), generator=generator))


def mlp(kind: type[MLP] = MLP) -> MLP:
    torch.manual_seed(0)
    return kind(3, [5, 4], 2)


def test_the_batched_path_equals_vmap_and_a_plain_optimiser() -> None:
    batch, start = examples(3), weights_of(mlp())
    sizes = same_step(start, 0.2)
    quick, general = (
        descend(
            TaskLoss.of(mlp(kind), "classification"), for_tasks(start, 3), sizes, batch, steps=4
        )
        for kind in (MLP, ThroughVmap)
    )
    for task in range(3):
        module = with_weights(mlp(), start)
        optimiser = torch.optim.SGD(module.parameters(), lr=0.2)
        for _ in range(4):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(batch.inputs[task]), batch.targets[task]).backward()
            optimiser.step()
        for name, weight in module.named_parameters():
            torch.testing.assert_close(quick[name][task], weight.detach(), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(quick[name], general[name], rtol=1e-5, atol=1e-6)


def test_a_task_does_not_depend_on_its_neighbours() -> None:
    start = weights_of(mlp())
    loss, sizes, both = TaskLoss.of(mlp(), "classification"), same_step(start, 0.2), examples(2)
    alone = Batch(both.inputs[:1], both.targets[:1])
    fast = descend(loss, for_tasks(start, 2), sizes, both, steps=3)
    one = descend(loss, for_tasks(start, 1), sizes, alone, steps=3)
    for name, value in one.items():
        torch.testing.assert_close(fast[name][:1], value, rtol=1e-5, atol=1e-6)


def test_adapting_leaves_weights_and_buffers_untouched() -> None:
    module = Normed().train()
    before = copy.deepcopy(module.state_dict())
    batch = examples(1)
    support = Batch(batch.inputs[0], batch.targets[0])
    start = weights_of(module)
    path = trajectory(
        module,
        "classification",
        start,
        same_step(start, 0.1),
        support,
        steps=3,
        at={0, 3},
    )
    tuned = train_few(module, support, "classification", descent=Descent(3, 0.1, 0.0), at={3})
    assert [at for at, _ in path] == [0, 3]
    assert all(torch.equal(path[0][1][name], start[name]) for name in start)
    for adapted in (path[-1][1], tuned[-1][1]):
        assert not torch.equal(adapted["out.weight"], start["out.weight"])
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_few_adam_steps_are_repeatable_and_leave_the_random_state_alone() -> None:
    batch = examples(1)
    support = Batch(batch.inputs[0], batch.targets[0])
    torch.manual_seed(0)
    module = Normed()
    state = torch.random.get_rng_state()
    one, two, other = (
        train_few(module, support, "classification", descent=Descent(5, 0.1, 0.0, seed), at={5})
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one[0][1]["out.weight"], two[0][1]["out.weight"])
    assert not torch.equal(one[0][1]["out.weight"], other[0][1]["out.weight"])  # dropout


def test_regression_descends_on_squared_error() -> None:
    module = MLP(1, [], 1)
    start = {"head.weight": torch.zeros(1, 1), "head.bias": torch.zeros(1)}
    batch = Batch(torch.tensor([[[1.0]]]), torch.tensor([[2.0]]))
    loss = TaskLoss.of(module, "regression")
    assert loss(for_tasks(start, 1), batch).tolist() == [4.0]
    fast = descend(loss, for_tasks(start, 1), same_step(start, 0.1), batch, steps=1)
    assert fast["head.weight"].item() == pytest.approx(0.4)  # 0 - .1 * 2 * (0 - 2) * 1
    assert fast["head.bias"].item() == pytest.approx(0.4)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['head.bias'\] do not fit MLP"):
        with_weights(mlp(), {n: w for n, w in weights_of(mlp()).items() if n != "head.bias"})
    with pytest.raises(ValueError, match=r"head.bias"):
        with_weights(mlp(), {**weights_of(mlp()), "head.bias": torch.zeros(7)})


def test_finite_means_every_weight() -> None:
    assert are_finite({"a": torch.ones(2)})
    assert not are_finite({"a": torch.ones(2), "b": torch.tensor([1.0, torch.nan])})


def test_one_thread_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
