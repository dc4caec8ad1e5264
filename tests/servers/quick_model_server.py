"""Stands in for the model server where a test is about what is around it: it starts at once.

``quick_python`` is given to the local backend as the serving environment's interpreter. It answers
every prediction with its version, every health check with 200, and takes feedback.
"""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def quick_python(folder: Path) -> Path:
    """Return an "interpreter" that ignores its module and runs this file instead."""
    script = folder / "quick-python"
    # Without site-packages: it starts in a tenth of a second.
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} "$@"\n')
    script.chmod(0o755)
    return script


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--parameters", type=json.loads, required=True)
    options, _ = parser.parse_known_args()
    given = {each["name"]: each["value"] for each in options.parameters}
    told = {
        "meta": {"tags": {"model_version": given["version"]}},
        "model_version": given["version"],  # the real one's health page has these two
        "digest": given["digest"],
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = 30
        wbufsize = -1  # head and body in one piece, as the real one does

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer()

        def answer(self) -> None:
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    ThreadingHTTPServer(("127.0.0.1", options.http_port), Handler).serve_forever()


if __name__ == "__main__":
    main()
