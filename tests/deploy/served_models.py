"""Small model folders for the serving tests; their answers tell them apart."""

from pathlib import Path

import numpy as np
import torch

from adapters.feature_schema import Feature, FeatureSchema, Preprocessor, Rows
from adapters.model_file import Architecture, Model, load_model, save_model
from deploy.seldon_process import ModelFolder

SCHEMA = FeatureSchema(
    (
        Feature("age", "number"),
        Feature("plan", "category"),
        Feature("paid", "bool"),
        Feature("pixels", "tensor", (2, 2), nullable=True),
    )
)
NAMES = list(SCHEMA.names)
ROW: list[object] = [30, "a", True, [0.0, 1.0, 2.0, 3.0]]
OTHER_ROW: list[object] = [50.5, "b", False, None]


def items(*rows: list[object]) -> list[dict[str, object]]:
    """Return rows as features objects."""
    return [dict(zip(NAMES, row, strict=True)) for row in rows]


def request(*rows: list[object]) -> dict[str, object]:
    """Return a prediction request for rows."""
    return {"data": {"names": NAMES, "ndarray": list(rows)}}


def raw_rows(*rows: list[object]) -> Rows:
    """Return rows as the models take them."""
    return SCHEMA.parse_many(items(*rows)).rows


def make_model(seed: int = 0, *, regression: bool = False) -> Model:
    """Return a model drawn under a seed."""
    preprocessor = Preprocessor.fit(SCHEMA, raw_rows(ROW, OTHER_ROW))
    kwargs: dict[str, object] = {
        "inputs": preprocessor.d,
        "hidden": [8],
        "outputs": 1 if regression else 2,
    }
    architecture = Architecture("adapters.modules:MLP", kwargs)
    module = architecture.build()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return Model(
        module=module,
        architecture=architecture,
        schema=SCHEMA,
        preprocessor=preprocessor,
        task_type="regression" if regression else "classification",
        class_names=() if regression else ("no", "yes"),
        target_mean=100.0 if regression else 0.0,
        target_std=5.0 if regression else 1.0,
    )


def save(folder: Path, model: Model) -> ModelFolder:
    """Write a model; return where it lies."""
    return ModelFolder(folder, save_model(folder, model))


def probabilities(folder: ModelFolder, *rows: list[object]) -> list[list[float]]:
    """Return what the model in a folder says about rows, computed here."""
    prediction = load_model(folder.folder, folder.digest).predict(raw_rows(*rows))
    assert prediction.proba is not None
    return np.asarray(prediction.proba, dtype=np.float64).tolist()
