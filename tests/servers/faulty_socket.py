"""A proxy before HAProxy's runtime socket in which calls go wrong as a plan says."""

import enum
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_HELD_S = 30.0
_LONGEST = 2**16


class SocketFault(enum.Enum):
    """How a call goes wrong."""

    RESET = "connection reset before HAProxy saw the line"
    DROPPED = "closed in peace before HAProxy saw the line"
    TIMEOUT = "no answer"
    LOST_REPLY = "carried out, and the answer is lost"
    CUT = "carried out, and half of the answer is lost"
    REFUSED = "carried out and answered, and then nobody listens"
    KILLED = "carried out, and the caller is killed before the answer"


SocketPlan = Callable[[str], SocketFault | None]


class FaultySocket:
    """Between a router and its HAProxy; ``plan(line)`` says for each call what goes wrong.

    Attributes:
        haproxy: Path of a program that starts HAProxy behind this proxy.
        real: Path of HAProxy's own socket.
        plan: Asked once for each call.
        killed: What ``KILLED`` does.
        faults: Fault and line of the calls that went wrong.
    """

    def __init__(self, folder: Path, haproxy: str) -> None:
        self.real = folder / "real.sock"
        self.plan: SocketPlan = lambda line: None
        self.killed: Callable[[], None] = lambda: None
        self.faults: list[tuple[SocketFault, str]] = []
        self._path = folder / "proxy.sock"
        self.haproxy = folder / "haproxy"
        # The router calls it with -db -f CONFIGURATION; the proxy takes the socket's place there.
        self.haproxy.write_text(
            "#!/bin/sh\n"
            'socket="$(dirname "$3")/haproxy.sock"\n'
            f'ln -sf {self._path} "$socket"\n'
            f'sed "s#$socket#{self.real}#" "$3" > "$3.behind"\n'
            f'exec {haproxy} -db -f "$3.behind"\n'
        )
        self.haproxy.chmod(0o755)
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def listen(self) -> None:
        """Begin to take calls, where that is not so already."""
        if self._listener is not None:
            return
        if self._thread is not None:
            self._thread.join(_HELD_S)
        with suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen()
        self._listener = listener
        self._thread = threading.Thread(target=self._serve, args=(listener,))
        self._thread.start()

    def refuse(self) -> None:
        """Take no calls until ``listen``."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes a waiting accept
            listener.close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(_HELD_S)
                # A caller that was killed or has given up is no longer there.
                with suppress(ConnectionError, TimeoutError):
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        line = connection.recv(_LONGEST, socket.MSG_PEEK)
        fault = self.plan(line.decode())
        if fault is not None:
            self.faults.append((fault, line.decode()))
        if fault is SocketFault.RESET:
            return  # closed with the line unread
        connection.recv(_LONGEST)
        if fault is SocketFault.DROPPED:
            return
        if fault is SocketFault.TIMEOUT:
            connection.recv(1)  # until the caller gives up
            return
        answer = ask(self.real, line)
        match fault:
            case SocketFault.LOST_REPLY:
                return
            case SocketFault.CUT:
                answer = answer[: len(answer) // 2]
            case SocketFault.REFUSED:
                self.refuse()
            case SocketFault.KILLED:
                self.killed()
                return
        connection.sendall(answer)

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse()
        if self._thread is not None:
            self._thread.join(_HELD_S)


def ask(path: Path, line: bytes) -> bytes:
    """Return HAProxy's answer; nothing where it does not run."""
    parts = []
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_HELD_S)
            connection.connect(str(path))
            connection.sendall(line)
            while part := connection.recv(_LONGEST):
                parts.append(part)
    except OSError:
        return b""
    return b"".join(parts)
