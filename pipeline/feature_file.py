"""The file beside the configuration that says what a model reads: written by ``metadrift init``.

It is there to be looked at and corrected (a feature left out, another kind, ``nullable``) before
``meta-train`` fits a model to it; from then on the schema belongs to the model version.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from adapters.feature_schema import FeatureSchema
from pipeline.data_columns import Columns
from pipeline.inference import TaskType

FORMAT = "metadrift-features/1"


class FeatureFileError(Exception):
    """The file cannot be used; names the key, the value and the fix."""


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """What a data file was found to hold.

    Attributes:
        task_type: Classification or regression.
        columns: The columns by meaning; ``boundaries`` is never kept.
        schema: The features.
        class_names: In order; empty for regression.
    """

    task_type: TaskType
    columns: Columns
    schema: FeatureSchema
    class_names: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write the file."""
        columns = asdict(self.columns)
        del columns["boundaries"]
        document = {
            "format": FORMAT,
            "task_type": self.task_type,
            "columns": columns,
            "class_names": list(self.class_names),
            "schema": self.schema.to_json(),
        }
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def path_beside(config: Path) -> Path:
    """Return where the file of a configuration lies.

    >>> path_beside(Path("conf/metadrift.yaml")).as_posix()
    'conf/metadrift.features.json'
    """
    return config.with_suffix(".features.json")


def load_beside(config: Path) -> FeatureFile | None:
    """Read the file of a configuration; None when there is none.

    Raises:
        FeatureFileError: It is not what ``save`` writes.
    """
    path = path_beside(config)
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT!r}")
        task_type = document["task_type"]
        if task_type not in ("classification", "regression"):
            raise ValueError(f"task_type is {task_type!r}, use classification or regression")
        kept = dict(document["columns"])
        features = kept.pop("features")
        names = document["class_names"]
        if not isinstance(names, list):
            raise ValueError(f"class_names is {names!r}, expected a list")
        return FeatureFile(
            task_type=cast(TaskType, task_type),
            columns=Columns(features=None if features is None else tuple(features), **kept),
            schema=FeatureSchema.from_json(document["schema"]),
            class_names=tuple(map(str, names)),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise FeatureFileError(
            f"{path}: {why}; correct it, or write it anew with `metadrift init --data FILE --force`"
        ) from error
