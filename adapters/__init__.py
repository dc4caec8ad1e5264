"""Adapters: what adapts a model, from raw features to meta-learned starts.

Names are loaded on first use, so that importing the package imports neither torch nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapters.feature_schema import (
        Feature,
        FeatureError,
        FeatureSchema,
        Parsed,
        Preprocessor,
        Rows,
    )
    from adapters.model_file import (
        Architecture,
        Model,
        ModelFileError,
        Prediction,
        lineage_key,
        load_model,
        model_digest,
        pack_model,
        save_model,
        unpack_model,
    )
    from adapters.modules import MLP, initialise

__all__ = [
    "Architecture",
    "Feature",
    "FeatureError",
    "FeatureSchema",
    "MLP",
    "Model",
    "ModelFileError",
    "Parsed",
    "Prediction",
    "Preprocessor",
    "Rows",
    "initialise",
    "lineage_key",
    "load_model",
    "model_digest",
    "pack_model",
    "save_model",
    "unpack_model",
]

_HOMES = {
    "adapters.feature_schema": (
        "Feature",
        "FeatureError",
        "FeatureSchema",
        "Parsed",
        "Preprocessor",
        "Rows",
    ),
    "adapters.model_file": (
        "Architecture",
        "Model",
        "ModelFileError",
        "Prediction",
        "lineage_key",
        "load_model",
        "model_digest",
        "pack_model",
        "save_model",
        "unpack_model",
    ),
    "adapters.modules": ("MLP", "initialise"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import the module that a public name lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'adapters' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
