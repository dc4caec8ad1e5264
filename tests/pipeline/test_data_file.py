import gzip
import json
import lzma
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.feature_schema import Feature, FeatureSchema
from pipeline.cell_values import read_text
from pipeline.data_columns import parse_boundaries, resolve_features
from pipeline.data_file import (
    FIRST_MS,
    Columns,
    DataFile,
    DataFileError,
    FileRow,
    open_data_file,
    shuffle_within_task,
)
from pipeline.label_values import canonical
from tests.pipeline.data_sets import data_set

CSV = """day,x,colour,ok,label,batch
2026-01-01T00:00:00Z,1.5,red,true,1.0,a
2026-01-01T00:01:00Z,,blue,false,2,a
2026-01-01T00:02:00Z,-3,red,true,,b
"""
COLUMNS = Columns("label", task="batch", time="day", boundaries="batch")


def written(tmp_path: Path, text: str, name: str = "rows.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def many(**columns: Sequence[object]) -> str:
    lines = [",".join(columns)]
    lines += [",".join(str(c) for c in row) for row in zip(*columns.values(), strict=True)]
    return "\n".join(lines) + "\n"


def test_rows_of_a_csv_file(tmp_path: Path) -> None:
    rows = list(open_data_file(written(tmp_path, CSV), COLUMNS).rows())
    assert [r.features for r in rows] == [
        {"x": 1.5, "colour": "red", "ok": True},
        {"x": None, "colour": "blue", "ok": False},
        {"x": -3.0, "colour": "red", "ok": True},
    ]
    assert [r.label for r in rows] == ["1", "2", None]
    assert [r.id for r in rows] == ["rows-0", "rows-1", "rows-2"]
    assert [r.task for r in rows] == ["a", "a", "b"]
    assert [r.boundary for r in rows] == [False, False, True]
    assert rows[1].ts_ms - rows[0].ts_ms == 60_000


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.csv.xz"])
def test_compressed_files_read_alike(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(CSV.encode()))
        case ".xz":
            path.write_bytes(lzma.compress(CSV.encode()))
        case _:
            path.write_text(CSV)
    plain = written(tmp_path, CSV, "plain.csv")
    found = [(r.features, r.label, r.ts_ms) for r in open_data_file(path, COLUMNS).rows()]
    assert found == [(r.features, r.label, r.ts_ms) for r in open_data_file(plain, COLUMNS).rows()]
    assert next(iter(open_data_file(path, COLUMNS).rows())).id == "rows-0"


def test_jsonl_and_parquet_give_the_rows_of_the_csv(tmp_path: Path) -> None:
    rows = [
        {"x": 1.5, "colour": "red", "ok": True, "label": 1, "image": [0, 1]},
        {"x": None, "colour": "blue", "ok": False, "label": 2, "image": [2, 3]},
    ]
    jsonl = written(tmp_path, "".join(json.dumps(r) + "\n" for r in rows), "f.jsonl")
    parquet = tmp_path / "f.parquet"
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    text = "x,colour,ok,label,image.0,image.1\n1.5,red,true,1,0,1\n,blue,false,2,2,3\n"
    csv = written(tmp_path, text, "f.csv")
    columns = Columns("label")
    expected = list(open_data_file(csv, columns).rows())
    assert expected[1].features["image"] == [2.0, 3.0]
    for path in (jsonl, parquet):
        found = list(open_data_file(path, columns).rows())
        assert found == expected


def test_event_messages_are_readable_as_jsonl(tmp_path: Path) -> None:
    line = json.dumps({"id": "a", "features": {"x": 1, "y": 2}, "label": "up"})
    path = written(tmp_path, line + "\n" + line.replace('"up"', '"down"') + "\n", "e.jsonl")
    row = next(open_data_file(path, Columns("label", id="id")).rows())
    assert (row.id, row.features, row.label) == ("a", {"x": 1.0, "y": 2.0}, "up")


def test_parquet_timestamps_are_times(tmp_path: Path) -> None:
    at = pa.array([1_700_000_000_123_456_789, 1_700_000_001_000_000_000], pa.timestamp("ns"))
    table = pa.table({"t": at, "x": [1.0, 2.0], "y": ["a", "b"]})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = list(open_data_file(tmp_path / "t.parquet", Columns("y", time="t")).rows())
    assert [r.ts_ms for r in rows] == [1_700_000_000_123, 1_700_000_001_000]


def test_without_a_time_column_a_row_is_a_second(tmp_path: Path) -> None:
    path = written(tmp_path, many(x=[1, 2, 3], y=["a", "b", "a"]))
    rows = list(open_data_file(path, Columns("y")).rows())
    assert [r.ts_ms for r in rows] == [FIRST_MS, FIRST_MS + 1000, FIRST_MS + 2000]


def test_tensor_columns_become_one_feature(tmp_path: Path) -> None:
    names = resolve_features("f", Columns("y"), ["y", "image.1", "image.0", "z", "w.7"])
    assert [(f.name, f.columns) for f in names] == [
        ("image", ("image.0", "image.1")),
        ("z", ("z",)),
        ("w.7", ("w.7",)),
    ]
    only = resolve_features("f", Columns("y", features=("image",)), ["y", "image.0", "image.1"])
    assert [f.name for f in only] == ["image"]
    with pytest.raises(DataFileError, match=r"goes to image\.3 but has no image\.2; add"):
        resolve_features("f", Columns("y"), ["y", "image.0", "image.1", "image.3"])


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (CSV, Columns("lable"), r"no column 'lable' \(--label\); choose from: day, x"),
        (CSV, Columns("label", task="user"), r"no column 'user' \(--task\)"),
        (CSV, Columns("label", task="batch,user"), r"no column 'user' \(--task\)"),
        (CSV, Columns("label", features=("xx",)), r"no column 'xx' \(--features\)"),
        (CSV, Columns("label", time="colour"), r"column 'colour', row 0 .*: 'red': is no time; wr"),
        ("a,a\n1,2\n", Columns("a"), r"names \['a'\] more than once"),
        ("x,y\n1,a\n1\n", Columns("y"), r"row 1 \(from 0\): has 1 fields, the header has 2; quote"),
        ("x,y\n", Columns("y"), r"has a header but no rows"),
        ("", Columns("y"), r"is empty"),
        ("y\na\nb\n", Columns("y"), r"no column is left to be a feature"),
        (CSV, Columns("label", boundaries=(1, 7)), r"boundary 7 lies past the 3 rows; correct"),
        ("i,x,y\na,1,u\n,2,v\n", Columns("y", id="i"), r"column 'i', row 1 .*has no id; fill it"),
    ],
)
def test_errors_name_the_place_and_the_fix(
    tmp_path: Path, text: str, columns: Columns, message: str
) -> None:
    with pytest.raises(DataFileError, match=message):
        list(open_data_file(written(tmp_path, text), columns).rows())


def test_a_regression_label_must_be_a_number(tmp_path: Path) -> None:
    path = written(tmp_path, "x,y\n1,2.5\n2,tall\n")
    schema = FeatureSchema((Feature("x", "number"),))
    file = DataFile(path, Columns("y"), task_type="regression", schema=schema)
    with pytest.raises(DataFileError, match=r"column 'y', row 1 .*: 'tall': regression needs"):
        list(file.rows())


@pytest.mark.parametrize("name", ["f.csv.xz", "f.csv.gz", "f.parquet", "f.jsonl", "f.csv"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xff\xfenot what it says\x00" * 20)
    with pytest.raises(DataFileError, match=name.replace(".", r"\.")):
        open_data_file(path, Columns("y"))
    with pytest.raises(DataFileError, match="unknown kind of file; use"):
        open_data_file(written(tmp_path, "x", "f.xlsx"), Columns("y"))
    with pytest.raises(DataFileError, match="no such file"):
        open_data_file(tmp_path / "nothing.csv", Columns("y"))


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    whole = lzma.compress(many(x=list(range(9000)), y=["a", "b"] * 4500).encode())
    (tmp_path / "f.csv.xz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match="cannot be read"):
        open_data_file(tmp_path / "f.csv.xz", Columns("y"))


def test_cells_that_do_not_fit_the_schema_are_passed_on(tmp_path: Path) -> None:
    schema = FeatureSchema((Feature("x", "number"), Feature("seen", "bool")))
    path = written(tmp_path, "x,seen,y\n1,1,a\nbroken,maybe,b\n")
    rows = list(
        open_data_file(path, Columns("y"), task_type="classification", schema=schema).rows()
    )
    assert rows[0].features == {"x": 1.0, "seen": True}
    assert rows[1].features == {"x": "broken", "seen": "maybe"}
    parsed = schema.parse_many([r.features for r in rows])
    assert parsed.kept == [0] and "broken" in str(parsed.errors[1])


def test_the_schema_names_what_the_file_lacks(tmp_path: Path) -> None:
    path = written(tmp_path, "x,y\n1,a\n")
    wanted = FeatureSchema((Feature("x", "number"), Feature("z", "number")))
    with pytest.raises(DataFileError, match=r"has no column for the number 'z' that the model"):
        DataFile(path, Columns("y"), task_type="classification", schema=wanted)
    nullable = FeatureSchema((Feature("x", "number"), Feature("z", "number", nullable=True)))
    file = DataFile(path, Columns("y"), task_type="classification", schema=nullable)
    assert next(file.rows()).features == {"x": 1.0}


@given(st.one_of(st.integers(), st.booleans(), st.integers(-999, 999).map(float)))
def test_labels_are_canonical_as_in_messages(label: float | int | bool) -> None:
    assert read_text(label) == canonical(label)
    if not isinstance(label, bool):
        assert read_text(str(label)) == canonical(label)


def a_stream(tasks: str) -> list[FileRow]:
    return [
        FileRow(i, f"r-{i}", 1000 * i, {"x": i}, "a", task, None, i == 3)
        for i, task in enumerate(tasks)
    ]


@given(st.text("AB", max_size=30), st.integers(0, 5))
def test_a_shuffle_stays_inside_runs_and_keeps_times(tasks: str, seed: int) -> None:
    rows = a_stream(tasks)
    found = list(shuffle_within_task(rows, seed))
    assert [(r.task, r.ts_ms, r.boundary) for r in found] == [
        (r.task, r.ts_ms, r.boundary) for r in rows
    ]
    assert sorted(r.id for r in found) == sorted(r.id for r in rows)
    assert all((r.id == f"r-{r.index}") and r.features == {"x": r.index} for r in found)
    assert {r.index for r in found[:3]} == {0, 1, 2} & set(range(len(rows)))
    assert found == list(shuffle_within_task(rows, seed))


def test_a_shuffle_moves_rows_and_needs_a_task(tmp_path: Path) -> None:
    found = [r.index for r in shuffle_within_task(a_stream("A" * 40), 1)]
    assert found != list(range(40))
    assert found != [r.index for r in shuffle_within_task(a_stream("A" * 40), 2)]
    file = open_data_file(written(tmp_path, many(x=[1, 2], y=["a", "b"])), Columns("y"))
    with pytest.raises(DataFileError, match="name it with --task"):
        file.rows(shuffle_seed=1)


def test_boundaries_are_a_column_or_positions() -> None:
    assert parse_boundaries("12") == (12,)
    assert parse_boundaries("plan") == "plan"
    with pytest.raises(ValueError, match="positions must rise, from 1"):
        Columns("y", boundaries=(5, 5))
    with pytest.raises(ValueError, match="must rise"):
        Columns("y", boundaries=(0, 5))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = written(tmp_path, many(x=list(range(rows)), y=["a", "b"] * (rows // 2)))
        schema = FeatureSchema((Feature("x", "number"),))
        file = DataFile(path, Columns("y"), task_type="classification", schema=schema)
        tracemalloc.start()
        count = sum(1 for _ in file.rows())
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == rows
        return used

    assert peak(60_000) < 1.5 * peak(6_000)


def test_a_real_file(tmp_path: Path) -> None:
    path = data_set("gas_drift/gas_drift_b1-6.csv.xz")
    columns = Columns(
        "gas", task="batch", boundaries="batch", features=tuple(f"f{i}" for i in range(1, 129))
    )
    file = open_data_file(path, columns)
    rows = list(file.rows(shuffle_seed=3))
    assert [r.index for r in rows] != list(range(5933))
    assert [i for i, r in enumerate(rows) if r.boundary] == [445, 1689, 3275, 3436, 3633]
    assert {r.label for r in rows} == {"1", "2", "3", "4", "5", "6"}
    assert len(rows[0].features) == 128
