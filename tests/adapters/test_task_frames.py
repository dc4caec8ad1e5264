"""Tasks from a frame: what becomes one, and what is named as left out."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.feature_schema import Feature, FeatureError, FeatureSchema
from adapters.task_frames import (
    LeftOut,
    TaskFrameError,
    TaskRows,
    data_of_frame,
    schema_of_frame,
    tasks_by_columns,
    tasks_by_segments,
    tasks_by_time,
)


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "machine": ["m1", "m1", "m2", "m1", None, "m2", "m3"],
            "season": ["dry", "wet", "dry", "dry", "wet", "dry", "wet"],
            "when": pd.to_datetime(
                [
                    "2026-01-08",
                    "2026-01-01",
                    "2026-01-02",
                    "2026-01-09",
                    None,
                    "2026-01-30",
                    "2026-01-08",
                ]
            ),
            "heat": [1.0, 2.0, np.nan, 4.0, 5.0, 6.0, 7.0],
            "on": [True, False, True, True, False, True, False],
            "part": ["a", "b", "a", None, "b", "b", "a"],
            "label": [1, 0, 1, 1, 0, 0, 1],
        },
        index=range(100, 107),
    )


def rows(tasks: TaskRows) -> dict[str, list[int]]:
    return {name: at.tolist() for name, at in tasks.rows.items()}


def test_by_one_column_and_by_two() -> None:
    one = tasks_by_columns(frame(), ["machine"], least=2)
    assert rows(one) == {"m1": [0, 1, 3], "m2": [2, 5]}
    assert set(one.left_out) == {
        LeftOut("(no task)", 1, "no value in 'machine'"),
        LeftOut("m3", 1, "has 1 row, fewer than 2"),
    }
    two = tasks_by_columns(frame(), ["machine", "season"])
    assert rows(two) == {"m1/dry": [0, 3], "m1/wet": [1], "m2/dry": [2, 5], "m3/wet": [6]}
    assert [t.reason for t in two.left_out] == ["no value in 'machine' or 'season'"]


def test_combinations_with_one_name_are_refused() -> None:
    both = pd.DataFrame({"a": ["x/y", "x"], "b": ["z", "y/z"]})
    with pytest.raises(TaskFrameError, match=r"both named 'x/y/z'"):
        tasks_by_columns(both, ["a", "b"])


def test_by_time_windows_that_do_not_depend_on_the_other_rows() -> None:
    found = tasks_by_time(frame(), "when", "7D", least=1)
    assert rows(found) == {
        "2026-01-01T00:00:00": [1, 2],
        "2026-01-08T00:00:00": [0, 3, 6],
        "2026-01-29T00:00:00": [5],
    }
    assert found.left_out == (LeftOut("(no task)", 1, "no time in 'when'"),)
    assert rows(tasks_by_time(frame().iloc[:1], "when", "7D")) == {"2026-01-08T00:00:00": [0]}


def test_by_segments() -> None:
    found = tasks_by_segments(frame(), [3, 5], least=3)
    assert rows(found) == {"segment-0": [0, 1, 2]}
    assert [t.name for t in found.left_out] == ["segment-1", "segment-2"]
    for starts in ([0], [3, 3], [7]):
        with pytest.raises(TaskFrameError, match="rising positions"):
            tasks_by_segments(frame(), starts)


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_every_row_is_in_a_task_or_left_out_by_name(cells: list[str | None], least: int) -> None:
    found = tasks_by_columns(
        pd.DataFrame({"t": pd.Series(cells, dtype=object)}), ["t"], least=least
    )
    kept = [row for at in found.rows.values() for row in at.tolist()]
    assert len(set(kept)) == len(kept)
    assert len(kept) + sum(t.rows for t in found.left_out) == len(cells)
    assert all(t.reason for t in found.left_out)


def test_a_frame_becomes_meta_training_data() -> None:
    schema = schema_of_frame(frame(), ["heat", "on", "part"])
    assert [(f.kind, f.nullable) for f in schema.features] == [
        ("number", True),
        ("bool", False),
        ("category", True),
    ]
    tasks = tasks_by_columns(frame(), ["machine"], least=2)
    data = data_of_frame(frame(), tasks, schema, label="label", group="season")
    assert data.tasks == ("m1", "m1", "m1", "m2", "m2")
    assert data.examples.labels == ("1", "0", "1", "1", "0")
    assert data.examples.rows.categories[2] == (None,)
    assert len(np.unique(data.examples.keys)) == 2
    values = data_of_frame(frame(), tasks, schema, label="label", regression=True)
    assert values.examples.values.tolist() == [1, 0, 1, 1, 0]
    assert len(np.unique(values.examples.keys)) == 5


def test_rows_are_known_by_what_they_hold_so_that_two_frames_do_not_clash() -> None:
    schema = schema_of_frame(frame(), ["heat", "on", "part"])

    def keys(table: pd.DataFrame, column: str = "season") -> list[int]:
        tasks = tasks_by_columns(table, [column])
        known = data_of_frame(table, tasks, schema, label="label").examples.keys
        in_order = np.argsort(np.concatenate(list(tasks.rows.values())))
        return list(known[in_order].tolist())

    whole = keys(frame())
    assert len(set(whole)) == 7
    other = frame().assign(heat=lambda table: table["heat"] + 0.5)
    assert set(keys(other)) & set(whole) == {whole[2]}  # the row that has no heat is the same row
    part = frame().assign(on=frame()["on"].astype(object), more=1, heat=frame()["heat"]).iloc[3:]
    assert keys(part) == whole[3:]
    assert keys(frame().assign(all="one"), "all") == whole
    twice = pd.concat([frame(), frame()])
    assert keys(twice)[:7] == whole and len(set(keys(twice))) == 14


def test_tensors_tell_rows_apart_too() -> None:
    table = pd.DataFrame({"t": ["a"] * 3, "x": [[0.0, 1.0], [0.0, 2.0], [0.0, 1.0]], "y": "no"})
    schema = FeatureSchema((Feature("x", "tensor", (2,)),))
    found = data_of_frame(table, tasks_by_columns(table, ["t"]), schema, label="y").examples.keys
    assert len(set(found.tolist())) == 3
    (alone,) = data_of_frame(
        table.iloc[1:2], tasks_by_columns(table.iloc[1:2], ["t"]), schema, label="y"
    ).examples.keys
    assert alone == found[1]


def test_what_cannot_be_used_is_named() -> None:
    tasks = tasks_by_columns(frame(), ["season"])
    schema = schema_of_frame(frame(), ["heat"])
    with pytest.raises(TaskFrameError, match=r"no column 'shop'; choose from: machine"):
        tasks_by_columns(frame(), ["shop"])
    with pytest.raises(TaskFrameError, match=r"columns is empty"):
        tasks_by_columns(frame(), [])
    with pytest.raises(TaskFrameError, match=r"'machine' is of type .*to_datetime"):
        tasks_by_time(frame(), "machine", "7D")
    for every in ("soon", "-1D"):
        with pytest.raises(TaskFrameError, match=f"every is '{every}'"):
            tasks_by_time(frame(), "when", every)
    with pytest.raises(TaskFrameError, match=r"'machine', row 4 \(from 0\): no label"):
        data_of_frame(frame(), tasks, schema, label="machine")
    with pytest.raises(TaskFrameError, match=r"'season': 'dry' is no finite number"):
        data_of_frame(frame(), tasks, schema, label="season", regression=True)
    with pytest.raises(FeatureError, match="heat"):
        strict = FeatureSchema((Feature("heat", "number"),))
        data_of_frame(frame(), tasks, strict, label="label")
    with pytest.raises(TaskFrameError, match="belongs to two tasks"):
        twice = TaskRows({"a": np.array([0, 1]), "b": np.array([1])})
        data_of_frame(frame(), twice, schema, label="label")
    with pytest.raises(TaskFrameError, match=r"no task is left .*fewer than 9"):
        data_of_frame(
            frame(), tasks_by_columns(frame(), ["season"], least=9), schema, label="label"
        )


def one(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"t": ["a"] * 4, "x": [1.0, 2.0, 3.0, 4.0], "y": list("pqpq"), **columns})


def data(table: pd.DataFrame, **options: str) -> tuple[tuple[str, ...], list[int]]:
    """Return labels and keys."""
    schema = schema_of_frame(table, ["x"])
    found = data_of_frame(table, tasks_by_columns(table, ["t"]), schema, label="y", **options)  # type: ignore[arg-type]
    return found.examples.labels, found.examples.keys.tolist()


def test_classes_tasks_and_groups_are_named_as_in_the_stream_whatever_their_type() -> None:
    labels, keys = data(one(y=[1, 0, 1, 0]))
    assert labels == ("1", "0", "1", "0")
    assert data(one(y=[1.0, 0.0, 1.0, -0.0])) == (labels, keys)
    assert data(one(y=["1", "0", "1", "0"])) == (labels, keys)
    assert data(one(y=[True, False, True, False]))[0] == ("true", "false", "true", "false")
    assert data(one(y=[0.5, 1.5, 0.5, 1.5]))[0] == ("0.5", "1.5", "0.5", "1.5")
    assert tasks_by_columns(one(t=[1.0, 1.0, 2.0, None]), ["t"]).names == ("1", "2")
    whole, part = one(g=[7, 7, 8, 8]), one(g=[7.0, 7.0, 8.0, None])
    assert data(part, group="g")[1][:3] == data(whole, group="g")[1][:3]


def test_rows_without_a_group_are_not_one_group() -> None:
    for nothing in (None, np.nan):
        (_, keys), (_, alone) = data(one(g=["g", "g", nothing, nothing]), group="g"), data(one())
        assert keys[0] == keys[1] and keys[2:] == alone[2:]


def test_windows_do_not_depend_on_the_time_zone_and_survive_the_end_of_summer_time() -> None:
    hours = pd.date_range("2026-10-24 20:00", periods=40, freq="1h", tz="UTC")
    for every in ("1h", "1D", "7D"):
        there = pd.DataFrame({"at": hours.tz_convert("Europe/Berlin")})
        found = tasks_by_time(there, "at", every)
        assert rows(found) == rows(tasks_by_time(pd.DataFrame({"at": hours}), "at", every))
    assert len(found.names) == 1


def test_truth_values_with_gaps_are_truth_values() -> None:
    table = one(x=[True, False, None, True])
    (feature,) = schema_of_frame(table, ["x"]).features
    assert (feature.kind, feature.nullable) == ("bool", True)
    assert data(table)[0] == ("p", "q", "p", "q")


def test_columns_that_cannot_be_told_apart_or_read_are_named() -> None:
    for column in ("t", "x", "y"):
        with pytest.raises(TaskFrameError, match=f"several columns '{column}'"):
            data(pd.concat([one(), one()[[column]]], axis=1))
    with pytest.raises(TaskFrameError, match="column 0 cannot be a feature"):
        schema_of_frame(one().rename(columns={"x": 0}), [0])  # type: ignore[list-item]
    with pytest.raises(TaskFrameError, match=r"column 'x' is of type datetime64.*the hour"):
        data(one(x=pd.to_datetime(["2026-01-01"] * 4)))
    with pytest.raises(TaskFrameError, match=r"row 0 \(from 0\): .*names no task"):
        tasks_by_columns(one(t=[["a"]] * 4), ["t"])
