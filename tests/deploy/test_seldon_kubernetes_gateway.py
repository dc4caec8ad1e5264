"""The gateway client over real HTTP: who answered, what was refused, what may work later."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deploy.controller import PermanentBackendError, TransientBackendError
from deploy.seldon_gateway import RefusedEventError, SeldonGateway, predictions_url
from tests.servers.ports import LOOPBACK, free_ports

PATH = "/seldon/models/metadrift-model/api/v1.0/predictions"
Answer = tuple[int, Any]


def answer(version: str = "1-a") -> dict[str, Any]:
    return {
        "data": {"names": ["no", "yes"], "ndarray": [[0.25, 0.75]]},
        "meta": {"tags": {"model_version": version}, "puid": "event-1"},
    }


class ScriptedGateway:
    """Answers each request as ``script`` says and remembers it.

    Attributes:
        script: Status and body by the number of the request; None: no answer at all.
        requests: Path and message of each request.
    """

    def __init__(self) -> None:
        self.script: Callable[[int], Answer | None] = lambda number: (200, answer())
        self.requests: list[tuple[str, Any]] = []
        self.over = threading.Event()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                gateway.requests.append((self.path, json.loads(body)))
                found = gateway.script(len(gateway.requests) - 1)
                if found is None:
                    gateway.over.wait(60)
                    self.close_connection = True
                    return
                status, content = found
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return

        self.server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://{LOOPBACK}:{self.server.server_port}"


@pytest.fixture
def scripted() -> Iterator[ScriptedGateway]:
    made = ScriptedGateway()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        made.server.shutdown()
        made.server.server_close()
        thread.join(10)


@pytest.fixture
def gateway(scripted: ScriptedGateway) -> Iterator[SeldonGateway]:
    with SeldonGateway(
        predictions_url(scripted.address, "models", "metadrift-model"), timeout_s=60.0
    ) as made:
        yield made


def test_each_event_is_a_request_of_its_own_and_the_answer_says_who_gave_it(
    scripted: ScriptedGateway, gateway: SeldonGateway
) -> None:
    scripted.script = lambda number: (200, answer("2-b" if number % 4 == 0 else "1-a"))
    answers = [gateway.predict(f"event-{i}", {"age": i, "plan": "x"}) for i in range(20)]
    assert Counter(a.version for a in answers) == {"2-b": 5, "1-a": 15}
    assert answers[0].values == {"no": 0.25, "yes": 0.75}
    assert all(a.latency_s > 0 for a in answers)
    assert len(scripted.requests) == 20
    assert scripted.requests[3] == (
        PATH,
        {"jsonData": {"age": 3, "plan": "x"}, "meta": {"puid": "event-3"}},
    )


def test_an_event_that_the_server_cannot_use_comes_back_with_its_reason(
    scripted: ScriptedGateway, gateway: SeldonGateway
) -> None:
    scripted.script = lambda number: (400, {"status": {"info": "row 0: age is 'old'"}})
    with pytest.raises(RefusedEventError, match="event-9: row 0: age is 'old'"):
        gateway.predict("event-9", {"age": "old"})


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503, 504])
def test_servers_that_are_not_well_are_transient_and_asked_once(
    scripted: ScriptedGateway, gateway: SeldonGateway, status: int
) -> None:
    scripted.script = lambda number: (status, b"upstream connect error")
    with pytest.raises(TransientBackendError, match=f"{status}: upstream connect error"):
        gateway.predict("event-1", {})
    assert len(scripted.requests) == 1, "a second try is a second draw"


def test_no_answer_in_time_is_transient(scripted: ScriptedGateway) -> None:
    scripted.script = lambda number: None
    with (
        SeldonGateway(predictions_url(scripted.address, "models", "m"), timeout_s=0.2) as gateway,
        pytest.raises(TransientBackendError, match="no answer"),
    ):
        gateway.predict("event-1", {})


def test_no_gateway_is_transient() -> None:
    (port,) = free_ports(1)
    with (
        SeldonGateway(predictions_url(f"http://{LOOPBACK}:{port}", "models", "m")) as gateway,
        pytest.raises(TransientBackendError, match="no answer"),
    ):
        gateway.predict("event-1", {})


BROKEN = {
    "no tag": ({"data": answer()["data"], "meta": {}}, "does not say which version answered"),
    "no data": ({"meta": answer()["meta"]}, "no row of finite values"),
    "two rows": (
        {**answer(), "data": {"names": ["no", "yes"], "ndarray": [[1, 0], [0, 1]]}},
        "no row of finite values",
    ),
    "a name too few": (
        {**answer(), "data": {"names": ["no"], "ndarray": [[1, 0]]}},
        "no row of finite values",
    ),
    "not finite": (
        {**answer(), "data": {"names": ["no", "yes"], "ndarray": [[float("nan"), 1]]}},
        "no row of finite values",
    ),
    "no JSON": (b"<html>", "does not say which version answered"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_answer_of_another_server_is_permanent(
    scripted: ScriptedGateway, gateway: SeldonGateway, case: str
) -> None:
    body, message = BROKEN[case]
    scripted.script = lambda number: (200, body)
    with pytest.raises(PermanentBackendError, match=message):
        gateway.predict("event-1", {})


@pytest.mark.parametrize("status", [302, 401, 403])
def test_a_gateway_that_sends_us_away_is_permanent_and_not_followed(
    scripted: ScriptedGateway, gateway: SeldonGateway, status: int
) -> None:
    scripted.script = lambda number: (status, b"go away")
    with pytest.raises(PermanentBackendError, match=f"answered {status}: go away"):
        gateway.predict("event-1", {})
