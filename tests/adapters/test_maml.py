import pytest
import torch

from adapters.inner_loop import TaskLoss, weights_of
from adapters.maml import MAML
from adapters.modules import MLP
from adapters.tasks import Batch, EpisodeBatch, Keys

NO_KEYS: Keys = torch.zeros(0).numpy().astype("uint64")


def one_point() -> EpisodeBatch:
    """Support (1, 2), query (2, 3) for y = w x + b."""
    return EpisodeBatch(
        Batch(torch.tensor([[[1.0]]]), torch.tensor([[2.0]])),
        Batch(torch.tensor([[[2.0]]]), torch.tensor([[3.0]])),
        NO_KEYS,
        NO_KEYS,
    )


def random_episodes(tasks: int, n: int, d: int) -> EpisodeBatch:
    generator = torch.Generator().manual_seed(3)

    def draw() -> Batch:
        inputs = torch.randn(tasks, n, d, generator=generator, dtype=torch.float64)
        return Batch(inputs, torch.randint(3, (tasks, n), generator=generator))

    return EpisodeBatch(draw(), draw(), NO_KEYS, NO_KEYS)


def at_zero(maml: MAML) -> tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return loss, weights and step sizes with gradients, for one step from w = b = 0."""
    module = MLP(1, [], 1)
    weights, sizes = maml.start({n: torch.zeros_like(w) for n, w in weights_of(module).items()})
    value = maml.meta_loss(TaskLoss.of(module, "regression"), weights, sizes, one_point())
    value.backward()
    return value.item(), weights, sizes


def grad(tensor: torch.Tensor) -> float:
    assert tensor.grad is not None
    return tensor.grad.item()


def test_one_step_on_a_line_by_hand() -> None:
    # support gradient: 2 (w + b - 2) = -4 for both, so w' = b' = .4 at step size .1
    # query: 2 w' + b' = 1.2 against 3, loss 3.24; dL/dw' = 2 * -1.8 * 2 = -7.2, dL/db' = -3.6
    # dw'/dw = db'/db = 1 - .1 * 2 = .8, dw'/db = db'/dw = -.2
    value, weights, sizes = at_zero(MAML(1, 0.1))
    assert value == pytest.approx(3.24)
    assert grad(weights["head.weight"]) == pytest.approx(-7.2 * 0.8 + -3.6 * -0.2)
    assert grad(weights["head.bias"]) == pytest.approx(-7.2 * -0.2 + -3.6 * 0.8)
    # Meta-SGD: w' = w + 4 alpha_w, so dL/dalpha = 4 dL/dw'
    assert grad(sizes["head.weight"]) == pytest.approx(-28.8)
    assert grad(sizes["head.bias"]) == pytest.approx(-14.4)


def test_first_order_takes_the_gradient_at_the_adapted_weights() -> None:
    value, weights, sizes = at_zero(MAML(1, 0.1, learn_step_sizes=False, first_order=True))
    assert value == pytest.approx(3.24)
    assert grad(weights["head.weight"]) == pytest.approx(-7.2)
    assert grad(weights["head.bias"]) == pytest.approx(-3.6)
    assert sizes["head.bias"].grad is None


def test_fixed_step_sizes_stay_fixed() -> None:
    _, _, sizes = at_zero(MAML(1, 0.1, learn_step_sizes=False))
    assert not any(size.requires_grad for size in sizes.values())
    with pytest.raises(ValueError, match="second derivatives"):
        MAML(learn_step_sizes=True, first_order=True)


def test_the_meta_gradient_is_the_finite_difference() -> None:
    torch.manual_seed(0)
    module = MLP(4, [5], 3).double()
    maml, batch = MAML(3, 0.3), random_episodes(tasks=2, n=6, d=4)
    loss = TaskLoss.of(module, "classification")
    weights, sizes = maml.start(weights_of(module))
    maml.meta_loss(loss, weights, sizes, batch).backward()

    def value_at() -> float:
        return maml.meta_loss(loss, weights, sizes, batch).item()

    h = 1e-6
    for leaves in (weights, sizes):
        for name, leaf in leaves.items():
            assert leaf.grad is not None
            for position in (0, leaf.numel() - 1):
                flat = leaf.detach().view(-1)  # shares the leaf's memory
                was = flat[position].item()
                flat[position] = was + h
                above = value_at()
                flat[position] = was - h
                below = value_at()
                flat[position] = was
                found = leaf.grad.view(-1)[position].item()
                assert found == pytest.approx((above - below) / (2 * h), rel=1e-4, abs=1e-8), name


def test_a_step_that_is_not_finite_is_not_taken() -> None:
    module = MLP(1, [], 1)
    maml = MAML(1, 0.1)
    weights, sizes = maml.start(weights_of(module))
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimiser = torch.optim.Adam([*weights.values(), *sizes.values()], lr=0.1)
    good, loss = one_point(), TaskLoss.of(module, "regression")
    bad = EpisodeBatch(
        good.support, Batch(good.query.inputs, torch.tensor([[torch.nan]])), NO_KEYS, NO_KEYS
    )
    value = maml.meta_step(loss, weights, sizes, bad, optimiser=optimiser)
    assert value != value
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert maml.meta_step(loss, weights, sizes, good, optimiser=optimiser) > 0
    assert not torch.equal(weights["head.bias"], before["head.bias"])
