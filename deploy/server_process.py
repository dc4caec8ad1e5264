"""A server process that ends with us, however we end.

It runs in a process group of its own, under a small shell that holds the other end of a pipe. When
the pipe closes, because we closed it or because we were killed, the shell kills the whole group: a
crash leaves no server behind, and neither does a server that has forked.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_LEASH = """
exec 3<&0
"$@" </dev/null 3<&- & server=$!
(cat <&3 >/dev/null; kill -KILL 0) &
exec 3<&-
trap 'kill -TERM $server' TERM
trap 'kill -USR1 $server' USR1
wait $server; code=$?
while kill -0 $server 2>/dev/null; do wait $server; code=$?; done
exit $code
"""

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
"""Of our environment; the rest may hold secrets that a server has no use for."""
_LONGEST_LOG = 4 * 2**20
_REAP_S = 10.0


class ServerProcess:
    """One running server.

    Args:
        argv: What to run; no secrets, since others can read it.
        log: Gets what it prints; one that has grown long is set aside as ``.old`` first.
        env: Added to the few variables that are passed on.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LONGEST_LOG:
            log.replace(log.with_name(f"{log.name}.old"))
        self._log_start = log.stat().st_size if log.exists() else 0
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with log.open("ab") as sink:
            self._process = subprocess.Popen(  # noqa: S603 - a program of ours or by its path
                ["/bin/sh", "-c", _LEASH, "leash", *argv],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**kept, **env},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Leader of the process group that the server is in."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit status, negative for a signal to the group; None while it runs."""
        return self._process.poll()

    def log_tail(self, lines: int = 12) -> str:
        """Return the end of what this process has printed."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 16_384))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except OSError as error:  # others may clear logs away; that is no reason to fall over
            return f"({self._log} cannot be read: {error.strerror})"

    def ask_to_end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end what it has in hand; ``kill`` then clears its group away."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, within_s: float, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end what it has in hand, wait, and kill what is left of its group."""
        try:
            self.ask_to_end(number)
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            pass  # it had its time: kill below ends it
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the whole group at once; harmless when it has ended."""
        # Once the leader was reaped its number may be another's; the pipe names no number.
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(_REAP_S)
