import math

import torch

from adapters.inner_loop import TaskLoss, same_step, step, weights_of
from adapters.modules import MLP
from adapters.reptile import Reptile
from adapters.tasks import Batch


def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(3, [5], 2)


def examples(tasks: int = 4, n: int = 10) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(tasks, n, 3, generator=generator)
    return Batch(inputs, torch.randint(2, (tasks, n), generator=generator))


def test_the_batched_step_equals_a_loop_over_tasks() -> None:
    start, batch = weights_of(mlp()), examples()
    loss, reptile = TaskLoss.of(mlp(), "classification"), Reptile(6, 0.2, batch=5)
    moved, value = reptile.meta_step(loss, start, batch, torch.Generator().manual_seed(9), pull=0.4)
    ends = []
    for task in range(4):
        generator = torch.Generator().manual_seed(9)
        module = mlp()
        optimiser = torch.optim.SGD(module.parameters(), lr=0.2)
        for _ in range(6):
            at = torch.randperm(10, generator=generator)[:5]
            optimiser.zero_grad()
            outputs = module(batch.inputs[task, at])
            torch.nn.functional.cross_entropy(outputs, batch.targets[task, at]).backward()
            optimiser.step()
        ends.append(weights_of(module))
    for name, weight in start.items():
        mean = torch.stack([end[name] for end in ends]).mean(0)
        torch.testing.assert_close(
            moved[name], weight + 0.4 * (mean - weight), rtol=1e-5, atol=1e-6
        )
    assert 0 < value < 1


def test_one_full_inner_step_pulled_all_the_way_is_the_mean_gradient_step() -> None:
    start, batch = weights_of(mlp()), examples()
    loss = TaskLoss.of(mlp(), "classification")
    moved, _ = Reptile(1, 0.1, batch=10).meta_step(
        loss, start, batch, torch.Generator().manual_seed(0), pull=1.0
    )
    everything = Batch(batch.inputs.reshape(1, 40, 3), batch.targets.reshape(1, 40))
    joint = step(loss, {n: w[None] for n, w in start.items()}, same_step(start, 0.1), everything)
    for name in start:
        torch.testing.assert_close(moved[name], joint[name][0], rtol=1e-5, atol=1e-6)


def test_a_step_that_diverges_is_not_taken() -> None:
    start, loss = weights_of(mlp()), TaskLoss.of(mlp(), "classification")
    moved, value = Reptile(8, 1e30).meta_step(
        loss, start, examples(), torch.Generator().manual_seed(0), pull=0.5
    )
    assert math.isnan(value)
    assert all(torch.equal(moved[name], start[name]) for name in start)
