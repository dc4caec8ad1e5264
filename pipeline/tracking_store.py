"""Where MLflow keeps a model's runs, and whether that place can be reached, without MLflow."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from deploy.store_address import StoreAddressError, check_store_address

if TYPE_CHECKING:
    from pipeline.settings import Settings


class StoreError(Exception):
    """The tracking store cannot be used; names the key and the fix."""


def tracking_uri(settings: "Settings") -> str:
    """Return where MLflow keeps its runs: the configured server, else a file beside the state."""
    if settings.registry.tracking_uri:
        return settings.registry.tracking_uri
    return f"sqlite:///{(settings.state_dir / 'mlflow.db').resolve()}"


def artifacts_folder(settings: "Settings") -> Path:
    """Return the artifacts' folder beside a SQLite store."""
    return settings.state_dir / "mlflow-artifacts"


def reach_store(uri: str, timeout_s: float) -> str:
    """Look at the store; return what was found in a few words.

    Raises:
        StoreError: The address is refused, or nothing answers there.
    """
    try:
        check_store_address(uri)
    except StoreAddressError as error:
        raise StoreError(f"registry.tracking_uri: {error}") from error
    if uri.startswith("sqlite:"):
        return _file(Path(uri.removeprefix("sqlite:///")))
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=timeout_s)
    except httpx.HTTPError as error:
        raise StoreError(
            f"registry.tracking_uri: no server answers at {uri} ({type(error).__name__}: {error}): "
            "start it or correct the address"
        ) from error
    if answer.status_code != httpx.codes.OK:
        raise StoreError(
            f"registry.tracking_uri: {uri}/health answers {answer.status_code}: is it an MLflow "
            "server, and are MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD set?"
        )
    return f"MLflow server at {uri} answers"


def _file(path: Path) -> str:
    if not path.exists():
        return f"SQLite file {path}, made when it is first used"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        raise StoreError(
            f"registry.tracking_uri: {path} cannot be read ({error}): name another file"
        ) from error
    if tables and "experiments" not in tables:
        raise StoreError(
            f"registry.tracking_uri: {path} is no MLflow store: name another file, or move it away"
        )
    return f"SQLite file {path}"
