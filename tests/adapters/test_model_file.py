import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import adapters
from adapters.feature_schema import Feature, FeatureSchema, Preprocessor, Rows
from adapters.model_file import (
    BLOCK,
    Architecture,
    Model,
    ModelFileError,
    decode_artifact,
    encode_artifact,
    lineage_key,
    load_model,
    model_artifact,
    model_digest,
    pack_artifact,
    pack_model,
    save_model,
    unpack_artifact,
    unpack_model,
)
from adapters.modules import initialise

torch.set_num_threads(1)
HERE = "tests.adapters.test_model_file"


class Normed(nn.Module):
    """Batch norm and dropout: what misbehaves outside eval mode."""

    def __init__(self, inputs: int, outputs: int, tracked: bool = True) -> None:
        super().__init__()
        self.stack = nn.Sequential(
            nn.Linear(inputs, 9),
            nn.BatchNorm1d(9, track_running_stats=tracked),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(9, outputs),
        )
        with torch.no_grad():
            if tracked:
                self.stack[1].running_mean.normal_()
                self.stack[1].running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x)


class Picture(nn.Module):
    """Convolutions with an embedding of two dimensions, to be flattened."""

    def __init__(self, side: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.out = nn.Linear(3 * side * side, outputs)
        self.side = side

    def embed(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.view(-1, 1, self.side, self.side))).relu()

    def head(self, embedding: Tensor) -> Tensor:
        return self.out(embedding.flatten(1))


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


class BuiltError(Exception):
    """Raised where nothing may be built."""


class Trap(nn.Module):
    def __init__(self) -> None:
        raise BuiltError


NUMBERS = FeatureSchema(tuple(Feature(name, "number") for name in "abc"))
MIXED = FeatureSchema(
    (Feature("n", "number", nullable=True), Feature("c", "category"), Feature("p", "tensor", (2,)))
)
PIXELS = FeatureSchema((Feature("p", "tensor", (4, 4)),))


def rows_of(schema, n, seed):
    rng = np.random.default_rng(seed)
    count = len(schema.categories)
    categories = tuple(tuple(rng.choice(list("uvw"), count).tolist()) for _ in range(n))
    return Rows(rng.normal(size=(n, schema.width)) * 3, categories if count else ())


def make(schema=NUMBERS, path="adapters.modules:MLP", outputs=3, seed=0, **fields):
    preprocessor = Preprocessor.fit(schema, rows_of(schema, 50, 99))
    kwargs = {
        "adapters.modules:MLP": {"inputs": preprocessor.d, "hidden": [17, 8], "outputs": outputs},
        f"{HERE}:Normed": {"inputs": preprocessor.d, "outputs": outputs},
        f"{HERE}:Picture": {"side": 4, "outputs": outputs},
    }[path]
    architecture = Architecture(path, kwargs)
    return Model(
        module=initialise(architecture, seed),
        architecture=architecture,
        schema=schema,
        preprocessor=preprocessor,
        **{
            "task_type": "classification",
            "class_names": tuple("xyz"[:outputs]),
            "trained_on": np.unique(np.array([5, 2**64 - 1, 7], dtype=np.uint64)),
            "info": {"name": "café", "nested": [1, {"a": None, "b": 0.1}]},
            **fields,
        },
    )


def regression(**fields):
    settings = {"loss_scale": 4.0, "target_mean": 0.1, "target_std": 3.3, **fields}
    return make(outputs=1, task_type="regression", class_names=(), **settings)


MODELS = {
    "numbers": make(),
    "mixed": make(MIXED, outputs=2),
    "normed": make(path=f"{HERE}:Normed"),
    "picture": make(PIXELS, f"{HERE}:Picture", outputs=2),
    "regression": regression(),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def same_bytes(a, b, i, j):
    """Whether row i of prediction a is row j of prediction b, bit for bit."""
    for name in ("outputs", "embedding", "inputs", "proba", "values"):
        mine, theirs = getattr(a, name), getattr(b, name)
        if mine is not None and len(mine) and mine[i].tobytes() != theirs[j].tobytes():
            return False
    return not a.labels or a.labels[i] == b.labels[j]


@every_model
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_row_never_depends_on_its_batch(model, data):
    n = data.draw(st.integers(1, 150))
    rows = rows_of(model.schema, n, data.draw(st.integers(0, 9)))
    whole = model.predict(rows)
    order = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=100))
    part = model.predict(rows.take(order))
    assert all(same_bytes(part, whole, i, j) for i, j in enumerate(order))
    alone = model.predict(rows.slice(n - 1, n))
    assert same_bytes(alone, whole, 0, n - 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing_and_are_left_as_they_were(threads):
    rows = rows_of(NUMBERS, 130, 1)
    expected = MODELS["numbers"].predict(rows)
    torch.set_num_threads(threads)
    try:
        again = MODELS["numbers"].predict(rows)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    assert all(same_bytes(again, expected, i, i) for i in range(130))


@every_model
def test_predict_leaves_weights_and_buffers_alone(model):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    model.module.train()  # somebody forgot
    first = model.predict(rows_of(model.schema, 70, 3))
    second = model.predict(rows_of(model.schema, 70, 3))
    assert all(same_bytes(first, second, i, i) for i in range(70))
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name]), name


@every_model
def test_predict_says_what_the_module_says(model):
    rows = rows_of(model.schema, 5, 4)
    said = model.predict(rows)
    x = torch.from_numpy(model.preprocessor.encode(rows))
    with torch.no_grad():
        whole = isinstance(model.module, Normed)
        hidden = x if whole else model.module.embed(x)
        outputs = model.module(x) if whole else model.module.head(hidden)
    np.testing.assert_allclose(said.outputs, outputs, atol=1e-5)
    np.testing.assert_allclose(said.embedding, hidden.flatten(1), atol=1e-5)
    np.testing.assert_array_equal(said.inputs, x)
    if model.task_type == "regression":
        assert said.proba is None
        assert said.labels == []
        np.testing.assert_allclose(said.values, outputs[:, 0] * 3.3 + 0.1, atol=1e-5)
    else:
        np.testing.assert_allclose(said.proba, torch.softmax(outputs, 1), atol=1e-6)
        assert said.labels == [model.class_names[c] for c in outputs.argmax(1)]
        assert len(said.values) == 0


@every_model
def test_no_rows_give_no_predictions(model):
    said = model.predict(rows_of(model.schema, 0, 0))
    assert (len(said), said.labels, len(said.values)) == (0, [], 0)
    assert said.outputs.shape == (0, model.n_outputs)
    full = model.predict(rows_of(model.schema, BLOCK, 0))
    assert said.embedding.shape[1] == full.embedding.shape[1]


def test_losses_of_a_classifier():
    model = MODELS["numbers"]
    said = replace(model.predict(rows_of(NUMBERS, 4, 0)), labels=["x", "y", "z", "x"])
    assert model.losses(said, ["x", "z", "z", "never seen"]).tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="1 labels for 4 predictions"):
        model.losses(said, ["x"])


def test_losses_of_a_regression():
    model = MODELS["regression"]
    values = np.array([1.0, 1.0, 1.0, np.nan, np.inf])
    said = replace(model.predict(rows_of(NUMBERS, 5, 0)), values=values)
    losses = model.losses(said, np.array([1.0, 3.0, 99.0, 0.0, 0.0]))
    assert losses.tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]


@every_model
def test_every_way_through_bytes_gives_the_same_model(model, tmp_path):
    digest = save_model(tmp_path / "deep" / "folder", model)
    packed = pack_model(model)
    rows = rows_of(model.schema, 70, 5)
    expected = model.predict(rows)
    assert digest == model_digest(model)
    manifest = (tmp_path / "deep" / "folder" / "manifest.json").read_bytes()
    assert digest == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    assert sorted(f.name for f in (tmp_path / "deep" / "folder").iterdir()) == [
        "manifest.json",
        "weights.safetensors",
    ]
    for again in (load_model(tmp_path / "deep" / "folder", digest), unpack_model(packed)):
        said = again.predict(rows)
        assert all(same_bytes(said, expected, i, i) for i in range(70))
        for name in ("architecture", "schema", "preprocessor", "task_type", "class_names"):
            assert getattr(again, name) == getattr(model, name)
        for name in ("loss_scale", "target_mean", "target_std", "info"):
            assert getattr(again, name) == getattr(model, name)
        np.testing.assert_array_equal(again.trained_on, model.trained_on)
        assert again.trained_on.dtype == np.uint64
        assert pack_model(again) == packed
        assert model_digest(again) == digest


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(1e-300, 1e300),
    st.sets(st.integers(0, 2**64 - 1)),
    st.lists(st.text(), min_size=1, unique=True),
)
@settings(max_examples=50, deadline=None)
def test_every_field_survives_packing(mean, scale, keys, names):
    keys = np.array(sorted(keys), dtype=np.uint64)
    model = regression(target_mean=mean, target_std=scale, loss_scale=scale, trained_on=keys)
    again = unpack_model(pack_model(model))
    assert (again.target_mean, again.target_std, again.loss_scale) == (mean, scale, scale)
    np.testing.assert_array_equal(again.trained_on, keys)
    names = tuple(name.encode(errors="replace").decode() for name in names)
    if len(set(names)) == len(names) <= 3:
        classes = make(outputs=len(names), class_names=names)
        assert unpack_model(pack_model(classes)).class_names == names


def test_different_models_have_different_digests():
    models = [
        make(),
        make(seed=1),
        make(class_names=("x", "z", "y")),
        make(info={}),
        make(trained_on=np.array([1], dtype=np.uint64)),
        regression(),
        regression(loss_scale=4.000000000000001),
    ]
    assert len({model_digest(model) for model in models}) == len(models)


PACKED = pack_model(MODELS["mixed"])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_a_changed_byte_in_a_pack_is_refused(at, change):
    damaged = bytearray(PACKED)
    damaged[at] ^= change
    with pytest.raises(ModelFileError):
        unpack_model(bytes(damaged))


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(raw):
    for bad in (raw, PACKED + raw + b"x", PACKED[: len(raw)], b"metadrift-pack-1" + raw):
        with pytest.raises(ModelFileError):
            unpack_model(bad)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["manifest.json", "weights.safetensors"]), st.floats(0, 1), st.integers(0, 7)
)
def test_a_flipped_bit_in_a_folder_is_refused(tmp_path_factory, name, where, bit):
    folder = tmp_path_factory.mktemp("model")
    digest = save_model(folder, MODELS["mixed"])
    content = bytearray((folder / name).read_bytes())
    content[min(int(where * len(content)), len(content) - 1)] ^= 1 << bit
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFileError, match="fetch the artifact again"):
        load_model(folder, digest)


def test_nothing_is_parsed_or_built_before_its_digest_is_right(tmp_path):
    manifest, tensors = model_artifact(MODELS["numbers"])
    manifest["architecture"] = {"path": f"{HERE}:Trap", "kwargs": {}}
    text, weights = encode_artifact(manifest, tensors)
    right = f"sha256:{hashlib.sha256(text).hexdigest()}"
    (tmp_path / "manifest.json").write_bytes(text)
    (tmp_path / "weights.safetensors").write_bytes(weights)
    with pytest.raises(BuiltError):
        load_model(tmp_path, right)
    with pytest.raises(ModelFileError, match="expected sha256:0"):
        load_model(tmp_path, "sha256:0")
    (tmp_path / "weights.safetensors").write_bytes(weights + b"\0")
    with pytest.raises(ModelFileError, match="the weights hash to"):
        load_model(tmp_path, right)
    with pytest.raises(ModelFileError, match="expected sha256:0"):
        decode_artifact(b"not json at all", b"", "sha256:0")


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="cannot read the artifact"):
        load_model(tmp_path, None)
    for text in (b"[]", b"{", b'{"weights": 3}', b"[" * 100_000, b"\xff\xfe\x00"):
        (tmp_path / "manifest.json").write_bytes(text)
        (tmp_path / "weights.safetensors").write_bytes(b"")
        with pytest.raises(ModelFileError, match="not a manifest"):
            load_model(tmp_path, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "meta-init"}, "artifact is kind 'meta-init'"),
        ({"format": 2}, "format 2"),
        ({"schema": {}}, "not our manifest"),
        ({"schema": None}, "not our manifest"),
        ({"class_names": ["x", "y"]}, r"answers \(64, 3\)"),
        ({"class_names": ["x", "x", "y"]}, "needs unique names"),
        ({"class_names": 3}, "not our manifest"),
        ({"loss_scale": 0.0}, "loss_scale is 0"),
        ({"loss_scale": "1"}, "not our manifest"),
        ({"task_type": "ranking"}, "task_type is 'ranking'"),
        ({"architecture": {"path": 3, "kwargs": {}}}, "not our manifest"),
        ({"architecture": {"path": "os:system", "kwargs": {}}}, "no class of torch.nn.Module"),
        ({"info": None}, "not our manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change, message, tmp_path):
    manifest, tensors = model_artifact(MODELS["numbers"])
    text, weights = encode_artifact({**manifest, **change}, tensors)
    (tmp_path / "manifest.json").write_bytes(text)
    (tmp_path / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path, f"sha256:{hashlib.sha256(text).hexdigest()}")


def test_weights_of_another_shape_or_type_are_refused():
    manifest, tensors = model_artifact(MODELS["numbers"])
    for name, value in (
        ("head.bias", torch.zeros(4)),
        ("head.bias", torch.zeros(3, dtype=torch.float64)),
        ("head.offset", torch.zeros(3)),
    ):
        text, weights = encode_artifact(manifest, {**tensors, name: value})
        head = hashlib.sha256(text).digest() + len(text).to_bytes(8, "big")
        with pytest.raises(ModelFileError, match=rf"do not fit .*{name}"):
            unpack_model(b"metadrift-pack-1" + head + text + weights)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("adapters.modules", "write it as"),
        ("adapters.modules:MLP.embed", "write it as"),
        ("os:system('x')", "write it as"),
        ("../evil:Class", "write it as"),
        ("adapters.nowhere:MLP", "cannot be imported"),
        ("adapters.modules:Nothing", "cannot be imported"),
        ("os:system", "no class of torch.nn.Module"),
        ("adapters.modules:initialise", "no class of torch.nn.Module"),
        ("collections:OrderedDict", "no class of torch.nn.Module"),
        ("torch.nn:Linear", "refuses kwargs"),
    ],
)
def test_only_modules_are_built(path, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        Architecture(path, {}).build()
    assert path in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_type": "ranking"}, "task_type is 'ranking'"),
        ({"class_names": ()}, "needs unique names"),
        ({"class_names": ("a", "a", "b")}, "needs unique names"),
        ({"task_type": "regression"}, "regression none"),
        ({"loss_scale": 0.0}, "loss_scale is 0.0"),
        ({"loss_scale": math.nan}, "loss_scale is nan"),
        ({"target_std": -1.0}, "target_std is -1.0"),
        ({"target_mean": math.inf}, "target_mean is inf"),
        ({"schema": MIXED}, "another schema"),
        ({"trained_on": np.array([2, 1], dtype=np.uint64)}, r"np\.unique"),
        ({"trained_on": np.array([1, 1], dtype=np.uint64)}, r"np\.unique"),
        ({"trained_on": np.array([1, 2])}, r"np\.unique"),
        ({"module": Normed(3, 3, tracked=False)}, "track_running_stats=True"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ModelFileError, match=message):
        replace(MODELS["numbers"], **fields)


def test_outputs_that_do_not_fit_are_named():
    model = replace(
        MODELS["numbers"], module=Wrong(), architecture=Architecture(f"{HERE}:Wrong", {})
    )
    with pytest.raises(ModelFileError, match=r"answers \(64, 1\).*must answer \(64, 3\)"):
        model.predict(rows_of(NUMBERS, 1, 0))


def test_a_broken_network_still_answers():
    model = make()
    with torch.no_grad():
        model.module.head.weight.fill_(math.inf)
    said = model.predict(rows_of(NUMBERS, 3, 0))
    assert set(said.labels) <= set("xyz")
    assert not np.isfinite(said.proba).all()


def test_a_single_class_is_certain_and_keeps_its_logits():
    model = make(outputs=1)
    rows = rows_of(NUMBERS, 3, 0)
    said = model.predict(rows)
    with torch.no_grad():
        logits = model.module(torch.from_numpy(model.preprocessor.encode(rows)))
    np.testing.assert_allclose(said.outputs, logits, atol=1e-6)
    assert said.proba.tolist() == [[1.0]] * 3


def test_only_json_goes_into_a_manifest():
    for info in ({"a": math.nan}, {"a": object()}, {"a": {1, 2}}):
        with pytest.raises(ModelFileError, match="not JSON"):
            pack_model(make(info=info))


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    unpack_model(PACKED)
    assert torch.equal(torch.rand(2), expected)


def test_saving_again_replaces_the_old_model(tmp_path):
    save_model(tmp_path, MODELS["numbers"])
    digest = save_model(tmp_path, MODELS["mixed"])
    assert load_model(tmp_path, digest).schema == MIXED
    assert json.loads((tmp_path / "manifest.json").read_text())["class_names"] == ["x", "y"]


def test_lineage_keys_are_fixed_for_ever():
    assert lineage_key("event-1") == int.from_bytes(
        hashlib.blake2b(b"event-1", digest_size=8).digest(), "big"
    )
    assert lineage_key("") == 0xE4A6A0577479B2B4
    assert 0 <= lineage_key("\ud800") < 2**64


def test_the_package_names_are_lazy_and_complete():
    code = "import adapters, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
    for name in adapters.__all__:
        assert getattr(adapters, name).__name__ == name
    assert dir(adapters) == sorted(adapters.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = adapters.nothing


def test_model_file_needs_torch_and_safetensors_only():
    code = "import adapters.model_file, sys; print(*{m.split('.')[0] for m in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "msgspec", "river", "mlflow", "sklearn"} & set(run.stdout.split())


def test_tensors_laid_out_channels_last_are_kept_with_the_same_bytes():
    rows = torch.arange(24.0).reshape(1, 2, 3, 4)
    last = rows.to(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    assert pack_artifact({"kind": "x"}, {"w": last}) == pack_artifact({"kind": "x"}, {"w": rows})
    _, found = unpack_artifact(pack_artifact({"kind": "x"}, {"w": last}))
    assert torch.equal(found["w"], rows)
