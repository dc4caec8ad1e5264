import pytest
import torch

from adapters.fomaml import FOMAML
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


def at_zero(learner: MAML | FOMAML) -> tuple[float, list[float]]:
    """Return loss and gradients (by w, b, then their step sizes) for one step from w = b = 0."""
    module, nothing = MLP(1, [], 1), torch.Generator()
    parameters = learner.start(
        {n: torch.zeros_like(w) for n, w in weights_of(module).items()}, nothing
    )
    assert list(parameters.weights) == ["head.weight", "head.bias"]
    loss = TaskLoss.of(module, "regression")
    value, gradients = learner.gradients(loss, parameters, one_point(), nothing)
    return value.item(), [gradient.item() for gradient in gradients]


def test_one_step_on_a_line_by_hand() -> None:
    # support gradient: 2 (w + b - 2) = -4 for both, so w' = b' = .4 at step size .1
    # query: 2 w' + b' = 1.2 against 3, loss 3.24; dL/dw' = 2 * -1.8 * 2 = -7.2, dL/db' = -3.6
    # dw'/dw = db'/db = 1 - .1 * 2 = .8, dw'/db = db'/dw = -.2
    by_weights = [-7.2 * 0.8 + -3.6 * -0.2, -7.2 * -0.2 + -3.6 * 0.8]
    # Meta-SGD: w' = w + 4 alpha_w, so dL/dalpha = 4 dL/dw'
    by_step_sizes = [-28.8, -14.4]
    value, gradients = at_zero(MAML(1, 0.1, learn_step_sizes=True))
    assert value == pytest.approx(3.24)
    assert gradients == pytest.approx(by_weights + by_step_sizes)
    assert at_zero(MAML(1, 0.1))[1] == pytest.approx(by_weights)


def test_first_order_takes_the_gradient_at_the_adapted_weights() -> None:
    value, gradients = at_zero(FOMAML(1, 0.1))
    assert value == pytest.approx(3.24)
    assert gradients == pytest.approx([-7.2, -3.6])
