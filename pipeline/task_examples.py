"""Labelled rows of a file and the task of each: by column, between boundaries, or detected."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pipeline.data_file import DataFile, DataFileError, FileRow
from pipeline.detected_segments import detected_starts
from pipeline.file_examples import FileExamples, examples_of_rows

TasksBy: TypeAlias = Literal["column", "boundaries", "detection", "nothing"]
"""What tells tasks apart: the task column; the file's boundaries; detected changes; nothing."""


@dataclass(frozen=True, slots=True)
class TaskExamples:
    """What can be learned from.

    Attributes:
        found: The rows, with the task of each unless nothing tells tasks apart.
        left_out: Reason -> rows.
        by: What told the tasks apart, in words.
    """

    found: FileExamples
    left_out: dict[str, int]
    by: str


def task_examples(file: DataFile, by: TasksBy) -> TaskExamples:
    """Return a file's labelled rows with their tasks.

    Segments are named ``segment-0``, ``segment-1``, ... in the file's order.

    Raises:
        DataFileError: A cell cannot be read, no row can be used, or rows that are to be cut into
            segments are not in order of time.
    """
    in_segments = by in ("boundaries", "detection")
    rows: list[FileRow] = []
    without_task = 0
    for row in _segmented(file) if in_segments else file.rows():
        if by == "column" and row.task is None:
            without_task += 1
        else:
            rows.append(row)
    found = examples_of_rows(rows, file.schema)
    left_out = {"no label": found.unlabelled, "no task": without_task}
    for feature, count in found.refused.items():
        left_out[f"feature {feature!r} does not fit the schema"] = count
    left_out = {why: count for why, count in left_out.items() if count}
    if not rows and not left_out:
        raise DataFileError(file.path.name, "has a header but no rows", "give a file with data")
    if not len(found.examples):
        why = ", ".join(f"{reason}: {count} rows" for reason, count in left_out.items())
        wrong = "--label" if by != "column" else "--label or --task"
        raise DataFileError(
            file.path.name, f"no row can be used ({why})", f"correct the file, {wrong}"
        )
    if by == "detection":
        starts = set(detected_starts(file.schema, found.examples))
        tasks: list[str] = []
        segment = 0
        for at in range(len(found.examples)):
            segment += at in starts
            tasks.append(f"segment-{segment}")
        found = replace(found, tasks=tuple(tasks))
    return TaskExamples(found, left_out, _words(file, by))


def _segmented(file: DataFile) -> Iterator[FileRow]:
    """Yield the rows named by segment; refuse rows that are not in order of time."""
    segment, last_ms = 0, None
    for row in file.rows():
        if last_ms is not None and row.ts_ms < last_ms:
            raise DataFileError(
                file.path.name,
                "is earlier than the row before; segments are stretches of time",
                "sort the file by its time column",
                column=file.columns.time,
                row=row.index,
            )
        last_ms = row.ts_ms
        segment += row.boundary
        yield replace(row, task=f"segment-{segment}")


def _words(file: DataFile, by: TasksBy) -> str:
    match by:
        case "column":
            return file.columns.task or ""
        case "boundaries":
            return f"boundaries {file.columns.boundaries}"
        case "detection":
            return "detected changes"
        case "nothing":
            return ""
