"""A server process that cannot outlive the tests, however they end.

The process runs in a process group of its own under a small shell that also reads a pipe from
us. When the pipe closes, because we closed it or because the tests were killed, the whole group
is killed. So a killed test run leaves no broker and no MLflow server behind.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# SIGTERM to the shell is passed on to the server alone; end of file on descriptor 3 kills all.
_LEASH = """
exec 3<&0
"$@" </dev/null 3<&- & child=$!
(cat <&3 >/dev/null; kill -KILL 0) &
exec 3<&-
trap 'kill -TERM $child' TERM
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
exit $code
"""


class ServerError(RuntimeError):
    """A test server did not start or stop as it should; the message ends with its log's tail."""


class LeashedProcess:
    """One running server; ``log`` receives stdout and stderr, appended over restarts."""

    def __init__(
        self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.name = Path(argv[0]).name
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _LEASH, "leash", *argv],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process.poll() is None

    def output(self) -> str:
        """What this process has printed."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait_for(self, condition: Callable[[], bool], *, what: str, within_s: float) -> None:
        """Wait until ``condition`` holds.

        Raises:
            ServerError: The server ended, or ``within_s`` passed first.
        """
        deadline = time.monotonic() + within_s
        while not condition():
            if not self.alive:
                raise self._error(f"ended before {what}")
            if time.monotonic() > deadline:
                raise self._error(f"took over {within_s:g} s for {what}")
            time.sleep(0.05)

    def terminate(self, *, within_s: float) -> int:
        """SIGTERM, wait, then end what is left of the group; return the server's exit status."""
        self._process.terminate()
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise self._error(f"took over {within_s:g} s to end after SIGTERM") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group, at once; harmless when it has ended."""
        # A group whose leader was reaped may still hold children, and its number is not reused
        # while it does; the closed pipe ends those without naming a number.
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(10)

    def _error(self, what: str) -> ServerError:
        tail = "\n".join(self.output().splitlines()[-25:])
        return ServerError(f"{self.name} {what}; the end of {self.log}:\n{tail}")
