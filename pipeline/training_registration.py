"""Tells MLflow about a meta-training or meta-evaluation from a process with a deadline.

Importing MLflow takes seconds, a new SQLite store some more, and a server may hang; none of that
may hold up the command whose result is already on the shelf.
"""

import logging
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from deploy.registry import RegistryError
from deploy.registry_records import ModelVersionRecord, TrainingRecord

_SPAWN = multiprocessing.get_context("spawn")


class NotRegisteredError(Exception):
    """MLflow could not be told; says why."""


class _Job(msgspec.Struct):
    uri: str
    artifacts: str
    model: str
    training: TrainingRecord
    version: ModelVersionRecord | None
    folder: str
    files: list[str] = []


class _Reply(msgspec.Struct):
    run: str = ""
    version: str = ""
    error: str = ""


def register_training(
    *,
    uri: str,
    artifacts: Path,
    model: str,
    training: TrainingRecord,
    version: ModelVersionRecord,
    folder: Path,
    timeout_s: float,
) -> tuple[str, str]:
    """Record the run and register the meta-init; return run id and version.

    Args:
        uri: Of the tracking store.
        artifacts: Folder for artifacts beside a SQLite store.
        model: Registered model's name.
        training: The run.
        version: The meta-init's version.
        folder: Where the meta-init lies.
        timeout_s: Longest it may take altogether.

    Raises:
        NotRegisteredError: MLflow is away, refuses, or took longer. Telling it again is harmless.
    """
    return _told(_Job(uri, str(artifacts), model, training, version, str(folder)), timeout_s)


def record_run(
    *,
    uri: str,
    artifacts: Path,
    model: str,
    run: TrainingRecord,
    files: Sequence[Path],
    timeout_s: float,
) -> str:
    """Record a run that registers nothing, with files as artifacts; return its id.

    Other arguments and errors as above.
    """
    paths = [str(file) for file in files]
    return _told(_Job(uri, str(artifacts), model, run, None, "", paths), timeout_s)[0]


def _told(job: _Job, timeout_s: float) -> tuple[str, str]:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(
        target=serve,
        args=(theirs, msgspec.msgpack.encode(job)),
        name="metadrift-registration",
        daemon=True,
    )
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout_s):
            raise NotRegisteredError(f"no answer within {timeout_s:g} s")
        reply = msgspec.msgpack.decode(ours.recv_bytes(), type=_Reply)
    except EOFError as error:
        raise NotRegisteredError("its process ended without an answer") from error
    finally:
        ours.close()
        process.join(2)
        if process.is_alive():
            process.kill()
            process.join(2)
    if reply.error:
        raise NotRegisteredError(reply.error)
    return reply.run, reply.version


def serve(pipe: Connection, packed: bytes) -> None:
    """Do one job and send the reply (the process's main function)."""
    job = msgspec.msgpack.decode(packed, type=_Job)
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # a new store announces itself
    try:
        from deploy.mlflow_registry import MlflowRegistry

        artifacts = Path(job.artifacts) if job.uri.startswith("sqlite:") else None
        registry = MlflowRegistry(job.uri, model=job.model, artifacts=artifacts)
        run = registry.record_training(job.training, [Path(file) for file in job.files])
        reply = _Reply(run)
        if job.version is not None:
            reply.version = registry.register_meta_init(Path(job.folder), job.version)
    except (RegistryError, ValueError, OSError) as error:
        reply = _Reply(error=f"{type(error).__name__}: {error}")
    pipe.send_bytes(msgspec.msgpack.encode(reply))
