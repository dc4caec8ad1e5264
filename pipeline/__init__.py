"""metadrift's composition: settings, engine, shells and commands.

Importing this package imports neither torch, mlflow, river, pandas nor kafka.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.engine import Engine, fold
    from pipeline.settings import ConfigError, Settings, load_settings

__all__ = ["ConfigError", "Engine", "Settings", "fold", "load_settings"]

_HOMES = {
    "ConfigError": "pipeline.settings",
    "Engine": "pipeline.engine",
    "Settings": "pipeline.settings",
    "fold": "pipeline.engine",
    "load_settings": "pipeline.settings",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
