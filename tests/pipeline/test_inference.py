from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.feature_schema import Feature
from pipeline.data_columns import Columns
from pipeline.data_file import open_data_file
from pipeline.data_file_error import DataFileError
from pipeline.inference import Inferred, infer
from tests.pipeline.data_sets import data_set
from tests.pipeline.test_data_file import many, written


def inferred(tmp_path: Path, **columns: Sequence[object]) -> Inferred:
    return infer(written(tmp_path, many(**columns)), Columns("y"))


def test_the_kinds_of_features(tmp_path: Path) -> None:
    found = inferred(
        tmp_path,
        y=["a", "b", "a", "a"],
        size=[1, 2.5, "", -3],
        ok=["true", "False", "true", "true"],
        grade=["1", "2", "A", "1"],
        nothing=["", "NA", "NaN", "null"],
    )
    assert found.schema.features == (
        Feature("size", "number", nullable=True),
        Feature("ok", "bool"),
        Feature("grade", "category"),
    )
    assert found.left_out == {"nothing": "it holds no value"}
    assert (found.classes, found.rows, found.labelled) == ({"a": 3, "b": 1}, 4, 4)


def test_columns_that_a_person_should_look_at_are_named(tmp_path: Path) -> None:
    n = 40
    found = inferred(
        tmp_path,
        y=["a", "b"] * (n // 2),
        customer=range(n),
        at=[f"2026-01-{1 + i % 9:02}T00:00:00Z" for i in range(n)],
        age=[*range(30, 68), 30, "old"],
        size=[i / 7 + 0.1 for i in range(n)],
        plan=["gold", "2"] * (n // 2),
    )
    assert found.doubts == {
        "customer": "each row has a value of its own: if it names the row, name it with --id",
        "at": "'2026-01-01T00:00:00Z' looks like a time: name the column with --time",
        "age": "39 of 40 values are numbers, 'old' in row 39 is not: correct it, or the column is "
        "read as text",
    }
    assert [f.name for f in found.schema.features] == ["customer", "at", "age", "size", "plan"]
    named = Columns("y", features=("customer", "at"))
    assert infer(tmp_path / "rows.csv", named).doubts == {}


def test_tensors(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {f"image.{i}": [i, i] for i in range(64)}
    found = inferred(tmp_path, y=["a", "b"], **columns)
    assert found.schema.features == (Feature("image", "tensor", (64,)),)
    columns["image.3"] = [1, ""]
    with pytest.raises(
        DataFileError, match=r"'image\.3', row 1 .*no value here; a tensor is whole"
    ):
        inferred(tmp_path, y=["a", "b"], **columns)
    columns["image.3"] = [1, "ink"]
    with pytest.raises(
        DataFileError, match=r"'image\.3', row 1 .*'ink': tensor 'image' holds finite"
    ):
        inferred(tmp_path, y=["a", "b"], **columns)


@pytest.mark.parametrize(
    ("labels", "task_type", "why"),
    [
        (["up", "down"] * 30, "classification", "holds text ('up' in row 0)"),
        ([1.0, 2.0] * 30, "classification", "2 different whole numbers"),
        ([0.5, 2.0] * 30, "regression", "30 numbers with fractions"),
        (list(range(60)), "regression", "over 50 different numbers"),
        (["true", "false"] * 30, "classification", "holds text"),
    ],
)
def test_the_task_type(tmp_path: Path, labels: list[object], task_type: str, why: str) -> None:
    found = inferred(tmp_path, y=labels, x=list(range(60)))
    assert found.task_type == task_type
    assert why in found.why
    assert bool(found.classes) == (task_type == "classification")


def test_class_order_is_by_size_then_name(tmp_path: Path) -> None:
    found = inferred(tmp_path, y=["10", "b", "2", "a"], x=[1, 2, 3, 4])
    assert found.class_names == ("2", "10", "a", "b")


def test_what_is_asked_for_holds(tmp_path: Path) -> None:
    path = written(tmp_path, many(y=[1, 2, 3, 4], x=[1, 2, 3, 4]))
    assert infer(path, Columns("y"), "regression").task_type == "regression"
    path = written(tmp_path, many(y=[1, "n/k", 3], x=[1, 2, 3]))
    with pytest.raises(DataFileError, match=r"'y', row 1 .*'n/k': regression needs a finite"):
        infer(path, Columns("y"), "regression")


def test_a_number_column_with_a_broken_value_is_an_error(tmp_path: Path) -> None:
    values: list[object] = [*range(400), "n.a."]
    with pytest.raises(DataFileError, match=r"'x', row 400 .*'n\.a\.': 400 of 401 values are"):
        inferred(tmp_path, y=["a", "b"] * 200 + ["a"], x=values)
    with pytest.raises(DataFileError, match=r"'x', row 1 .*'inf': 2 of 3 values are finite"):
        inferred(tmp_path, y=["a", "b", "a"], x=[1, "inf", 2])


def test_free_text_is_left_out_unless_named(tmp_path: Path) -> None:
    texts: list[object] = [f"text {i}" for i in range(300)]
    path = written(tmp_path, many(y=["a", "b"] * 150, note=texts, x=list(range(300))))
    found = infer(path, Columns("y"))
    assert found.schema.names == ("x",)
    assert "over 256 different texts" in found.left_out["note"]
    named = infer(path, Columns("y", features=("note", "x")))
    assert named.schema.features[0] == Feature("note", "category")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 3, "holds the one class 'a'; a model needs two; give a file"),
        ([""] * 3, "holds no label; name another --label"),
        ([f"c{i}" for i in range(10_001)], "more than 10000 different classes"),
        (["a", "b" * 257], "'b{56}\\.\\.\\.: a class has 257 characters; .* at most 256; shorten"),
    ],
)
def test_labels_that_cannot_be_learned(tmp_path: Path, labels: list[object], message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        inferred(tmp_path, y=labels, x=list(range(len(labels))))


def test_arrays_of_different_length_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, '{"y":"a","v":[1,2]}\n{"y":"b","v":[1]}\n', "f.jsonl")
    with pytest.raises(
        DataFileError, match=r"column 'v': arrays have different lengths \(\[1, 2\]"
    ):
        infer(path, Columns("y"))
    path = written(tmp_path, '{"y":"a","v":[1,2]}\n{"y":"b","v":[1,"x"]}\n', "f.jsonl")
    with pytest.raises(DataFileError, match=r"'v', row 1 .*finite numbers only"):
        infer(path, Columns("y"))


def test_what_is_inferred_reads_the_same_file(tmp_path: Path) -> None:
    """The law of init: the schema that it writes accepts every row of its file."""
    path = written(
        tmp_path,
        many(
            y=["a", "b", "", "a"],
            x=[1, "", 3.5, 4],
            c=["p", "1", "", "1.0"],
            b=["true", "false", "true", "true"],
            t=["n", "n", "m", "m"],
            **{"v.0": [1, 2, 3, 4], "v.1": [0, 0, 0, 0]},
        ),
    )
    file = open_data_file(path, Columns("y", task="t"))
    parsed = file.schema.parse_many([r.features for r in file.rows()])
    assert (parsed.kept, parsed.errors, parsed.extra) == ([0, 1, 2, 3], {}, {})


@pytest.mark.parametrize(
    ("name", "columns", "task_type", "tasks"),
    [
        ("gas_drift/gas_drift_b1-6.csv.xz", Columns("gas", task="batch"), "classification", 6),
        ("wisdm_users/wisdm_users.csv.xz", Columns("activity", task="user"), "classification", 24),
        ("elec2/elec2.csv.xz", Columns("class"), "classification", 0),
        ("noaa_weather/noaa_weather.csv.xz", Columns("label"), "classification", 0),
    ],
)
def test_real_files(name: str, columns: Columns, task_type: str, tasks: int) -> None:
    path = data_set(name)
    found = infer(path, columns)
    assert (found.task_type, len(found.tasks)) == (task_type, tasks)
    file = open_data_file(path, columns, task_type=found.task_type, schema=found.schema)
    some = [row.features for row, _ in zip(file.rows(), range(1000), strict=False)]
    assert file.schema.parse_many(some).errors == {}
