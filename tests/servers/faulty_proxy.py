"""An HTTP proxy before a real server in which calls go wrong as a plan says."""

import enum
import http.client
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.ports import LOOPBACK

_UPSTREAM_S = 60.0
_NO_LINGER = struct.pack("ii", 1, 0)  # closing sends a reset


class Fault(enum.Enum):
    """How a call goes wrong."""

    TIMEOUT = "no answer"
    CONFLICT = 409
    BUSY = 429
    BROKEN = 500
    RESET = "connection reset before the server saw the call"
    LOST_REPLY = "carried out, and the reply is lost"
    KILLED = "carried out, and the caller is killed before the reply"


Plan = Callable[[str, str], Fault | None]


class FaultyProxy:
    """Forwards to a server; ``plan(method, path)`` says for each call what goes wrong.

    Args:
        port: The server's, on loopback.
        authority: Of its certificate; None where it speaks without TLS.

    Attributes:
        plan: Asked once for each call, from the proxy's threads, one at a time.
        killed: What ``KILLED`` does.
        faults: Method and path of the calls that went wrong.
        retry_after: Header of ``BUSY``, seconds; empty: none.
    """

    def __init__(self, port: int, authority: Path | None = None) -> None:
        self.plan: Plan = lambda method, path: None
        self.killed: Callable[[], None] = lambda: None
        self.faults: list[tuple[str, str]] = []
        self.retry_after = ""
        context = None
        if authority is not None:
            context = ssl.create_default_context(cafile=str(authority))
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            upstream: http.client.HTTPConnection | None = None

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = proxy._decide(self.command, self.path.partition("?")[0])
                if fault is Fault.TIMEOUT:
                    self.connection.settimeout(_UPSTREAM_S)
                    self.connection.recv(1)  # until the client gives up
                    self.close_connection = True
                elif fault is Fault.RESET:
                    self._reset()
                elif isinstance(fault, Fault) and isinstance(fault.value, int):
                    status = {"kind": "Status", "message": "as planned", "code": fault.value}
                    self._reply(fault.value, json.dumps(status).encode())
                else:
                    status_code, content = self._ask(body)
                    if fault is Fault.KILLED:
                        proxy.killed()
                    if fault in (Fault.LOST_REPLY, Fault.KILLED):
                        self._reset()
                    else:
                        self._reply(status_code, content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815 (its names)

            def _ask(self, body: bytes) -> tuple[int, bytes]:
                if self.upstream is None:
                    self.upstream = (
                        http.client.HTTPConnection(LOOPBACK, port, timeout=_UPSTREAM_S)
                        if context is None
                        else http.client.HTTPSConnection(
                            LOOPBACK, port, timeout=_UPSTREAM_S, context=context
                        )
                    )
                kept = {"content-type", "accept", "authorization", "user-agent"}
                headers = {k: v for k, v in self.headers.items() if k.lower() in kept}
                self.upstream.request(self.command, self.path, body or None, headers)
                reply = self.upstream.getresponse()
                return reply.status, reply.read()

            def finish(self) -> None:
                if self.upstream is not None:
                    self.upstream.close()
                super().finish()

            def _reply(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if status == Fault.BUSY.value and proxy.retry_after:
                    self.send_header("Retry-After", proxy.retry_after)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _reset(self) -> None:
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                self.connection.close()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://{LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def _decide(self, method: str, path: str) -> Fault | None:
        with self._lock:
            fault = self.plan(method, path)
            if fault is not None:
                self.faults.append((method, path))
            return fault

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
