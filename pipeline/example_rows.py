"""Buffered examples as adapters takes them."""

from collections.abc import Sequence

import numpy as np

from adapters.examples import Examples
from adapters.model_file import lineage_key
from pipeline.example_buffer import Example, rows_of
from pipeline.turn import Turn


def examples_as_rows(turn: Turn, name: str, examples: Sequence[Example]) -> Examples:
    """Return a route's examples with their labels and lineage keys; maybe none."""
    if not examples:
        return Examples(turn.champion(name).schema.parse_many([]).rows)
    keys = np.array([lineage_key(e.group or e.id) for e in examples], np.uint64)
    rows = rows_of(list(examples))
    if turn.settings.model.task_type == "regression":
        return Examples(rows, values=np.array([e.label for e in examples]), keys=keys)
    classes = turn.core.classes
    return Examples(rows, tuple(classes[int(e.label)] for e in examples), keys=keys)
