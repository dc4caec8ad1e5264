"""Opens a model version for anybody: ``mlflow.pyfunc.load_model("models:/NAME@champion")``.

This file is copied into every logged model and runs in the process of whoever loads it, never in
ours: the daemon reads the model folder with its own loader. It needs metadrift installed there.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class MetadriftModel(PythonModel):
    """Raw features by name in, predictions out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model folder, which verifies every sha256 first."""
        # By name: this program belongs to the folder that it opens, not to the package deploy,
        # which knows nothing of models.
        load_model = import_module("adapters.model_file").load_model
        self._model = load_model(Path(context.artifacts["model"]), None)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return a column ``prediction`` and, for classification, ``proba.<class>`` columns.

        A tensor feature is one column of flat lists, or one column per number
        (``image.0``, ``image.1``, ...).

        Raises:
            ValueError: A row lacks a feature or holds a value of the wrong kind.
        """
        schema = self._model.schema
        parsed = schema.parse_many(_rows(model_input, schema.features))
        if parsed.errors:
            number, error = min(parsed.errors.items())
            raise ValueError(f"row {number}: {error}")
        said = self._model.predict(parsed.rows)
        if said.proba is None:
            return pd.DataFrame({"prediction": said.values}, index=model_input.index)
        names = [f"proba.{name}" for name in self._model.class_names]
        answer = pd.DataFrame(said.proba, columns=names, index=model_input.index)
        answer.insert(0, "prediction", said.labels)
        return answer


def _rows(frame: pd.DataFrame, features: Any) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for feature in features:
        name = feature.name
        parts = [f"{name}.{i}" for i in range(feature.width)] if feature.kind == "tensor" else []
        if name in frame:
            columns[name] = [_json_value(value) for value in frame[name]]
        elif parts and set(parts) <= set(frame.columns):
            columns[name] = frame[parts].to_numpy().tolist()
    return [
        {name: values[number] for name, values in columns.items()} for number in range(len(frame))
    ]


def _json_value(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return list(value)
    return None if pd.isna(value) else value


mlflow.models.set_model(MetadriftModel())
