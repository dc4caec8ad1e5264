"""Seldon's messages: what is understood, and what is refused with which words."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.serving.messages import MOST_ROWS, RequestError, answered_by, reply, rows_of
from tests.deploy.served_models import (
    NAMES,
    OTHER_ROW,
    ROW,
    SCHEMA,
    items,
    make_model,
    raw_rows,
    request,
)


def equal(message: object, *rows: list[object]) -> bool:
    found, wanted = rows_of(message, SCHEMA), raw_rows(*rows)
    return len(found) == len(wanted) and all(
        found.equal_row(i, wanted, i) for i in range(len(wanted))
    )


def test_rows_come_by_name_in_any_order_with_extra_columns_ignored() -> None:
    assert equal(request(ROW, OTHER_ROW), ROW, OTHER_ROW)
    turned = [[*reversed(row), "extra"] for row in (ROW, OTHER_ROW)]
    assert equal({"data": {"names": [*reversed(NAMES), "more"], "ndarray": turned}}, ROW, OTHER_ROW)
    assert equal({"jsonData": items(ROW, OTHER_ROW)}, ROW, OTHER_ROW)
    assert equal({"jsonData": items(ROW)[0]}, ROW)


def test_a_number_beside_a_category_stays_a_number() -> None:
    """One numpy array of both would hold text."""
    assert rows_of(request(ROW), SCHEMA).numbers[0, 0] == 30.0


def test_a_tensor_of_numbers_is_cut_into_rows() -> None:
    from adapters.feature_schema import Feature, FeatureSchema

    schema = FeatureSchema((Feature("a", "number"), Feature("b", "number")))
    tensor = {"shape": [2, 2], "values": [1, 2, 3, 4.5]}
    rows = rows_of({"data": {"names": ["b", "a"], "tensor": tensor}}, schema)
    np.testing.assert_array_equal(rows.numbers, [[2.0, 1.0], [4.5, 3.0]])


def data(**parts: object) -> dict[str, object]:
    return {"data": {"names": NAMES, **parts}}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ([1], "the request is a list of 1; send a JSON object"),
        ({"strData": "x"}, r"holds \['strData'\]; send 'data'"),
        ({"data": []}, "data is a list of 0"),
        ({"data": {"ndarray": [ROW]}}, r"data.names is missing; name the columns \(age, plan"),
        (
            {"data": {"names": ["age", "age"], "ndarray": []}},
            "data.names holds 'age' twice",
        ),
        (data(), r"data holds \[\]; send its rows as 'ndarray' or 'tensor'"),
        (data(tftensor={}), r"data holds \['tftensor'\]"),
        (data(ndarray="x"), "data.ndarray is the text 'x'"),
        (data(ndarray=[]), "holds 0 rows"),
        (data(ndarray=[ROW] * (MOST_ROWS + 1)), f"holds {MOST_ROWS + 1} rows"),
        (data(ndarray=[ROW, [1]]), "row 1 is a list of 1; send a list of 4 values"),
        (data(ndarray=[ROW, None]), "row 1 is missing"),
        (data(tensor={"shape": [4], "values": [1] * 4}), r"shape is \[4\]; send \[rows, columns\]"),
        (data(tensor={"shape": [1, 4], "values": [1]}), r"shape \[1, 4\] takes a list of 4"),
        (data(tensor={"shape": [1e9, 4], "values": [1]}), "shape is"),
        (data(ndarray=[ROW, ["x", *ROW[1:]]]), "row 1: feature 'age' is 'x': expected a finite"),
        (data(ndarray=[[float("nan"), *ROW[1:]]]), "row 0: feature 'age' is nan"),
        (data(ndarray=[[*ROW[:3], [1, 2]]]), "'pixels' is a list of 2: expected a flat list of 4"),
        ({"jsonData": [{"age": 1}]}, "row 0: feature 'plan' is missing"),
        ({"jsonData": "text"}, "jsonData: row 0 is the text 'text'"),
    ],
)
def test_what_cannot_be_used_is_named(message: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        rows_of(message, SCHEMA)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["data", "names", "ndarray", "tensor", "shape", "values", "jsonData"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_whatever_comes_is_used_or_refused(message: object) -> None:
    try:
        assert 1 <= len(rows_of(message, SCHEMA)) <= MOST_ROWS
    except RequestError as error:
        assert str(error)


def test_the_reply_has_the_form_of_the_request() -> None:
    model = make_model()
    prediction = model.predict(raw_rows(ROW, OTHER_ROW))
    assert prediction.proba is not None
    answer: Any = reply({"data": {"ndarray": []}}, model, prediction, {"arm": "stable"})
    assert answer["data"] == {"names": ["no", "yes"], "ndarray": prediction.proba.tolist()}
    assert answer["meta"] == {"tags": {"arm": "stable"}}
    tensor: Any = reply({"data": {"tensor": {}}, "meta": {"puid": "p"}}, model, prediction, {})
    assert tensor["data"]["tensor"]["shape"] == [2, 2]
    assert tensor["data"]["tensor"]["values"] == prediction.proba.ravel().tolist()
    assert tensor["meta"]["puid"] == "p"


def test_a_regression_answers_values_in_target_units() -> None:
    model = make_model(regression=True)
    prediction = model.predict(raw_rows(ROW))
    answer: Any = reply({"jsonData": {}}, model, prediction, {})
    assert answer["data"] == {"names": ["value"], "ndarray": [[prediction.values[0]]]}


def test_feedback_says_who_answered() -> None:
    assert answered_by({"response": {"meta": {"tags": {"model_version": "1-ab"}}}}) == "1-ab"
    for odd in ({}, {"response": 1}, {"response": {"meta": {"tags": {"model_version": 3}}}}):
        with pytest.raises(RequestError, match="send the answer back as 'response'"):
            answered_by(odd)
