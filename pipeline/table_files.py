"""Reads CSV, JSONL (both also .gz, .xz) and Parquet in bounded memory, as batches of cells.

A CSV cell is the text as written, stripped: what it means is decided by whoever knows the column.
The other formats bring their own types. A missing cell is None everywhere.
"""

import csv
import gzip
import lzma
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import msgspec

from pipeline.data_file_error import DataFileError

Cell: TypeAlias = "str | float | int | bool | datetime | list[Any] | None"

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL"})
"""Texts that mean "no value" in a CSV file."""

BATCH_ROWS = 2048
_MOST_COLUMNS = 20_000
_CELL_TYPES = (str, float, int, bool, datetime, list)


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows, column by column.

    Attributes:
        first: Index of its first row within the file.
        columns: One list of cells per wanted column, all of the same length.
    """

    first: int
    columns: list[list[Cell]]


class Table(Protocol):
    """A file of rows with named columns."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in the file's order."""

    def batches(self, wanted: Sequence[str]) -> Iterator[Batch]:
        """Read the wanted columns from the start; may be called again."""


def open_table(path: Path) -> Table:
    """Open a data file by its name's ending.

    Raises:
        DataFileError: It does not exist, is of no known kind, or has no usable header.
    """
    if not path.is_file():
        raise DataFileError(str(path), "no such file", "correct the path")
    ending = path.name.lower().removesuffix(".gz").removesuffix(".xz")
    if ending.endswith(".csv"):
        return _CsvTable(path)
    if ending.endswith((".jsonl", ".ndjson")):
        return _JsonlTable(path)
    if path.name.lower().endswith((".parquet", ".pq")):
        return _ParquetTable(path)
    raise DataFileError(
        path.name,
        "unknown kind of file",
        "use .csv or .jsonl (also with .gz or .xz), or .parquet",
    )


def stem_of(path: Path) -> str:
    """Return the file's name without its endings.

    >>> stem_of(Path("data/elec2.csv.xz"))
    'elec2'
    """
    name = path.name
    for ending in (".gz", ".xz", ".csv", ".jsonl", ".ndjson", ".parquet", ".pq"):
        name = name.removesuffix(ending)
    return name or path.name


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into a DataFileError."""
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataFileError(path.name, f"cannot be read ({error})", "check the file") from error
    except UnicodeDecodeError as error:
        raise DataFileError(
            path.name, f"is not UTF-8 ({error.reason})", "convert it to UTF-8"
        ) from error


def _open_text(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    if path.name.lower().endswith(".xz"):
        return lzma.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


class _CsvTable:
    def __init__(self, path: Path) -> None:
        self._path = path
        with _readable(path), _open_text(path) as text:
            header = next(csv.reader(text), None)
        if not header:
            raise DataFileError(path.name, "is empty", "give a file with a header line")
        self.names = tuple(name.strip() for name in header)
        twice = sorted({n for n in self.names if self.names.count(n) > 1})
        if twice:
            raise DataFileError(
                path.name, f"the header names {twice} more than once", "give unique column names"
            )

    def batches(self, wanted: Sequence[str]) -> Iterator[Batch]:
        at = [self.names.index(name) for name in wanted]
        width, row = len(self.names), 0
        with _readable(self._path), _open_text(self._path) as text:
            reader = csv.reader(text)
            next(reader, None)
            lines: list[list[str]] = []
            try:
                for line in reader:
                    if not line:
                        continue
                    if len(line) != width:
                        raise DataFileError(
                            self._path.name,
                            f"has {len(line)} fields, the header has {width}",
                            "quote fields that hold commas, or remove the row",
                            row=row + len(lines),
                        )
                    lines.append(line)
                    if len(lines) == BATCH_ROWS:
                        yield _csv_batch(row, lines, at)
                        row += len(lines)
                        lines = []
            except csv.Error as error:
                raise DataFileError(
                    self._path.name, f"is no CSV ({error})", "correct it", row=row + len(lines)
                ) from error
            if lines:
                yield _csv_batch(row, lines, at)


def _csv_batch(first: int, lines: list[list[str]], at: list[int]) -> Batch:
    columns: list[list[Cell]] = []
    for i in at:
        texts = [line[i].strip() for line in lines]
        columns.append([None if t in MISSING else t for t in texts])
    return Batch(first, columns)


class _JsonlTable:
    """One JSON object a line; an object under ``features`` (as in events) is flattened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found: dict[str, None] = {}
        for item in self._items():
            found.update(dict.fromkeys(item))
            if len(found) > _MOST_COLUMNS:
                raise DataFileError(
                    path.name,
                    f"has more than {_MOST_COLUMNS} different keys",
                    "put many numbers into one array",
                )
        if not found:
            raise DataFileError(path.name, "is empty", "give one JSON object a line")
        self.names = tuple(found)

    def _items(self) -> Iterator[dict[str, Any]]:
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        row = 0
        with _readable(self._path), _open_text(self._path) as text:
            for line in text:
                if not line.strip():
                    continue
                try:
                    item = decode(line)
                except (msgspec.DecodeError, RecursionError) as error:
                    raise DataFileError(
                        self._path.name,
                        f"is no JSON object ({error})",
                        "write one JSON object a line",
                        row=row,
                    ) from error
                features = item.pop("features", None)
                if isinstance(features, dict):
                    item = {**features, **item}
                elif features is not None:
                    item["features"] = features
                yield item
                row += 1

    def batches(self, wanted: Sequence[str]) -> Iterator[Batch]:
        columns: list[list[Cell]] = [[] for _ in wanted]
        first = rows = 0
        for item in self._items():
            for name, column in zip(wanted, columns, strict=True):
                column.append(_cell(self._path.name, name, rows, item.get(name)))
            rows += 1
            if rows - first == BATCH_ROWS:
                yield Batch(first, columns)
                first, columns = rows, [[] for _ in wanted]
        if rows > first:
            yield Batch(first, columns)


class _ParquetTable:
    def __init__(self, path: Path) -> None:
        import pyarrow as pa  # type: ignore[import-untyped]  # half a second, only for this format
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        self._path, self._arrow, self._parquet = path, pa, pq
        try:
            with _readable(path), pq.ParquetFile(path) as file:
                self.names: tuple[str, ...] = tuple(file.schema_arrow.names)
        except pa.ArrowException as error:
            raise DataFileError(path.name, f"is no Parquet ({error})", "check the file") from error

    def batches(self, wanted: Sequence[str]) -> Iterator[Batch]:
        first = 0
        with _readable(self._path), self._parquet.ParquetFile(self._path) as file:
            for part in file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(wanted))):
                by_name = dict(zip(part.schema.names, part.columns, strict=True))
                columns = [self._cells(name, first, by_name[name]) for name in wanted]
                yield Batch(first, columns)
                first += part.num_rows

    def _cells(self, name: str, first: int, array: Any) -> list[Cell]:
        kind = array.type
        if self._arrow.types.is_timestamp(kind):
            array = array.cast(self._arrow.timestamp("us", tz=kind.tz), safe=False)
        values = array.to_pylist()
        return [_cell(self._path.name, name, first + i, v) for i, v in enumerate(values)]


def _cell(file: str, column: str, row: int, value: object) -> Cell:
    match value:
        case float() if math.isnan(value):
            return None
        case Decimal():
            return float(value)
        case date() if not isinstance(value, datetime):
            return datetime.combine(value, time())
        case None:
            return None
        case str():
            text = value.strip()
            return text or None
        case _ if isinstance(value, _CELL_TYPES):
            return value
    raise DataFileError(
        file,
        f"a value of type {type(value).__name__} is no cell",
        "flatten it into columns, or leave the column out",
        column=column,
        row=row,
        value=value,
    )
