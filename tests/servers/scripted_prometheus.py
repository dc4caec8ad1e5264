"""Answers instant queries with what a test says, in the shapes of Prometheus' documentation."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.servers.ports import LOOPBACK

Series = tuple[dict[str, str], str]
"""Labels, and the value as Prometheus writes it."""


def vector(*series: Series, **more: object) -> bytes:
    """Return the body of a successful instant query."""
    result = [{"metric": labels, "value": [1795756387.123, value]} for labels, value in series]
    data = {"resultType": "vector", "result": result}
    return json.dumps({"status": "success", "data": data, **more}).encode()


class ScriptedPrometheus:
    """One server on loopback; a context manager.

    Attributes:
        status: Of its answers.
        body: Of its answers.
        waits_s: Before each.
        drips_s: Between one byte of a body and the next; 0: all at once.
        location: Where it redirects to; "": nowhere.
        asked: The queries that came, and the ``Authorization`` of each.
    """

    def __init__(self) -> None:
        self.status, self.body, self.location = 200, vector(), ""
        self.waits_s, self.drips_s = 0.0, 0.0
        self.asked: list[tuple[str, str | None]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = urlsplit(self.path)
                if asked.path == "/api/v1/query":
                    (query,) = parse_qs(asked.query)["query"]
                    script.asked.append((query, self.headers["Authorization"]))
                time.sleep(script.waits_s)
                self.send_response(script.status)
                if script.location:
                    self.send_header("Location", script.location)
                self.send_header("Content-Length", str(len(script.body)))
                self.end_headers()
                step = 1 if script.drips_s else len(script.body) or 1
                for at in range(0, len(script.body), step):
                    self.wfile.write(script.body[at : at + step])
                    self.wfile.flush()
                    time.sleep(script.drips_s)

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:  # the client has given up
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

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
