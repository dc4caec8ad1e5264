"""Infers task type, feature schema and classes from a data file."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

from adapters.feature_schema import MAX_CATEGORIES, Feature, FeatureSchema, Kind
from pipeline.column_scan import ColumnFacts, scan
from pipeline.data_columns import Columns, FeatureColumns, resolve_features, task_name
from pipeline.data_file_error import DataFileError
from pipeline.messages import LONGEST_LABEL
from pipeline.table_files import Table, open_table

TaskType: TypeAlias = Literal["classification", "regression"]

MOST_CLASSES = 10_000
MOST_TASKS = 10_000
MANY_ROWS = 20
"""From so many rows on a column without any value twice is thought to name the rows."""
FEW_NUMBERS = 50
"""A label column of at most this many different whole numbers holds classes."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """What a file says about its model.

    Attributes:
        task_type: Classification or regression.
        why: The reason for ``task_type``, one sentence.
        schema: The features, in the file's order.
        classes: Class -> rows, in class order (numbers by size, else by name); empty for
            regression.
        tasks: Task -> rows, in order of appearance; empty without a task column.
        rows: Rows of the file.
        labelled: Rows that have a label.
        left_out: Column -> why it is no feature.
        doubts: Feature -> why it may be none, or not of the kind that was inferred.
    """

    task_type: TaskType
    why: str
    schema: FeatureSchema
    classes: dict[str, int]
    tasks: dict[str, int]
    rows: int
    labelled: int
    left_out: dict[str, str]
    doubts: dict[str, str]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in order."""
        return tuple(self.classes)


def infer(path: Path, columns: Columns, task_type: TaskType | None = None) -> Inferred:
    """Read the file once and infer what is not given.

    Raises:
        DataFileError: A column is missing, or holds what no feature, label or task can be.
    """
    table = open_table(path)
    features = resolve_features(path.name, columns, table.names)
    facts = _scan(table, columns, features)
    some = next(iter(facts.values()))
    if some.rows == 0:
        raise DataFileError(path.name, "has a header but no rows", "give a file with data")
    found: TaskType = "classification"
    why, classes, labelled = "there is no label column", dict[str, int](), 0
    if columns.label is not None:
        label = facts[columns.label]
        labelled = label.present
        found, why = _task_type(path.name, columns.label, label, task_type)
        if found == "classification":
            classes = _classes(path.name, columns.label, label)
    elif task_type is not None:
        found, why = task_type, "as asked for"
    schema, left_out = _schema(path.name, columns, features, facts)
    return Inferred(
        task_type=found,
        why=why,
        schema=schema,
        classes=classes,
        tasks=_tasks(path.name, table, columns, facts),
        rows=some.rows,
        labelled=labelled,
        left_out=left_out,
        doubts={} if columns.features is not None else _doubts(schema, facts),
    )


def _scan(
    table: Table, columns: Columns, features: tuple[FeatureColumns, ...]
) -> dict[str, ColumnFacts]:
    counted = {c: MAX_CATEGORIES for f in features for c in f.columns}
    counted |= dict.fromkeys(columns.task_columns, MOST_TASKS)
    if columns.label is not None:
        counted[columns.label] = MOST_CLASSES
    return scan(table, counted)


def _task_type(
    file: str, column: str, label: ColumnFacts, asked: TaskType | None
) -> tuple[TaskType, str]:
    if label.present == 0:
        raise DataFileError(file, "holds no label", "name another --label", column=column)
    if label.lengths:
        raise DataFileError(file, "holds arrays", "name another --label", column=column)
    if asked == "regression" and label.text is not None:
        row, value = label.text
        raise DataFileError(
            file,
            "regression needs a finite number",
            "correct the label, or use task type classification",
            column=column,
            row=row,
            value=value,
        )
    if asked is not None:
        return asked, "as asked for"
    if label.text is not None:
        row, value = label.text
        return "classification", f"label {column!r} holds text ({value!r} in row {row})"
    if label.fractions:
        return "regression", f"label {column!r} holds {label.fractions} numbers with fractions"
    if label.overflow or len(label.values) > FEW_NUMBERS:
        return "regression", f"label {column!r} holds over {FEW_NUMBERS} different numbers"
    return "classification", f"label {column!r} holds {len(label.values)} different whole numbers"


def _classes(file: str, column: str, label: ColumnFacts) -> dict[str, int]:
    if label.overflow:
        raise DataFileError(
            file,
            f"holds more than {MOST_CLASSES} different classes",
            "name another --label, or use task type regression for numbers",
            column=column,
        )
    if len(label.values) < 2:
        raise DataFileError(
            file,
            f"holds the one class {next(iter(label.values))!r}; a model needs two",
            "give a file in which both occur",
            column=column,
        )
    longest = max(label.values, key=len)
    if len(longest) > LONGEST_LABEL:
        raise DataFileError(
            file,
            f"a class has {len(longest)} characters; labels of a stream have at most "
            f"{LONGEST_LABEL}",
            "shorten the classes, or name another --label",
            column=column,
            value=longest,
        )
    return {name: label.values[name] for name in sorted(label.values, key=_class_order)}


def _class_order(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def _tasks(
    file: str, table: Table, columns: Columns, facts: Mapping[str, ColumnFacts]
) -> dict[str, int]:
    if columns.task is None:
        return {}
    if len(columns.task_columns) == 1:
        task = facts[columns.task_columns[0]]
        found, overflow = dict(task.values), task.overflow
    else:
        found = _combinations(file, table, columns)
        overflow = len(found) > MOST_TASKS
    if overflow:
        raise DataFileError(
            file,
            f"holds more than {MOST_TASKS} different tasks",
            "name a --task column with few values",
            column=columns.task,
        )
    return found


def _combinations(file: str, table: Table, columns: Columns) -> dict[str, int]:
    """Return the rows of each combination of the task columns' values; stops past the most."""
    found: dict[str, int] = {}
    for batch in table.batches(list(columns.task_columns)):
        for i, cells in enumerate(zip(*batch.columns, strict=True)):
            try:
                name = task_name(cells)
            except ValueError as error:
                row = batch.first + i
                raise DataFileError(
                    file, str(error), "rename the values", column=columns.task, row=row
                ) from None
            if name is not None:
                found[name] = found.get(name, 0) + 1
        if len(found) > MOST_TASKS:
            break
    return found


def _schema(
    file: str,
    columns: Columns,
    features: tuple[FeatureColumns, ...],
    facts: Mapping[str, ColumnFacts],
) -> tuple[FeatureSchema, dict[str, str]]:
    kept: list[Feature] = []
    left_out: dict[str, str] = {}
    named = columns.features is not None
    for feature in features:
        if feature.tensor:
            kept.append(_tensor(file, feature, facts))
            continue
        found = _plain(file, feature.name, facts[feature.columns[0]], named=named)
        if isinstance(found, Feature):
            kept.append(found)
        else:
            left_out[feature.name] = found
    if not kept:
        raise DataFileError(
            file,
            f"no column can be a feature ({left_out})",
            "name columns of numbers, truth values or few texts with --features",
        )
    return FeatureSchema(tuple(kept)), left_out


def _tensor(file: str, feature: FeatureColumns, facts: Mapping[str, ColumnFacts]) -> Feature:
    for column in feature.columns:
        seen = facts[column]
        if seen.text is not None:
            row, value = seen.text
            raise DataFileError(
                file,
                f"tensor {feature.name!r} holds finite numbers only",
                "correct it, or rename the column so that it is no tensor",
                column=column,
                row=row,
                value=value,
            )
        if seen.missing_at is not None:
            raise DataFileError(
                file,
                f"tensor {feature.name!r} has no value here; a tensor is whole",
                "fill it in, or remove the row",
                column=column,
                row=seen.missing_at,
            )
    return Feature(feature.name, "tensor", (len(feature.columns),))


def _plain(file: str, name: str, seen: ColumnFacts, *, named: bool) -> Feature | str:
    """Return the feature of one column, or why it is none."""
    nullable = seen.missing > 0
    if seen.present == 0:
        if named:
            raise DataFileError(file, "holds no value", "leave it out of --features", column=name)
        return "it holds no value"
    if seen.lengths:
        return _array(file, name, seen, nullable=nullable)
    kind: Kind = "category"
    if seen.numbers == seen.present:
        kind = "number"
    elif seen.bools == seen.present:
        kind = "bool"
    elif seen.numbers and (seen.overflow or seen.infinite is not None):
        row, value = seen.infinite or seen.text or (None, None)
        raise DataFileError(
            file,
            f"{seen.numbers} of {seen.present} values are finite numbers, this one is not",
            "correct the value, or leave the column out by naming --features",
            column=name,
            row=row,
            value=value,
        )
    elif seen.overflow and not named:
        return f"it holds over {MAX_CATEGORIES} different texts; name it in --features to use it"
    return Feature(name, kind, nullable=nullable)


def _doubts(schema: FeatureSchema, facts: Mapping[str, ColumnFacts]) -> dict[str, str]:
    """Return what a person should look at: columns that are often no feature, or mistyped."""
    plain = [f for f in schema.features if f.kind in ("number", "category") and f.name in facts]
    said = {f.name: _doubt(f.kind, facts[f.name]) for f in plain}
    return {name: doubt for name, doubt in said.items() if doubt is not None}


def _doubt(kind: Kind, seen: ColumnFacts) -> str | None:
    if kind == "category" and seen.text is not None:
        row, value = seen.text
        if 10 * seen.numbers >= 9 * seen.present:
            return (
                f"{seen.numbers} of {seen.present} values are numbers, {value!r} in row {row} is "
                "not: correct it, or the column is read as text"
            )
        if _is_time(str(value)):
            return f"{value!r} looks like a time: name the column with --time"
    own = not seen.overflow and len(seen.values) == seen.present >= MANY_ROWS
    if own and not seen.fractions:
        return "each row has a value of its own: if it names the row, name it with --id"
    return None


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _array(file: str, name: str, seen: ColumnFacts, *, nullable: bool) -> Feature:
    problem = None
    if seen.bad_array is not None:
        problem = "an array must hold finite numbers only"
    elif seen.text is not None or seen.numbers:
        problem = "some rows hold arrays and others single values"
    elif len(seen.lengths) > 1:
        problem = f"arrays have different lengths ({sorted(seen.lengths)})"
    elif 0 in seen.lengths:
        problem = "arrays are empty"
    if problem is not None:
        row, value = seen.bad_array or seen.text or (None, None)
        raise DataFileError(
            file,
            problem,
            "correct it, or leave the column out by naming --features",
            column=name,
            row=row,
            value=value,
        )
    return Feature(name, "tensor", (next(iter(seen.lengths)),), nullable)
