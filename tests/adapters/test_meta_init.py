from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.meta_init import (
    MetaInit,
    Start,
    load_meta_init,
    pack_meta_init,
    save_meta_init,
    unpack_meta_init,
)
from adapters.model_file import ModelFileError, pack_model
from tests.adapters.lanes import line_init, plan_champion, plan_init


def same(one: MetaInit, two: MetaInit) -> None:
    assert one.architecture == two.architecture
    assert (one.schema, one.preprocessor) == (two.schema, two.preprocessor)
    assert (one.class_names, one.slots, one.task_type) == (
        two.class_names,
        two.slots,
        two.task_type,
    )
    assert (one.target_mean, one.target_std) == (two.target_mean, two.target_std)
    assert (one.recommended, one.validation, one.info) == (
        two.recommended,
        two.validation,
        two.info,
    )
    assert np.array_equal(one.trained_on, two.trained_on)
    assert one.starts.keys() == two.starts.keys()
    for name, start in one.starts.items():
        other = two.starts[name]
        assert start.steps == other.steps
        for mine, theirs in (
            (start.weights, other.weights),
            (start.step_sizes, other.step_sizes),
            (one.joint, two.joint),
        ):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("make", [plan_init, line_init])
def test_a_round_trip_changes_nothing(make: Callable[[], MetaInit], tmp_path: Path) -> None:
    init = make()
    same(unpack_meta_init(pack_meta_init(init)), init)
    digest = save_meta_init(tmp_path, init)
    assert save_meta_init(tmp_path / "again", init) == digest
    same(load_meta_init(tmp_path, digest), init)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    digest = save_meta_init(tmp_path, plan_init())
    weights = tmp_path / "weights.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(ModelFileError, match="changed or damaged"):
        load_meta_init(tmp_path, digest)


def test_another_digest_is_refused(tmp_path: Path) -> None:
    save_meta_init(tmp_path, plan_init())
    with pytest.raises(ModelFileError, match="expected sha256:00"):
        load_meta_init(tmp_path, "sha256:00")


def test_a_model_is_no_meta_init() -> None:
    with pytest.raises(ModelFileError, match="kind 'model'"):
        unpack_meta_init(pack_model(plan_champion()))


def test_what_does_not_fit_together_is_refused() -> None:
    init = plan_init()
    start = init.starts["maml"]
    with pytest.raises(ModelFileError, match="recommended is 'luck'"):
        replace(init, recommended="luck")
    with pytest.raises(ModelFileError, match="slots 3 do not fit"):
        replace(init, slots=3)
    with pytest.raises(ModelFileError, match="target_std is 0"):
        replace(init, target_std=0.0)
    with pytest.raises(ModelFileError, match="with 0 steps"):
        replace(init, starts={"maml": replace(start, steps=0)}, recommended="maml")
    wrong = Start("maml", {"head.bias": torch.zeros(2)}, start.step_sizes, 3)
    with pytest.raises(ModelFileError, match="start 'maml' does not fit"):
        replace(init, starts={"maml": wrong}, recommended="maml")
