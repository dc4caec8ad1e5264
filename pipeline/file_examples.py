"""Rows of a data file as labelled examples, for fitting and meta-training."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.examples import Examples
from adapters.feature_schema import FeatureSchema
from adapters.model_file import lineage_key
from pipeline.data_file import FileRow


@dataclass(frozen=True, slots=True)
class FileExamples:
    """Labelled rows of a file.

    Attributes:
        examples: The usable rows.
        tasks: Task name per row; empty when the file has no task column.
        times_ms: ``(n,)`` epoch milliseconds per row.
        refused: Rows left out because a feature did not fit, by reason.
        unlabelled: Rows left out because they have no label.
    """

    examples: Examples
    tasks: tuple[str, ...]
    times_ms: NDArray[np.int64]
    refused: dict[str, int]
    unlabelled: int


def examples_of_rows(rows: Iterable[FileRow], schema: FeatureSchema) -> FileExamples:
    """Parse rows just as the stream would; say what was left out."""
    labelled, unlabelled = [], 0
    for row in rows:
        if row.label is None:
            unlabelled += 1
        else:
            labelled.append(row)
    parsed = schema.parse_many([r.features for r in labelled])
    refused: dict[str, int] = {}
    for error in parsed.errors.values():
        refused[error.field] = refused.get(error.field, 0) + 1
    kept = [labelled[i] for i in parsed.kept]
    keys = np.array([lineage_key(r.group or r.id) for r in kept], np.uint64)
    tasks = tuple(r.task for r in kept if r.task is not None)
    numeric = [r.label for r in kept if isinstance(r.label, float)]
    if kept and len(numeric) == len(kept):
        examples = Examples(parsed.rows, values=np.array(numeric), keys=keys)
    else:
        examples = Examples(parsed.rows, tuple(str(r.label) for r in kept), keys=keys)
    owners = tasks if len(tasks) == len(kept) else ()
    times_ms = np.array([r.ts_ms for r in kept], np.int64)
    return FileExamples(examples, owners, times_ms, refused, unlabelled)
