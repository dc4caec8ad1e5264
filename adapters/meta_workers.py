"""Meta-training's worker processes: spawned, one torch thread each, watched and never left behind.

A worker talks through its own pipe, which the system bounds: it blocks when nobody reads, and
its next report fails, which ends it, when its parent is gone.
"""

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from adapters.meta_jobs import JobName, Share, run_share
from adapters.meta_settings import MetaTrainingError, Progress, Report
from adapters.task_groups import joined

_KILL_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Done:
    results: dict[JobName, bytes]


@dataclass(frozen=True, slots=True)
class _Failed:
    message: str


def run_shares(
    shares: Sequence[Share], report: Report, *, timeout_s: float
) -> dict[JobName, bytes]:
    """Run each share in a process of its own, or in ``members`` of them; return all results.

    Args:
        shares: What to do.
        report: Called in this process with every progress value.
        timeout_s: Every worker still running then is killed.

    Raises:
        MetaTrainingError: A worker failed, died or ran out of time. All of them are gone then.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, SpawnProcess] = {}
    results: dict[JobName, bytes] = {}
    deadline = time.monotonic() + timeout_s
    meetings = tempfile.TemporaryDirectory(prefix="metadrift-")
    try:
        for share in shares:
            name = f"meta-train-{'-'.join(share.jobs)}"
            meeting = Path(meetings.name) / name
            for rank in range(share.settings.members):
                ours, theirs = context.Pipe(duplex=False)
                member = name if share.settings.members == 1 else f"{name}-{rank}"
                task = (theirs, share, meeting, rank)
                process = context.Process(target=_work, args=task, name=member, daemon=True)
                workers[ours] = process
                process.start()
                theirs.close()
        working = set(workers)
        while working:
            ready = wait(list(working), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                names = sorted(workers[connection].name for connection in working)
                raise MetaTrainingError(
                    f"{', '.join(names)} ran past {timeout_s:.0f} s and was killed;"
                    " lower max_seconds or the steps, or free a core"
                )
            for connection in ready:
                if not isinstance(connection, Connection):
                    continue
                match _received(connection, workers[connection]):
                    case Progress() as progress:
                        report(progress)
                    case _Done(found):
                        results |= found
                        working.remove(connection)
                    case _Failed(message):
                        raise MetaTrainingError(message)
        return results
    finally:
        for connection, process in workers.items():
            _end(connection, process)
        meetings.cleanup()


def _received(connection: Connection, process: SpawnProcess) -> Progress | _Done | _Failed:
    try:
        message = connection.recv()
    except (EOFError, OSError):
        process.join(_KILL_WAIT_S)
        return _Failed(
            f"{process.name} died (exit code {process.exitcode}) before it had a result;"
            " if it was killed for memory, lower maml_tasks or the number of rows"
        )
    if isinstance(message, Progress | _Done | _Failed):
        return message
    return _Failed(f"{process.name} sent a {type(message).__name__}")


def _end(connection: Connection, process: SpawnProcess) -> None:
    if process.pid is not None:
        process.join(0.2)  # one that is done is on its way out
        if process.is_alive():
            process.kill()
        process.join(_KILL_WAIT_S)
    connection.close()


def _work(connection: Connection, share: Share, meeting: Path, rank: int) -> None:
    """Run one share, or be the ``rank``-th of its members; the body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the parent, which ends this
    torch.set_num_threads(1)

    def report(progress: Progress) -> None:
        if rank == 0:
            connection.send(progress)

    with suppress(BrokenPipeError):  # the parent is gone: nobody is left to tell
        try:
            with joined(meeting, rank, share.settings.members) as group:
                results = run_share(share, time.monotonic, report, group)
            done: _Done | _Failed = _Done(results if rank == 0 else {})
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - it is reported to the parent, which raises it
            done = _Failed(f"{'-'.join(share.jobs)}: {type(error).__name__}: {error}")
        connection.send(done)
    connection.close()
