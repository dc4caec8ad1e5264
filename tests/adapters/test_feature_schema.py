import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.feature_schema import (
    LIMIT,
    MAX_CATEGORIES,
    Feature,
    FeatureError,
    FeatureSchema,
    Preprocessor,
    Rows,
)

KINDS = ("number", "category", "bool", "tensor")


@st.composite
def schemas(draw):
    names = draw(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5, unique=True))
    if draw(st.booleans()):  # the hot path: required numbers only
        return FeatureSchema(tuple(Feature(name, "number") for name in names))
    return FeatureSchema(
        tuple(
            Feature(
                name,
                kind := draw(st.sampled_from(KINDS)),
                draw(st.sampled_from([(1,), (3,), (2, 2)])) if kind == "tensor" else (),
                draw(st.booleans()),
            )
            for name in names
        )
    )


good_numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.just(-0.0)
)
bad_values = st.one_of(
    st.none(),
    st.booleans(),
    good_numbers,
    st.text(max_size=3),
    st.just("1.5"),
    st.sampled_from([math.nan, math.inf, -math.inf, 10**400, -(10**400), 2**70, 10**5000]),
    st.lists(st.one_of(good_numbers, st.none(), st.booleans(), st.just("1")), max_size=4),
    st.just({}),
)


def good_values(feature):
    match feature.kind:
        case "number":
            value = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9)
        case "bool":
            value = st.booleans()
        case "category":
            value = st.text(max_size=2) | st.integers(0, 3)
        case "tensor":
            finite = st.floats(-9, 9) | st.integers(-9, 9)
            value = st.lists(finite, min_size=feature.width, max_size=feature.width)
    return value | st.none() if feature.nullable else value


@st.composite
def items_of(draw, schema, share_bad=True):
    items = []
    for _ in range(draw(st.integers(0, 24))):
        item = {f.name: draw(good_values(f)) for f in schema.features}
        if share_bad and draw(st.integers(0, 5)) == 0:
            change = draw(st.sampled_from([*schema.names, "extra", "other"]))
            if draw(st.booleans()):
                item.pop(change, None)
            else:
                item[change] = draw(bad_values)
        items.append(item)
    return items


def assert_equal_rows(mine, theirs):
    np.testing.assert_array_equal(mine.numbers, theirs.numbers)
    assert mine.categories == theirs.categories


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_parsing_many_equals_parsing_each(data):
    schema = data.draw(schemas())
    items = data.draw(items_of(schema))
    parsed = schema.parse_many(items)
    alone, kept, errors, extra = [], [], {}, {}
    for position, item in enumerate(items):
        for name in item.keys() - set(schema.names):
            extra[name] = extra.get(name, 0) + 1
        try:
            alone.append(schema.parse(item))
            kept.append(position)
        except FeatureError as error:
            errors[position] = str(error)
    assert parsed.kept == kept
    assert {position: str(error) for position, error in parsed.errors.items()} == errors
    assert parsed.extra == extra
    assert len(parsed.rows) == len(kept)
    if alone:
        assert_equal_rows(parsed.rows, Rows.concat(alone))
    assert not np.isinf(parsed.rows.numbers).any()


@pytest.mark.parametrize(
    ("feature", "item", "message"),
    [
        (
            Feature("x", "number"),
            {"x": "abc"},
            "feature 'x' is 'abc': expected a finite number; send a JSON number",
        ),
        (Feature("x", "number"), {}, "feature 'x' is missing: expected a finite number"),
        (Feature("x", "number"), {"x": None}, "feature 'x' is null"),
        (Feature("x", "number"), {"x": True}, "feature 'x' is true"),
        (Feature("x", "number"), {"x": math.inf}, "feature 'x' is inf"),
        (Feature("x", "number"), {"x": 10**400}, "feature 'x' is an integer of 1329 bits"),
        (Feature("x", "number", nullable=True), {"x": math.nan}, "feature 'x' is nan"),
        (Feature("x", "bool"), {"x": 1}, "feature 'x' is 1: expected a bool; send true or false"),
        (Feature("x", "category"), {"x": False}, "feature 'x' is false: expected a string"),
        (Feature("x", "category"), {"x": 1.0}, "feature 'x' is 1.0: expected a string"),
        (Feature("x", "category"), {"x": 10**5000}, "feature 'x' is an integer of 16610 bits"),
        (Feature("x", "tensor", (2,)), {"x": [1]}, "is a list of 1: expected a flat list of 2"),
        (Feature("x", "tensor", (2,)), {"x": [1, [2]]}, "is a list of 1 at position 1"),
        (Feature("x", "tensor", (2,)), {"x": [True, 2]}, "is true at position 0"),
        (Feature("x", "number"), {"x": "y" * 99}, f"feature 'x' is '{'y' * 40}'...:"),
        (Feature("x", "number"), {"x": {"y": 1}}, "feature 'x' is an object of 1:"),
    ],
)
def test_what_does_not_fit_is_named(feature, item, message):
    schema = FeatureSchema((Feature("ok", "number"), feature))
    parsed = schema.parse_many([{"ok": 1, **item}])
    assert parsed.kept == []
    error = parsed.errors[0]
    assert message in str(error)
    assert error.field == "x"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 (our own bytes)


def test_one_bad_row_costs_no_other_row():
    schema = FeatureSchema((Feature("x", "number"), Feature("y", "number")))
    items = [{"x": i, "y": -i} for i in range(100)]
    items[37] = {"x": 37}
    items[99] = {"x": "99", "y": 0, "z": 1}
    parsed = schema.parse_many(items)
    assert parsed.kept == [i for i in range(100) if i not in (37, 99)]
    assert sorted(parsed.errors) == [37, 99]
    assert parsed.rows.numbers[:, 0].tolist() == parsed.kept
    assert parsed.extra == {"z": 1}


def test_categories_are_canonical_and_nulls_stay_null():
    schema = FeatureSchema(
        (
            Feature("c", "category", nullable=True),
            Feature("b", "bool", nullable=True),
            Feature("t", "tensor", (2,), nullable=True),
        )
    )
    rows = schema.parse_many(
        [{"c": 7, "b": True, "t": [1, 2.5]}, {"c": None, "t": None}, {"c": "x", "b": False}]
    ).rows
    assert rows.categories == (("7",), (None,), ("x",))
    np.testing.assert_array_equal(
        rows.numbers, [[1, 1, 2.5], [math.nan] * 3, [0, math.nan, math.nan]]
    )


def test_no_items_give_no_rows():
    schema = FeatureSchema((Feature("x", "number"), Feature("c", "category")))
    parsed = schema.parse_many([])
    assert (len(parsed.rows), parsed.rows.numbers.shape) == (0, (0, 1))
    assert (parsed.kept, parsed.errors, parsed.extra) == ([], {}, {})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FeatureSchema(()), "at least one feature"),
        (lambda: FeatureSchema((Feature("a", "number"),) * 2), r"twice: \['a'\]"),
        (lambda: Feature("a", "tensor"), "give a tensor sizes"),
        (lambda: Feature("a", "tensor", (2, 0)), "give a tensor sizes"),
        (lambda: Feature("a", "number", (2,)), "has no shape"),
        (lambda: Feature("a", "float"), "kind is 'float'"),
        (lambda: Feature("", "number"), "name is empty"),
        (lambda: FeatureSchema.from_json({}), "'features' is null"),
        (lambda: FeatureSchema.from_json({"features": [3]}), "a feature is 3"),
        (
            lambda: FeatureSchema.from_json({"features": [{"name": "a", "kind": "x"}]}),
            "kind is 'x'",
        ),
        (
            lambda: FeatureSchema.from_json(
                {"features": [{"name": "a", "kind": "tensor", "shape": [1.5]}]}
            ),
            "'shape' is",
        ),
        (lambda: Rows(np.zeros(3)), "numbers must be"),
        (lambda: Rows(np.zeros((1, 1)), (("a",), ("b",))), "2 category rows, 1 number rows"),
        (lambda: Rows.concat([]), "width is unknown"),
    ],
)
def test_a_malformed_value_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@given(schemas(), schemas())
def test_schema_survives_json_and_is_told_by_its_digest(schema, other):
    again = FeatureSchema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    assert again.digest() == schema.digest()
    assert (other.digest() == schema.digest()) == (other == schema)
    assert pickle.loads(pickle.dumps(schema)) == schema  # noqa: S301 (our own bytes)


@settings(deadline=None)
@given(st.data())
def test_rows_can_be_cut_and_joined(data):
    schema = data.draw(schemas())
    rows = schema.parse_many(data.draw(items_of(schema, share_bad=False))).rows
    cut = data.draw(st.integers(0, len(rows)))
    assert_equal_rows(Rows.concat([rows.slice(0, cut), rows.slice(cut, len(rows))]), rows)
    order = data.draw(st.permutations(range(len(rows))))
    taken = rows.take(order)
    for position, index in enumerate(order):
        assert taken.equal_row(position, rows, index)
    assert_equal_rows(taken.take(np.argsort(order)), rows)


def test_equal_rows_compare_values_not_bytes():
    rows = Rows(np.array([[0.0, np.nan], [-0.0, np.nan], [0.0, 1.0]]), (("a",), ("a",), ("a",)))
    assert rows.equal_row(0, rows, 1)
    assert not rows.equal_row(0, rows, 2)
    assert not rows.equal_row(0, Rows(rows.numbers, (("b",),) * 3), 0)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_encoding_is_finite_row_by_row_and_survives_json(data):
    schema = data.draw(schemas())
    rows = schema.parse_many(data.draw(items_of(schema, share_bad=False))).rows
    others = schema.parse_many(data.draw(items_of(schema, share_bad=False))).rows
    if not len(rows):
        return
    fitted = Preprocessor.fit(schema, rows)
    again = Preprocessor.from_json(schema, json.loads(json.dumps(fitted.to_json())))
    assert again == fitted
    for part in (rows, others):
        encoded = fitted.encode(part)
        assert (encoded.shape, encoded.dtype) == ((len(part), fitted.d), np.float32)
        assert np.isfinite(encoded).all()
        assert encoded.tobytes() == again.encode(part).tobytes()
        alone = [fitted.encode(part.slice(i, i + 1)) for i in range(len(part))]
        assert encoded.tobytes() == b"".join(row.tobytes() for row in alone)
    assert not fitted.novel(rows).any()
    known = [
        all(v is None or v in kept for v, kept in zip(row, fitted.values, strict=True))
        for row in others.categories or [()] * len(others)
    ]
    assert fitted.novel(others).tolist() == [not k for k in known]


@given(
    st.lists(st.tuples(st.integers(-999, 999), st.booleans(), st.sampled_from("xyz")), min_size=2)
)
def test_an_encoding_can_be_read_back(triples):
    schema = FeatureSchema((Feature("n", "number"), Feature("b", "bool"), Feature("c", "category")))
    rows = schema.parse_many([{"n": n, "b": b, "c": c} for n, b, c in triples]).rows
    fitted = Preprocessor.fit(schema, rows)
    encoded = fitted.encode(rows).astype(np.float64)
    numbers = encoded[:, 0] * fitted.scale[0] + fitted.center[0]
    np.testing.assert_allclose(numbers, rows.numbers[:, 0], atol=1e-3)
    assert encoded[:, 1].tolist() == [float(b) for _, b, _ in triples]
    assert [fitted.values[0][i] for i in encoded[:, 2:].argmax(1)] == [c for _, _, c in triples]
    assert (encoded[:, 2:].sum(1) == 1).all()


def test_fit_by_hand():
    schema = FeatureSchema(
        (
            Feature("n", "number", nullable=True),
            Feature("t", "tensor", (2,), nullable=True),
            Feature("b", "bool", nullable=True),
            Feature("c", "category", nullable=True),
            Feature("k", "number"),
        )
    )
    items = [
        {"n": 1, "t": [0, 2], "b": True, "c": "u", "k": 5},
        {"n": 2, "t": [4, 2], "b": True, "c": "v", "k": 5},
        {"n": 9, "t": None, "b": False, "c": None, "k": 5},
        {"n": None, "t": None, "b": None, "c": "u", "k": 5},
    ]
    fitted = Preprocessor.fit(schema, schema.parse_many(items).rows)
    n_std = math.sqrt((9 + 4 + 25) / 3)
    np.testing.assert_allclose(fitted.fill, (2, 2, 1, 5), rtol=1e-12)
    np.testing.assert_allclose(fitted.center, (4, 2, 0, 5), rtol=1e-12)
    np.testing.assert_allclose(fitted.scale, (n_std, math.sqrt(2), 1, 1), rtol=1e-12)
    assert (fitted.values, fitted.d) == ((("u", "v"),), 8)
    rows = schema.parse_many([{"k": 6}, {"n": 4, "t": [2, 2], "b": False, "c": "w", "k": 5}]).rows
    np.testing.assert_allclose(
        fitted.encode(rows),
        [[-2 / n_std, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]],
        rtol=1e-6,
    )
    assert fitted.novel(rows).tolist() == [False, True]


def test_outliers_neither_overflow_nor_spoil_the_fit():
    schema = FeatureSchema((Feature("n", "number"),))
    huge = schema.parse_many([{"n": 1.7e308}, {"n": -1.7e308}, {"n": 1e308}]).rows
    small = schema.parse_many([{"n": 1e-12}, {"n": 2e-12}]).rows
    fitted = Preprocessor.fit(schema, small)
    np.testing.assert_allclose(fitted.encode(small)[:, 0], [-1, 1], rtol=1e-6)
    assert fitted.encode(huge)[:, 0].tolist() == [LIMIT, -LIMIT, LIMIT]
    wide = schema.parse_many([{"n": 1e307}, {"n": -1e307}]).rows
    np.testing.assert_allclose(Preprocessor.fit(schema, wide).encode(wide)[:, 0], [1, -1])


def test_an_open_ended_category_keeps_the_frequent_values_and_is_never_novel():
    schema = FeatureSchema((Feature("c", "category"),))
    values = [f"v{i:03}" for i in range(300)] + [f"v{i:03}" for i in range(100, 300)]
    fitted = Preprocessor.fit(schema, schema.parse_many([{"c": v} for v in values]).rows)
    assert len(fitted.values[0]) == MAX_CATEGORIES
    assert fitted.values[0] == (
        *(f"v{i:03}" for i in range(56)),
        *(f"v{i:03}" for i in range(100, 300)),
    )
    unseen = schema.parse_many([{"c": "new"}]).rows
    assert fitted.encode(unseen)[0, -1] == 1
    assert not fitted.novel(unseen).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": [0.0]}, "every scale must be > 0"),
        ({"center": [math.nan]}, "center must hold 1 finite"),
        ({"fill": []}, "fill must hold 1 finite"),
        ({"values": []}, "values for 1 categories"),
        ({"values": 3}, "not what to_json writes"),
    ],
)
def test_a_malformed_preprocessor_is_refused(change, message):
    schema = FeatureSchema((Feature("n", "number"), Feature("c", "category")))
    right = {"fill": [0.0], "center": [0.0], "scale": [1.0], "values": [["a"]]}
    Preprocessor.from_json(schema, right)
    with pytest.raises(ValueError, match=message):
        Preprocessor.from_json(schema, {**right, **change})


def test_misuse_of_the_preprocessor_is_refused():
    schema = FeatureSchema((Feature("n", "number"),))
    with pytest.raises(ValueError, match="no rows"):
        Preprocessor.fit(schema, Rows(np.empty((0, 1))))
    fitted = Preprocessor.fit(schema, Rows(np.zeros((2, 1))))
    with pytest.raises(ValueError, match="rows have 2 columns, the schema 1"):
        fitted.encode(Rows(np.zeros((2, 2))))


def test_schema_needs_numpy_only():
    code = "import adapters.feature_schema, sys; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "pandas", "msgspec", "safetensors", "scipy"} & set(loaded.stdout.split())
