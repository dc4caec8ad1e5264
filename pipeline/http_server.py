"""/healthz, /readyz and /metrics, on loopback unless configured otherwise."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


class HttpAddressError(Exception):
    """The address cannot be listened on; says what to do."""


class HttpServer:
    """A thread that answers GET.

    Args:
        host: Address to listen on.
        port: 0 takes a free one.
        pages: By path.

    Raises:
        HttpAddressError: The address cannot be used.
    """

    def __init__(self, host: str, port: int, pages: dict[str, Callable[[], Answer]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                page = pages.get(self.path.split("?", 1)[0])
                status, kind, body = page() if page else (404, "text/plain", b"no such page\n")
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Keep the log to the daemon's own lines."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise HttpAddressError(
                f"http: {host}:{port} cannot be used ({error.strerror}): end what listens there, "
                "or set http.port to another one (0 takes a free one)"
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)


def write_address(path: Path, host: str, port: int) -> None:
    """Say where the server listens, for people and tests that asked for a free port."""
    path.write_text(json.dumps({"host": host, "port": port}), encoding="utf-8")
