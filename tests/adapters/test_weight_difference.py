"""A model is put together again exactly from its difference, or not at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from adapters.inner_loop import weights_of, with_weights
from adapters.model_file import Model, ModelFileError, model_digest, pack_model
from adapters.modules import initialise
from adapters.start_model import start_model
from adapters.weight_difference import pack_difference, unpack_difference
from tests.pipeline.small_worlds import lane_champion, lane_start, line_champion


def wide() -> Model:
    champion = lane_champion()
    kwargs = {"inputs": 4, "hidden": [64, 64], "outputs": 2}
    architecture = replace(champion.architecture, kwargs=kwargs)
    keys = np.arange(5000, dtype=np.uint64)
    module = initialise(architecture, 3)
    return replace(champion, module=module, architecture=architecture, trained_on=keys)


def stepped(base: Model, size: float) -> Model:
    torch.manual_seed(1)
    moved = {n: w - size * torch.randn_like(w) for n, w in weights_of(base.module).items()}
    keys = np.union1d(base.trained_on, np.array([2**63 + 5, 7_000], np.uint64))
    return replace(base, module=with_weights(base.module, moved), trained_on=keys)


@pytest.mark.parametrize("size", [0.0, 1e-4, 1e-2, 1e3])
def test_every_bit_comes_back(size: float) -> None:
    base = wide()
    model = stepped(base, size)
    again = unpack_difference(pack_difference(model, base), base)
    assert pack_model(again) == pack_model(model)


def test_small_steps_take_a_part_of_the_room_of_the_model() -> None:
    base = wide()
    whole = len(pack_model(base))
    assert len(pack_difference(base, base)) < whole / 100
    assert len(pack_difference(stepped(base, 1e-4), base)) < whole / 3


def test_a_base_of_another_shape_or_lineage_does_too() -> None:
    model = stepped(wide(), 0.1)
    for base in (lane_champion(), replace(wide(), trained_on=np.array([9_999_999], np.uint64))):
        assert model_digest(unpack_difference(pack_difference(model, base), base)) == model_digest(
            model
        )


def test_another_base_or_a_damaged_byte_is_refused() -> None:
    base = wide()
    packed = pack_difference(stepped(base, 1e-3), base)
    with pytest.raises(ModelFileError):
        unpack_difference(packed, stepped(base, 0.5))
    for at in range(40, len(packed), len(packed) // 23):
        damaged = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
        with pytest.raises(ModelFileError):
            unpack_difference(damaged, base)


def test_the_start_is_what_the_first_step_is_taken_from() -> None:
    start = start_model(lane_start(), "reptile", lane_champion())
    assert start is not None
    assert not any(bool(w.any()) for w in weights_of(start.module).values())
    assert start.class_names == lane_champion().class_names
    assert start_model(lane_start(), "maml", lane_champion()) is None
    assert start_model(lane_start(), "reptile", line_champion()) is None
