"""A connection to MLflow: the one file of the daemon that imports mlflow, once it is called.

Importing mlflow takes seconds and its calls may take long and fail for hours, so it lives in the
outbox's process only.
"""

import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.registry import PermanentError, TransientError
from deploy.store_address import check_store_address

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

_SETTINGS = {
    # A call ends within seconds. Repeating it is the outbox's business, which knows that a
    # repeated creation may be a second one; MLflow's own repetition does not.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_AWAY_S = 5.0
_NEEDS_A_PERSON_S = 60.0
_NEEDS_A_PERSON = {
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
    "ENDPOINT_NOT_FOUND",
    "INVALID_STATE",
}
_WRONG_VALUES = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"}


@dataclass(frozen=True, slots=True)
class Connection:
    """MLflow's client, and the few of its names that the registry needs.

    Attributes:
        client: For tracking and registry.
        artifacts: Where a new experiment keeps its artifacts; None leaves it to the server.
        save_pyfunc: ``mlflow.pyfunc.save_model``.
        metric: MLflow's metric value.
        param: MLflow's param value.
        error: What the client raises.
        away: What it lets through from below.
    """

    client: "MlflowClient"
    artifacts: str | None
    save_pyfunc: Callable[..., None]
    metric: "type[Metric]"
    param: "type[Param]"
    error: "type[MlflowException]"
    away: tuple[type[Exception], ...]

    @contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """Turn MLflow's exceptions into the registry's.

        Raises:
            TransientError: The server is away, refuses us for now, or lacks what may come back.
            PermanentError: It says that the values are wrong.
        """
        try:
            yield
        except self.error as error:
            message = f"MLflow could not {what}: {str(error)[:500]}"
            if error.error_code in _WRONG_VALUES:
                raise PermanentError(message) from error
            waits = error.error_code in _NEEDS_A_PERSON
            retry_in_s = _NEEDS_A_PERSON_S if waits else _AWAY_S
            raise TransientError(message, retry_in_s=retry_in_s) from error
        except self.away as error:
            message = f"MLflow could not {what}: {str(error)[:500]}"
            raise TransientError(message, retry_in_s=_AWAY_S) from error

    @contextmanager
    def missing(self) -> Iterator[None]:
        """Turn "does not exist" into ``LookupError``; other exceptions pass."""
        try:
            yield
        except self.error as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise LookupError(str(error)) from error


def connect(address: str, artifacts: Path | None) -> Connection:
    """Return a connection; a server is not called yet, a SQLite file is made.

    Args:
        address: ``sqlite:////folder/mlflow.db``, ``http://host`` or ``https://host``. Credentials
            come from MLflow's own environment variables.
        artifacts: Folder for artifacts; with SQLite only (default: ``artifacts`` beside it).

    Raises:
        StoreAddressError: The address is refused.
        TransientError: The SQLite file cannot be made.
    """
    check_store_address(address)
    os.environ.update(_SETTINGS)  # MLflow has no other way to say these
    import mlflow.pyfunc
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # For each model they compare the environment with its requirements, in paragraphs, and miss
    # a signature: the feature schema in the manifest says more than one could.
    for name in ("mlflow.utils.requirements_utils", "mlflow.utils.environment", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.ERROR)
    away = (SQLAlchemyError, sqlite3.Error, OSError)
    location = None
    try:
        if address.startswith("sqlite:"):
            store = Path(address.removeprefix("sqlite:///"))
            folder = store.parent
            folder.mkdir(parents=True, exist_ok=True)
            if not store.exists():
                _make_store(store, mlflow.MlflowClient)
            location = (artifacts or folder / "artifacts").absolute().as_uri()
        client = mlflow.MlflowClient(tracking_uri=address, registry_uri=address)
    except away as error:
        raise TransientError(f"no tracking store: {error}", retry_in_s=_AWAY_S) from error
    return Connection(
        client, location, mlflow.pyfunc.save_model, Metric, Param, MlflowException, away
    )


def _make_store(store: Path, client: "type[MlflowClient]") -> None:
    """Make a SQLite store whole or not at all.

    MLflow creates its tables one by one; killed in between, it would find them half made and
    refuse the file for ever.
    """
    with tempfile.TemporaryDirectory(dir=store.parent, prefix=".mlflow-") as scratch:
        made, whole = Path(scratch) / "made.db", Path(scratch) / "whole.db"
        client(tracking_uri=f"sqlite:///{made}", registry_uri=f"sqlite:///{made}")
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(whole)) as target:
            source.backup(target)  # MLflow keeps connections to the file that it made
        if not store.exists():  # another process may have been quicker
            whole.rename(store)
