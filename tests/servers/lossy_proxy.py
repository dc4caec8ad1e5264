"""An HTTP proxy before a real server that loses a reply, is late with a request, or redirects."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.servers.ports import LOOPBACK

_UPSTREAM_S = 30.0
_HELD_S = 60.0


class LossyProxy:
    """Forwards to ``LOOPBACK:port``; the next call whose path ends as told goes wrong."""

    def __init__(self, port: int) -> None:
        self.lost: list[str] = []
        self._redirect: str | None = None
        self._lose_reply: str | None = None
        self._hold_request: str | None = None
        self._release = threading.Event()
        self._delivered = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if proxy._redirect is not None:
                    self.send_response(307)
                    self.send_header("Location", proxy._redirect)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if proxy._take("_hold_request", self.path):
                    self._hang_up()
                    proxy._release.wait(_HELD_S)
                    self._ask(body)
                    proxy._delivered.set()
                    return
                status, content = self._ask(body)
                if proxy._take("_lose_reply", self.path):
                    self._hang_up()
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815 (its names)

            def _ask(self, body: bytes) -> tuple[int, bytes]:
                upstream = http.client.HTTPConnection(LOOPBACK, port, timeout=_UPSTREAM_S)
                try:
                    kept = {"content-type", "accept", "user-agent"}
                    headers = {k: v for k, v in self.headers.items() if k.lower() in kept}
                    upstream.request(self.command, self.path, body, headers)
                    reply = upstream.getresponse()
                    return reply.status, reply.read()
                finally:
                    upstream.close()

            def _hang_up(self) -> None:
                proxy.lost.append(self.path)
                self.close_connection = True
                self.connection.shutdown(2)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://{LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def lose_reply_of(self, path_end: str) -> None:
        """Carry out the next call of ``path_end`` and hang up instead of replying."""
        self._lose_reply = path_end

    def hold_request_of(self, path_end: str) -> None:
        """Hang up on the next call of ``path_end``; it reaches the server at ``deliver``."""
        self._hold_request = path_end

    def redirect_to(self, address: str) -> None:
        """Answer every call with a redirect."""
        self._redirect = address

    def deliver(self) -> None:
        """Let the held request reach the server, and wait until it was carried out."""
        self._release.set()
        if not self._delivered.wait(_UPSTREAM_S):
            raise TimeoutError("the held request was not carried out")

    def _take(self, order: str, path: str) -> bool:
        wanted: str | None = getattr(self, order)
        if wanted is None or not path.partition("?")[0].endswith(wanted):
            return False
        setattr(self, order, None)
        return True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
