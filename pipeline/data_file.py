"""A data file as a stream of rows, in bounded memory.

``open_data_file(path, columns)`` checks the columns, infers what is not given, and returns a
``DataFile`` whose ``rows()`` can be read again and again.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from adapters.feature_schema import FeatureSchema
from pipeline.cell_values import read_bool, read_number, read_text, read_time_ms
from pipeline.data_columns import Columns, columns_of_schema, parse_boundaries, task_name
from pipeline.data_file_error import DataFileError
from pipeline.inference import TaskType, infer
from pipeline.messages import FeatureValue
from pipeline.table_files import Batch, Cell, open_table, stem_of

__all__ = [
    "Columns",
    "DataFile",
    "DataFileError",
    "FileRow",
    "open_data_file",
    "parse_boundaries",
]

FIRST_MS = 946_684_800_000
"""2000-01-01T00:00:00Z, the time of the first row of a file without a time column."""
ROW_MS = 1000
"""From row to row in a file without a time column."""

LabelOf: TypeAlias = "Callable[[int, Cell], str | float | None]"


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row.

    Attributes:
        index: Its place in the file, from 0 without the header.
        id: From the id column, else ``<file's stem>-<index>``.
        ts_ms: From the time column, else one second a row from 2000-01-01; epoch milliseconds.
        features: Raw values by feature name, as they go into an event.
        label: Class as canonical text, or a finite number for regression; None: no label.
        task: From the task column, or ``value/value`` from several.
        group: From the group column.
        boundary: Whether a new regime begins with this row.
    """

    index: int
    id: str
    ts_ms: int
    features: dict[str, FeatureValue]
    label: str | float | None
    task: str | None
    group: str | None
    boundary: bool


class DataFile:
    """A checked file.

    Args:
        path: CSV, JSONL (also .gz, .xz) or Parquet.
        columns: Which column means what.
        task_type: How labels are read.
        schema: What the features are; a cell that does not fit is passed on as it is, so that
            the engine refuses it with its reason.

    Raises:
        DataFileError: A column is missing.
    """

    def __init__(
        self, path: Path, columns: Columns, *, task_type: TaskType, schema: FeatureSchema
    ) -> None:
        self.path, self.columns, self.task_type, self.schema = path, columns, task_type, schema
        self._table = open_table(path)
        self._features = columns_of_schema(path.name, columns, schema, self._table.names)

    def rows(self, shuffle_seed: int | None = None) -> Iterator[FileRow]:
        """Read all rows, in the file's order.

        Args:
            shuffle_seed: Shuffles the rows inside each task, that is inside each run of
                consecutive rows of one task and one regime; times stay with the places.
                Memory: the longest run.

        Raises:
            DataFileError: A label or time cannot be read, an id is missing, a boundary lies
                past the end, or the file is damaged.
        """
        rows = self._in_file_order()
        if shuffle_seed is None:
            return rows
        if self.columns.task is None and self.columns.boundaries is None:
            raise DataFileError(
                self.path.name,
                "rows can only be shuffled inside a task, and no task column is named",
                "name it with --task",
            )
        return shuffle_within_task(rows, shuffle_seed)

    def _in_file_order(self) -> Iterator[FileRow]:
        named = self.columns.meanings
        wanted = [*(c for _, c in named), *(c for f, cs in self._features for c in cs)]
        place = {option: i for i, (option, _) in enumerate(named)}
        tasks = len(self.columns.task_columns)  # they come first
        positions = self.columns.boundaries
        marks = frozenset(positions) if isinstance(positions, tuple) else frozenset[int]()
        stem, label_of = stem_of(self.path), self._label_of()
        rows, regime = 0, None
        for batch in self._table.batches(wanted):
            features = self._feature_values(batch, len(named))
            count, columns = len(features), batch.columns
            nothing: list[Cell] = [None] * count
            cells = {o: columns[place[o]] if o in place else nothing for o in _OPTIONS}
            task_of = self._task_of(columns[:tasks])
            for i in range(count):
                row = batch.first + i
                now = read_text(cells["boundaries"][i])
                yield FileRow(
                    index=row,
                    id=self._id(row, cells["id"][i]) if "id" in place else f"{stem}-{row}",
                    ts_ms=self._time(row, cells["time"][i])
                    if "time" in place
                    else FIRST_MS + ROW_MS * row,
                    features=features[i],
                    label=label_of(row, cells["label"][i]),
                    task=task_of(i, row),
                    group=read_text(cells["group"][i]),
                    boundary=row in marks or (row > 0 and now != regime),
                )
                regime = now
            rows = batch.first + count
        late = max(marks, default=0)
        if late >= max(rows, 1):
            raise DataFileError(
                self.path.name, f"boundary {late} lies past the {rows} rows", "correct --boundaries"
            )

    def _feature_values(self, batch: Batch, at: int) -> list[dict[str, FeatureValue]]:
        names: list[str] = []
        values: list[list[FeatureValue]] = []
        for feature, columns in self._features:
            cells = batch.columns[at : at + len(columns)]
            at += len(columns)
            if feature.kind == "tensor" and columns != (feature.name,):
                parts = [[_number(c) for c in column] for column in cells]
                values.append([list(row) for row in zip(*parts, strict=True)])
            else:
                convert = _CONVERT[feature.kind]
                values.append([None if c is None else convert(c) for c in cells[0]])
            names.append(feature.name)
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    def _label_of(self) -> LabelOf:
        if self.task_type == "classification":
            return lambda _, cell: read_text(cell)

        def number(row: int, cell: Cell) -> float | None:
            if cell is None:
                return None
            value = read_number(cell)
            if value is None:
                raise DataFileError(
                    self.path.name,
                    "regression needs a finite number",
                    "correct the label, or use task type classification",
                    column=self.columns.label,
                    row=row,
                    value=cell,
                )
            return value

        return number

    def _task_of(self, columns: Sequence[Sequence[Cell]]) -> Callable[[int, int], str | None]:
        """Return what names the task of (place in the batch, row of the file)."""
        if not columns:
            return lambda _, __: None
        if len(columns) == 1:
            (only,) = columns
            return lambda i, _: read_text(only[i])

        def together(i: int, row: int) -> str | None:
            try:
                return task_name([column[i] for column in columns])
            except ValueError as error:
                raise DataFileError(
                    self.path.name,
                    str(error),
                    "rename the values",
                    column=self.columns.task,
                    row=row,
                ) from None

        return together

    def _id(self, row: int, cell: Cell) -> str:
        text = read_text(cell)
        if not text:
            raise DataFileError(
                self.path.name,
                "has no id",
                "fill it in, or leave --id out",
                column=self.columns.id,
                row=row,
            )
        return text

    def _time(self, row: int, cell: Cell) -> int:
        time_ms = read_time_ms(cell)
        if time_ms is None:
            raise DataFileError(
                self.path.name,
                "is no time" if cell is not None else "has no time",
                "write RFC 3339 (2026-01-31T12:00:00Z), epoch seconds or epoch milliseconds",
                column=self.columns.time,
                row=row,
                value=cell,
            )
        return time_ms


_OPTIONS = ("label", "time", "id", "group", "boundaries")


def open_data_file(
    path: Path,
    columns: Columns,
    *,
    task_type: TaskType | None = None,
    schema: FeatureSchema | None = None,
) -> DataFile:
    """Open a file; task type and schema are inferred from it (one more pass) when not given.

    Raises:
        DataFileError: The file or one of its columns cannot be used.
    """
    if task_type is None or schema is None:
        inferred = infer(path, columns, task_type)
        task_type, schema = inferred.task_type, schema or inferred.schema
    return DataFile(path, columns, task_type=task_type, schema=schema)


def shuffle_within_task(rows: Iterable[FileRow], seed: int) -> Iterator[FileRow]:
    """Shuffle inside each run of consecutive rows of one task and one regime.

    Time and boundary belong to the place and stay; everything else moves with its row.
    Same seed, same order.
    """
    draw = random.Random(seed)
    run: list[FileRow] = []
    for row in rows:
        if run and (row.boundary or row.task != run[0].task):
            yield from _shuffled(run, draw)
            run = []
        run.append(row)
    yield from _shuffled(run, draw)


def _shuffled(run: list[FileRow], draw: random.Random) -> Iterator[FileRow]:
    order = draw.sample(run, len(run))
    for place, row in zip(run, order, strict=True):
        yield replace(row, ts_ms=place.ts_ms, boundary=place.boundary)


def _number(cell: Cell) -> FeatureValue:
    value = read_number(cell)
    return value if value is not None else _as_it_is(cell)


def _bool(cell: Cell) -> FeatureValue:
    value = read_bool(cell)
    if value is None and cell in ("0", "1", 0, 1):
        return str(cell) == "1"
    return value if value is not None else _as_it_is(cell)


def _text(cell: Cell) -> FeatureValue:
    return _as_it_is(cell) if isinstance(cell, list) else read_text(cell)


def _as_it_is(cell: Cell) -> FeatureValue:
    return cell if isinstance(cell, str | int | float | list) or cell is None else str(cell)


_CONVERT: dict[str, Callable[[Cell], FeatureValue]] = {
    "number": _number,
    "bool": _bool,
    "category": _text,
    "tensor": _as_it_is,
}
