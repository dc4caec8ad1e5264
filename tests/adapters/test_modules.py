import numpy as np
import pytest
import torch
from torch.func import functional_call, vmap

from adapters.model_file import Architecture, ModelFileError
from adapters.modules import MLP, initialise

torch.set_num_threads(1)
SMALL = Architecture("adapters.modules:MLP", {"inputs": 3, "hidden": [4, 5], "outputs": 2})


def by_hand(state, x):
    for layer in ("layers.0", "layers.1"):
        x = np.maximum(x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"], 0)
    return x, x @ state["head.weight"].T + state["head.bias"]


def test_forward_equals_the_sums_by_hand():
    module = initialise(SMALL, 0)
    assert isinstance(module, MLP)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    hidden, outputs = by_hand(state, x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(module.embed(x), hidden, atol=1e-6)
        np.testing.assert_allclose(module(x), outputs, atol=1e-6)
        assert torch.equal(module.head(module.embed(x)), module(x))


def test_fast_weights_are_used_and_differentiated():
    module = initialise(SMALL, 0)
    fast = {n: torch.zeros_like(p).requires_grad_() for n, p in module.named_parameters()}
    fast["head.bias"] = torch.tensor([3.0, -1.0], requires_grad=True)
    outputs = functional_call(module, fast, (torch.ones(2, 3),))
    assert outputs.tolist() == [[3.0, -1.0]] * 2
    outputs.sum().backward()
    assert fast["head.bias"].grad.tolist() == [2.0, 2.0]

    real = {n: torch.stack([p, 2 * p]).detach() for n, p in module.named_parameters()}
    x = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1))
    batched = vmap(lambda w, x: functional_call(module, w, (x,)))(real, x)
    for task in range(2):
        alone = functional_call(module, {n: p[task] for n, p in real.items()}, (x[task],))
        torch.testing.assert_close(batched[task], alone)


def test_a_seed_decides_the_weights_and_the_global_state_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = initialise(SMALL, 1), initialise(SMALL, 1), initialise(SMALL, 2)
    assert torch.equal(torch.rand(3), expected)
    for mine, theirs in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_no_hidden_layer_is_a_linear_model():
    module = MLP(3, [], 2)
    x = torch.ones(1, 3)
    assert torch.equal(module.embed(x), x)
    assert sorted(module.state_dict()) == ["head.bias", "head.weight"]


@pytest.mark.parametrize("kwargs", [{"inputs": 0, "hidden": [], "outputs": 1}, {"inputs": 1}])
def test_impossible_widths_are_refused(kwargs):
    with pytest.raises(ModelFileError, match="refuses kwargs"):
        Architecture("adapters.modules:MLP", kwargs).build()
