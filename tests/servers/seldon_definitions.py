"""Seldon Core's and Istio's own resource definitions, from the folder METADRIFT_SELDON.

They are not this project's and not part of it; without them the tests of the Kubernetes backend
cannot run.
"""

import lzma
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_SELDON_DEPLOYMENTS = "machinelearning.seldon.io_seldondeployments.yaml.xz"
_GRAPH_CHILDREN = "graph_children.yaml.xz"
_OTHERS = ("istio-crd.yaml.xz", "mlops.seldon.io_experiments.yaml", "mlops.seldon.io_models.yaml")


def seldon_definitions() -> list[dict[str, Any]]:
    """Return the definitions; where the folder is not there, the test fails in CI and is skipped
    elsewhere.
    """
    folder = Path(os.environ.get("METADRIFT_SELDON", _ROOT.parent / "shared" / "seldon"))
    if not (folder / _SELDON_DEPLOYMENTS).is_file():
        reason = f"{folder} holds no {_SELDON_DEPLOYMENTS}: set METADRIFT_SELDON to its folder"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    (seldon,) = _documents(folder / _SELDON_DEPLOYMENTS)
    (operations,) = _documents(folder / _GRAPH_CHILDREN)
    for operation in operations:
        _replace(seldon, operation)
    return [seldon, *(d for name in _OTHERS for d in _documents(folder / name) if d)]


def _documents(path: Path) -> list[Any]:
    raw = path.read_bytes()
    text = lzma.decompress(raw) if path.suffix == ".xz" else raw
    return [d for d in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if d]


def _replace(document: Any, operation: dict[str, Any]) -> None:
    """Carry out one ``replace`` of a JSON Patch."""
    if operation["op"] != "replace":
        raise ValueError(f"{_GRAPH_CHILDREN} holds the operation {operation['op']}: only replace")
    *folders, key = operation["path"].removeprefix("/").split("/")
    for folder in folders:
        document = document[int(folder) if isinstance(document, list) else folder]
    document[key] = operation["value"]
