"""Which column of a data file means what."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.feature_schema import Feature, FeatureSchema
from pipeline.cell_values import read_text
from pipeline.data_file_error import DataFileError
from pipeline.table_files import Cell

_INDEXED = re.compile(r"^(.+)\.(\d+)$")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a data file by meaning.

    Attributes:
        label: The truth; None when the file has none.
        task: Names the task a row belongs to; several columns, separated by commas, name it
            together, as ``value/value``.
        time: RFC 3339 text or epoch (below 1e11 seconds, else milliseconds); without it a row
            is one second after the row before, from 2000-01-01.
        id: Names the row; without it ``<file's stem>-<row>``.
        group: Rows that must not be split between training and validation.
        features: What the model reads: columns, or names of tensors; None: all the others.
        boundaries: Where the world really changes: a column (each change of its value), or
            rising positions (the first row of each new regime, from 0).
    """

    label: str | None
    task: str | None = None
    time: str | None = None
    id: str | None = None
    group: str | None = None
    features: tuple[str, ...] | None = None
    boundaries: str | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.boundaries, tuple):
            before = (0, *self.boundaries)
            if any(a >= b for a, b in zip(before, self.boundaries, strict=False)):
                raise ValueError(
                    f"boundaries are {list(self.boundaries)}: positions must rise, from 1"
                )
        if self.task is not None and len(set(self.task_columns)) != self.task.count(",") + 1:
            raise ValueError(f"task is {self.task!r}: name each column once, as machine,season")
        if self.features is not None and not self.features:
            raise ValueError("features is empty: name at least one column, or leave it out")

    @property
    def task_columns(self) -> tuple[str, ...]:
        """The columns that name the task together; empty where there is none.

        >>> Columns(None, task="machine, season").task_columns
        ('machine', 'season')
        """
        return tuple(part.strip() for part in (self.task or "").split(",") if part.strip())

    @property
    def meanings(self) -> tuple[tuple[str, str], ...]:
        """(option, column) of every column that an option names; task may have several."""
        named = {
            "label": self.label,
            "time": self.time,
            "id": self.id,
            "group": self.group,
            "boundaries": self.boundaries if isinstance(self.boundaries, str) else None,
        }
        tasks = tuple(("task", column) for column in self.task_columns)
        return tasks + tuple((option, c) for option, c in named.items() if c is not None)


def parse_boundaries(text: str) -> str | tuple[int, ...]:
    """Read the option: comma-separated positions, else the name of a column.

    >>> parse_boundaries("900, 1800"), parse_boundaries("batch")
    ((900, 1800), 'batch')
    """
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdecimal() for part in parts):
        return tuple(int(part) for part in parts)
    return text.strip()


def task_name(cells: Sequence[Cell]) -> str | None:
    """Return the task that cells of several columns name together; None where one is empty.

    Raises:
        ValueError: A value holds a slash, so that two combinations could get one name.

    >>> task_name(["press", 4]), task_name(["press", None])
    ('press/4', None)
    """
    texts = [read_text(cell) for cell in cells]
    names = [text for text in texts if text is not None]
    slashed = next((name for name in names if "/" in name), None)
    if slashed is not None:
        raise ValueError(f"{slashed!r} has a slash, which separates the values of a task's columns")
    return "/".join(names) if len(names) == len(texts) else None


@dataclass(frozen=True, slots=True)
class FeatureColumns:
    """One feature and the columns that hold it.

    Attributes:
        name: Of the feature.
        columns: One column, or one per number of a tensor, in order.
        tensor: Whether the columns are the numbers of one tensor.
    """

    name: str
    columns: tuple[str, ...]
    tensor: bool = False


def resolve_features(
    file: str, columns: Columns, names: Sequence[str]
) -> tuple[FeatureColumns, ...]:
    """Find the feature columns; ``image.0 ... image.63`` become one tensor ``image``.

    Raises:
        DataFileError: A named column does not exist, a tensor has gaps, or nothing is left.
    """
    for option, column in columns.meanings:
        require(file, option, column, names)
    tensors = _tensors(file, names)
    member = {c: t for t, parts in tensors.items() for c in parts}
    if columns.features is None:
        taken = {column for _, column in columns.meanings}
        wanted = [name for name in names if name not in taken]
    else:
        wanted = list(columns.features)
        for name in wanted:
            if name not in tensors:
                require(file, "features", name, names)
    found: dict[str, FeatureColumns] = {}
    for name in wanted:
        tensor = name if name in tensors and name not in names else member.get(name)
        if tensor is None:
            found[name] = FeatureColumns(name, (name,))
        else:
            found[tensor] = FeatureColumns(tensor, tensors[tensor], tensor=True)
    if not found:
        raise DataFileError(file, "no column is left to be a feature", "name some with --features")
    return tuple(found.values())


def columns_of_schema(
    file: str, columns: Columns, schema: FeatureSchema, names: tuple[str, ...]
) -> list[tuple[Feature, tuple[str, ...]]]:
    """Return the columns of each feature of a schema; a nullable one may have none.

    Raises:
        DataFileError: A column of an option or of a feature is missing, or a tensor has
            another size.
    """
    everything = Columns(None, features=tuple(names))
    held: dict[str, FeatureColumns] = {f.name: f for f in resolve_features(file, everything, names)}
    resolve_features(file, columns, names)  # checks the options
    found: list[tuple[Feature, tuple[str, ...]]] = []
    for feature in schema.features:
        here = held.get(feature.name)
        if here is None and feature.nullable:
            continue
        if here is None:
            raise DataFileError(
                file,
                f"has no column for the {feature.kind} {feature.name!r} that the model reads",
                f"add it; the columns are {', '.join(names[:20])}",
            )
        if here.tensor and (feature.kind != "tensor" or feature.width != len(here.columns)):
            raise DataFileError(
                file,
                f"holds {len(here.columns)} numbers for {feature.name!r}, the model reads a "
                f"{feature.kind} of shape {feature.shape}",
                "give the file that the model was made for",
            )
        found.append((feature, here.columns))
    return found


def require(file: str, option: str, column: str, names: Sequence[str]) -> None:
    """Check that a column exists.

    Raises:
        DataFileError: It does not.
    """
    if column not in names:
        shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
        raise DataFileError(file, f"has no column {column!r} (--{option})", f"choose from: {shown}")


def _tensors(file: str, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the tensors: names with at least the parts .0 and .1."""
    parts: dict[str, dict[int, str]] = {}
    for name in names:
        match = _INDEXED.match(name)
        if match and str(int(match[2])) == match[2]:
            parts.setdefault(match[1], {})[int(match[2])] = name
    found = {}
    for tensor, by_index in parts.items():
        if not {0, 1} <= by_index.keys():
            continue
        gap = next((i for i in range(len(by_index)) if i not in by_index), None)
        if gap is not None:
            raise DataFileError(
                file,
                f"tensor {tensor!r} goes to {tensor}.{max(by_index)} but has no {tensor}.{gap}",
                "add the column, or rename the others so that they are no tensor",
            )
        found[tensor] = tuple(by_index[i] for i in range(len(by_index)))
    return found
