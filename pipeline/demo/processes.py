"""Starts metadrift's own commands as processes, and ends what was started."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DRAIN_S = 15.0
KILL_S = 5.0

METADRIFT = (sys.executable, "-c", "from pipeline.cli import main; main()")
"""``metadrift``, whether or not the console script is on the path."""


class CommandError(Exception):
    """A command of metadrift failed; holds what it printed."""


def metadrift(*arguments: str, timeout_s: float) -> str:
    """Run a metadrift command to its end; return what it printed.

    Raises:
        CommandError: It ended with another code than 0, or took too long.
    """
    said = f"metadrift {' '.join(arguments)}"
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [*METADRIFT, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{said} took longer than {timeout_s:g} s") from error
    if done.returncode:
        raise CommandError(f"{said} ended with code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process as long as the block does; what it prints goes to ``log``."""
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
        with stopped(process):
            yield process


@contextmanager
def stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End a process with the block: SIGTERM, and SIGKILL where it does not drain in time."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(DRAIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(KILL_S)


def environment() -> dict[str, str]:
    """Return the environment of the demo's processes: one thread per process for numbers."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
