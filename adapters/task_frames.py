"""Task distributions from a pandas frame: by columns, by time windows, by given segments.

Rows are named by their position in the frame (0 for the first), never by its index. What is too
small to be a task, and what belongs to none, is named with the reason in ``TaskRows.left_out``.

>>> frame = pd.DataFrame({"site": ["a", "a", "b", "a"], "x": [1.0, 2.0, 3.0, 4.0]})
>>> tasks = tasks_by_columns(frame, ["site"], least=2)
>>> {name: rows.tolist() for name, rows in tasks.rows.items()}
{'a': [0, 1, 3]}
>>> tasks.left_out
(LeftOut(name='b', rows=1, reason='has 1 row, fewer than 2'),)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adapters.examples import Examples
from adapters.feature_schema import Feature, FeatureSchema, Kind
from adapters.meta_settings import MetaTrainData
from adapters.model_file import lineage_key

NO_TASK = "(no task)"
"""Name under which rows without a value in a task column are left out."""


class TaskFrameError(ValueError):
    """A frame or an argument that gives no tasks; names the column, the value and the fix."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What became no task: its name, its rows, and why."""

    name: str
    rows: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class TaskRows:
    """Which rows of a frame belong to which task.

    Attributes:
        rows: Task -> rising row positions, in order of the tasks' first rows.
        left_out: Tasks too small, and rows that belong to none.
    """

    rows: Mapping[str, NDArray[np.intp]]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.rows)


def tasks_by_columns(frame: pd.DataFrame, columns: Sequence[str], *, least: int = 1) -> TaskRows:
    """Return one task per combination of the columns' values, named ``"value/value"``.

    Args:
        frame: Any rows.
        columns: One or more columns, such as machine type and season.
        least: Rows that a task must have.

    Raises:
        TaskFrameError: A column does not exist, or two combinations get one name.
    """
    if not columns:
        raise TaskFrameError("columns is empty; name at least one column that tells tasks apart")
    _require(frame, columns)
    whole = frame[list(columns)].notna().all(axis=1).to_numpy(bool)
    owners: dict[tuple[object, ...], list[int]] = {}
    cells = zip(*(frame[column] for column in columns), strict=True)
    for at, cell in enumerate(cells):
        if whole[at]:
            try:
                owners.setdefault(cell, []).append(at)
            except TypeError:
                raise TaskFrameError(
                    f"columns {list(columns)}, row {at} (from 0): {cell!r} names no task; make it "
                    "text or a number"
                ) from None
    found: dict[str, list[int]] = {}
    for cell, rows in owners.items():
        name = "/".join(_named(value) for value in cell)
        if name in found:
            raise TaskFrameError(
                f"columns {list(columns)}: two combinations are both named {name!r}; "
                "rename a value, or leave the / out of the values"
            )
        found[name] = rows
    without = int((~whole).sum())
    nowhere = LeftOut(NO_TASK, without, f"no value in {' or '.join(map(repr, columns))}")
    return _large(found, least, [nowhere] if without else [])


def tasks_by_time(
    frame: pd.DataFrame, column: str, every: str | pd.Timedelta, *, least: int = 1
) -> TaskRows:
    """Return one task per time window, named by the window's start (ISO 8601).

    Args:
        frame: Rows in any order.
        column: Datetimes.
        every: Length of a window, as pandas writes it (``"7D"``); windows are counted from the
            epoch, so that the same row falls into the same window whatever else is in the frame
            and whatever its time zone is: days are UTC's.
        least: Rows that a task must have.

    Raises:
        TaskFrameError: The column does not exist or holds no datetimes, or the length is no
            positive length of time.
    """
    _require(frame, [column])
    times = frame[column]
    if not pd.api.types.is_datetime64_any_dtype(times):
        raise TaskFrameError(
            f"column {column!r} is of type {times.dtype}; convert it with pandas.to_datetime"
        )
    try:
        window = pd.Timedelta(every)
    except ValueError as error:
        raise TaskFrameError(f"every is {every!r} ({error}); write a length such as '7D'") from None
    if not window > pd.Timedelta(0):
        raise TaskFrameError(f"every is {every!r}; write a positive length of time such as '7D'")
    if times.dt.tz is not None:
        times = times.dt.tz_convert("UTC")
    starts = times.dt.floor(window)
    found: dict[str, list[int]] = {}
    missing = 0
    for at, start in enumerate(starts):
        if start is pd.NaT:
            missing += 1
        else:
            found.setdefault(cast(pd.Timestamp, start).isoformat(), []).append(at)
    ordered = dict(sorted(found.items()))
    nowhere = LeftOut(NO_TASK, missing, f"no time in {column!r}")
    return _large(ordered, least, [nowhere] if missing else [])


def tasks_by_segments(frame: pd.DataFrame, starts: Sequence[int], *, least: int = 1) -> TaskRows:
    """Return one task per stretch between change points, named ``segment-0``, ``segment-1``, ...

    Args:
        frame: Rows in the order in which they happened.
        starts: First row of each new regime, rising, from 1; the first segment starts at 0.
        least: Rows that a task must have.

    Raises:
        TaskFrameError: The positions do not rise, or lie outside the frame.
    """
    edges = [0, *starts, len(frame)]
    if any(a >= b for a, b in pairwise(edges)):
        raise TaskFrameError(
            f"starts are {list(starts)} over {len(frame)} rows; give rising positions between 1 "
            "and the last row"
        )
    found = {f"segment-{i}": list(range(a, b)) for i, (a, b) in enumerate(pairwise(edges))}
    return _large(found, least, [])


def schema_of_frame(frame: pd.DataFrame, features: Sequence[str]) -> FeatureSchema:
    """Return the features' schema: bool and numeric columns as such, every other as a category.

    Raises:
        TaskFrameError: A column does not exist, has a name that is no text, or holds times.
    """
    _require(frame, features)
    for name in features:
        if not isinstance(name, str) or not name:
            raise TaskFrameError(f"column {name!r} cannot be a feature; give it a name of letters")
        if frame[name].dtype.kind in "mM":
            raise TaskFrameError(
                f"column {name!r} is of type {frame[name].dtype}, which is no feature; make numbers"
                " of it, such as the hour, or leave it out"
            )
    return FeatureSchema(
        tuple(
            Feature(name, _kind(frame[name]), nullable=bool(frame[name].isna().any()))
            for name in features
        )
    )


def data_of_frame(
    frame: pd.DataFrame,
    tasks: TaskRows,
    schema: FeatureSchema,
    *,
    label: str,
    group: str | None = None,
    regression: bool = False,
) -> MetaTrainData:
    """Return the tasks' labelled rows as meta-training takes them, task after task.

    Args:
        frame: The frame that ``tasks`` was made from.
        tasks: Which rows, and whose.
        schema: The features; each is a column of the frame.
        label: Column of the truth.
        group: Column of rows that must not be split. Without it, or without a value there, a row
            is its own group, known by its features and label (and of equal rows of a frame by
            which of them it is): the rows of a part of a frame are those of the frame, the rows of
            another frame are not.
        regression: Read the label as a number instead of a class.

    Raises:
        TaskFrameError: A column is missing, a label is missing or no number, no task is left, or
            a row belongs to two tasks.
        FeatureError: A cell does not fit the schema.
    """
    _require(frame, [label, *([group] if group else []), *(f.name for f in schema.features)])
    if not tasks.rows:
        raise TaskFrameError(f"no task is left ({[t.reason for t in tasks.left_out]}); lower least")
    at = np.concatenate(list(tasks.rows.values()))
    if len(np.unique(at)) < len(at):
        raise TaskFrameError("a row belongs to two tasks; give every row to one task")
    owners = tuple(name for name, rows in tasks.rows.items() for _ in rows)
    chosen = frame.iloc[at]
    empty = chosen[label].isna().to_numpy(bool)
    if empty.any():
        raise TaskFrameError(
            f"column {label!r}, row {at[empty.argmax()]} (from 0): no label; leave such rows out"
        )
    names = [f.name for f in schema.features]
    cells = chosen[names].astype(object)
    records = cells.where(cells.notna(), None).to_dict("records")
    parsed = schema.parse_many(cast("list[dict[str, object]]", records))
    for error in parsed.errors.values():
        raise error
    lineage: list[str] = _contents(frame, schema, label)[at].tolist()
    if group:
        alone = chosen[group].isna().to_numpy(bool)
        lineage = [
            text if one else f"group {_named(g)}"
            for text, g, one in zip(lineage, chosen[group], alone, strict=True)
        ]
    keys = np.array([lineage_key(text) for text in lineage], np.uint64)
    if regression:
        return MetaTrainData(
            schema, Examples(parsed.rows, (), _numbers(chosen, label), keys), owners
        )
    labels = tuple(_named(value) for value in chosen[label])
    return MetaTrainData(schema, Examples(parsed.rows, labels, keys=keys), owners)


def _contents(frame: pd.DataFrame, schema: FeatureSchema, label: str) -> NDArray[np.object_]:
    """Return what names each row of the frame by what it holds."""
    cells: dict[str, pd.Series[Any]] = {}
    for f in schema.features:
        if f.kind == "number":
            cells[f.name] = pd.to_numeric(frame[f.name], errors="coerce").astype(np.float64)
        else:
            cells[f.name] = frame[f.name].map(_text)
    table = pd.DataFrame({**cells, f"label {label}": frame[label].map(_named)})
    hashes = pd.util.hash_pandas_object(table, index=False)
    which = hashes.groupby(hashes).cumcount()
    return np.array(
        [f"row {h:016x} {n}" for h, n in zip(hashes.tolist(), which.tolist(), strict=True)], object
    )


def _named(value: object) -> str:
    """Return a class, task or group as the stream and data files write it: 1 for 1.0, true."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and value.is_integer():
        return str(int(value))
    return str(value)


def _text(cell: Any) -> str:
    return str(cell) if pd.api.types.is_scalar(cell) else str(np.asarray(cell).tolist())


def _large(found: Mapping[str, list[int]], least: int, left_out: list[LeftOut]) -> TaskRows:
    kept: dict[str, NDArray[np.intp]] = {}
    for name, rows in found.items():
        if len(rows) >= least:
            kept[name] = np.array(rows, np.intp)
        else:
            plural = "row" if len(rows) == 1 else "rows"
            reason = f"has {len(rows)} {plural}, fewer than {least}"
            left_out.append(LeftOut(name, len(rows), reason))
    return TaskRows(kept, tuple(left_out))


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in frame.columns:
            known = ", ".join(map(str, frame.columns[:20]))
            raise TaskFrameError(f"the frame has no column {column!r}; choose from: {known}")
        if list(frame.columns).count(column) > 1:
            raise TaskFrameError(
                f"the frame has several columns {column!r}; give each its own name"
            )


def _kind(column: "pd.Series[Any]") -> Kind:
    # Truth values with gaps are of type object.
    if pd.api.types.is_bool_dtype(column) or pd.api.types.infer_dtype(column) == "boolean":
        return "bool"
    return "number" if pd.api.types.is_numeric_dtype(column) else "category"


def _numbers(chosen: pd.DataFrame, label: str) -> NDArray[np.float64]:
    numbers = pd.to_numeric(chosen[label], errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        value = chosen[label].iloc[int(wrong.argmax())]
        raise TaskFrameError(
            f"column {label!r}: {value!r} is no finite number; correct it, or use classification"
        )
    return numbers
