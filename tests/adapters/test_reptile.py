import torch

from adapters.inner_loop import TaskLoss, weights_of
from adapters.modules import MLP
from adapters.reptile import Reptile
from adapters.tasks import Batch


def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(3, [5], 2)


def test_the_batched_minibatches_equal_an_optimiser_over_each_task() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 10, 3, generator=generator)
    batch = Batch(inputs, torch.randint(2, (4, 10), generator=generator))
    start, loss = weights_of(mlp()), TaskLoss.of(mlp(), "classification")
    ends = Reptile(6, 0.2, batch=5).adapted(loss, start, batch, torch.Generator().manual_seed(9))
    for task in range(4):
        drawn = torch.Generator().manual_seed(9)
        module = mlp()
        optimiser = torch.optim.SGD(module.parameters(), lr=0.2)
        for _ in range(6):
            at = torch.randperm(10, generator=drawn)[:5]
            optimiser.zero_grad()
            outputs = module(batch.inputs[task, at])
            torch.nn.functional.cross_entropy(outputs, batch.targets[task, at]).backward()
            optimiser.step()
        for name, weight in weights_of(module).items():
            torch.testing.assert_close(ends[name][task], weight, rtol=1e-5, atol=1e-6)
