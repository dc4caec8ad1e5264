"""HAProxy itself, in front of small servers that say which they are."""

import itertools
import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy import haproxy_router, haproxy_socket
from deploy.haproxy_config import ARM_HEADER
from deploy.haproxy_router import HaproxyRouter, RouterError, Routes, Target
from deploy.haproxy_socket import HaproxyError, HaproxySocket
from deploy.serving import component
from tests.deploy.drawn_shares import fits
from tests.servers.haproxy import make_sure_of_haproxy

pytestmark = pytest.mark.integration


class EchoServer:
    """Answers with its version and the arm it was told; counts feedback."""

    def __init__(self, version: str) -> None:
        self.feedback = 0
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 30
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if "feedback" in self.path:
                    outer.feedback += 1
                outer.asked.set()
                outer.may_answer.wait(30)
                self.answer({"version": version, "arm": self.headers.get(ARM_HEADER)})

            def answer(self, content: object) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.target = Target(version, int(self._server.server_address[1]))

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="metadrift-test-") as folder:
        yield Path(folder)


@pytest.fixture
def servers() -> Iterator[list[EchoServer]]:
    """Three of them."""
    made = [EchoServer(version) for version in ("1-a", "2-b", "3-c")]
    yield made
    for each in made:
        each.close()


@pytest.fixture
def router(tmp_path: Path, short_folder: Path) -> Iterator[HaproxyRouter]:
    """A started one."""
    made = HaproxyRouter(
        scratch=short_folder,
        log=tmp_path / "haproxy.log",
        port=0,
        answer_s=30.0,
        binary=make_sure_of_haproxy(),
    )
    try:
        made.start()
        yield made
    finally:
        made.stop()


def ask(router: HaproxyRouter, path: str, content: object) -> httpx.Response:
    return client().post(router.url + path, json=content, headers={ARM_HEADER: "a lie"})


@cache
def client() -> httpx.Client:
    """One for the module: making one takes longer than a thousand requests."""
    return httpx.Client(timeout=60, trust_env=False)


@pytest.fixture(autouse=True, scope="module")
def _client() -> Iterator[None]:
    yield
    client().close()
    client.cache_clear()


def post(router: HaproxyRouter, path: str = "/predict", **content: object) -> Any:
    return ask(router, path, content).raise_for_status().json()


def share(router: HaproxyRouter, requests: int) -> Counter[tuple[str, str]]:
    answers = [post(router) for _ in range(requests)]
    return Counter((a["version"], a["arm"]) for a in answers)


def test_the_model_server_reads_the_header_that_the_router_writes() -> None:
    assert component.ARM_HEADER == ARM_HEADER


def test_nothing_is_routed_before_it_is_told(router: HaproxyRouter) -> None:
    assert router.routes() is None
    assert ask(router, "/predict", {}).status_code == 503


def test_a_request_in_hand_is_answered_before_the_router_ends(
    router: HaproxyRouter, servers: list[EchoServer]
) -> None:
    slow = servers[0]
    router.route(slow.target, None, 0)
    slow.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, router)
        assert slow.asked.wait(30)
        threading.Timer(1.0, slow.may_answer.set).start()
        router.stop()
        assert answer.result(60) == {"version": "1-a", "arm": "stable"}
    assert not router.alive


def test_the_arm_is_drawn_by_weight_and_told(
    router: HaproxyRouter, servers: list[EchoServer]
) -> None:
    stable, candidate, _ = (each.target for each in servers)
    for weight in (5, 25, 50, 100, 0):
        router.route(stable, candidate, weight)
        assert router.routes() == Routes(stable.port, candidate.port, weight)
        seen = share(router, 400)
        assert fits(seen["2-b", "candidate"], 400, weight), seen
        assert seen["1-a", "stable"] == 400 - seen["2-b", "candidate"]
    router.route(stable, None, 0)
    assert router.routes() == Routes(stable.port, None, 0)
    assert share(router, 20) == {("1-a", "stable"): 20}


def test_a_promotion_swaps_the_arms_and_a_new_candidate_takes_its_place(
    router: HaproxyRouter, servers: list[EchoServer]
) -> None:
    first, second, third = (each.target for each in servers)
    router.route(first, second, 50)
    router.route(second, first, 0)
    assert share(router, 20) == {("2-b", "stable"): 20}
    router.route(second, third, 10)
    seen = share(router, 300)
    assert set(seen) == {("2-b", "stable"), ("3-c", "candidate")}
    assert fits(seen["3-c", "candidate"], 300, 10), seen


def test_a_connection_that_is_kept_goes_where_the_arm_goes(
    router: HaproxyRouter, servers: list[EchoServer]
) -> None:
    """The client keeps its connection, and so would HAProxy: to the address that was stable's."""
    router.route(servers[0].target, servers[1].target, 0)
    with httpx.Client(timeout=60, trust_env=False) as kept:
        for stable, candidate, name in ((0, 1, "1-a"), (1, 0, "2-b"), (1, 2, "2-b")):
            router.route(servers[stable].target, servers[candidate].target, 0)
            for _ in range(3):
                answer = kept.post(f"{router.url}/predict", json={}).raise_for_status().json()
                assert answer == {"version": name, "arm": "stable"}


def test_two_routers_do_not_share_a_port(router: HaproxyRouter, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="metadrift-test-") as folder:
        second = HaproxyRouter(
            scratch=Path(folder),
            log=tmp_path / "second.log",
            port=router.port,
            answer_s=30.0,
            binary=make_sure_of_haproxy(),
        )
        try:
            with pytest.raises(RouterError, match=r"Address already in use"):
                second.start()
        finally:
            second.stop()


@pytest.mark.parametrize("before", [900, 1200])
def test_a_share_holds_from_its_first_request_on(
    router: HaproxyRouter, servers: list[EchoServer], before: int
) -> None:
    """At these places of its cycle the round robin gave a new candidate 200 requests in a row."""
    stable, candidate, _ = (each.target for each in servers)
    router.route(stable, None, 0)
    share(router, before)
    for weight in (50, 5, 25):
        router.route(stable, candidate, weight)
        seen = share(router, 200)
        assert fits(seen["2-b", "candidate"], 200, weight), (weight, seen)


def test_one_request_says_nothing_of_the_next(
    router: HaproxyRouter, servers: list[EchoServer]
) -> None:
    """A router that takes turns changes arms nearly every time."""
    router.route(servers[0].target, servers[1].target, 50)
    drawn = [post(router)["arm"] for _ in range(400)]
    changes = sum(a != b for a, b in itertools.pairwise(drawn))
    assert fits(changes, 399, 50), changes


def test_a_candidate_that_dies_costs_no_request(
    router: HaproxyRouter, servers: list[EchoServer]
) -> None:
    router.route(servers[0].target, servers[1].target, 50)
    assert share(router, 40)["2-b", "candidate"] > 0
    servers[1].close()
    assert share(router, 100) == {("1-a", "stable"): 100}  # one that failed would raise
    router.route(servers[0].target, servers[2].target, 50)
    seen = share(router, 200)
    assert fits(seen["3-c", "candidate"], 200, 50), seen


def test_feedback_goes_to_the_version_that_answered(
    router: HaproxyRouter, servers: list[EchoServer]
) -> None:
    first, second, _ = (each.target for each in servers)
    router.route(first, second, 5)
    path = "/api/v1.0/feedback"
    for version in ("2-b", "2-b", "1-a"):
        post(router, path, response={"meta": {"tags": {"model_version": version}}}, reward=0)
    assert [each.feedback for each in servers] == [1, 2, 0]
    router.route(second, first, 0)  # the versions change arms; feedback follows them
    for version in ("2-b", "1-a", "1-a"):
        post(router, path, response={"meta": {"tags": {"model_version": version}}}, reward=0)
    assert [each.feedback for each in servers] == [3, 3, 0]


def test_other_paths_do_not_reach_a_server(
    router: HaproxyRouter, servers: list[EchoServer]
) -> None:
    router.route(servers[0].target, None, 0)
    assert ask(router, "/transform-input", {}).status_code == 404


def test_it_listens_on_loopback_alone(router: HaproxyRouter) -> None:
    group = psutil.Process(router.pid)
    sockets = [
        connection
        for process in [group, *group.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert [(s.laddr.ip, s.laddr.port) for s in sockets] == [("127.0.0.1", router.port)]


def test_a_restart_keeps_the_port_and_forgets_the_routes(
    router: HaproxyRouter, servers: list[EchoServer]
) -> None:
    router.route(servers[0].target, None, 0)
    url = router.url
    router.stop()
    assert not router.alive
    assert router.routes() is None
    router.start()
    assert (router.url, router.routes()) == (url, None)
    router.route(servers[0].target, None, 0)
    assert share(router, 3) == {("1-a", "stable"): 3}


def test_one_that_has_hung_is_killed_and_begins_anew(
    router: HaproxyRouter, servers: list[EchoServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    router.route(servers[0].target, None, 0)
    monkeypatch.setattr(haproxy_socket, "CALL_S", 0.2)
    first = router.pid
    assert first is not None
    os.killpg(first, signal.SIGSTOP)
    for _ in range(2):  # a slow answer or two are no reason
        with pytest.raises(HaproxyError, match="timed out"):
            router.routes()
    assert router.pid == first
    monkeypatch.setattr(haproxy_router, "SILENT_S", 0.0)
    with pytest.raises(HaproxyError, match="said nothing for 0 s and was killed"):
        router.routes()
    monkeypatch.undo()
    assert not router.alive and router.routes() is None
    router.start()
    router.route(servers[0].target, None, 0)
    assert router.pid != first
    assert share(router, 3) == {("1-a", "stable"): 3}


def test_a_slow_answer_ends_the_silence(
    router: HaproxyRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy_socket, "CALL_S", 0.2)
    monkeypatch.setattr(haproxy_router, "SILENT_S", 0.5)
    assert router.pid is not None
    for _ in range(2):
        os.killpg(router.pid, signal.SIGSTOP)
        with pytest.raises(HaproxyError, match="timed out"):
            router.routes()
        os.killpg(router.pid, signal.SIGCONT)
        monkeypatch.setattr(haproxy_socket, "CALL_S", 10.0)
        assert router.routes() is None  # nothing is routed, and it answers
        monkeypatch.setattr(haproxy_socket, "CALL_S", 0.2)
        time.sleep(0.5)
    assert router.alive


def test_a_port_that_is_taken_is_named(
    tmp_path: Path, short_folder: Path, servers: list[EchoServer]
) -> None:
    taken = HaproxyRouter(
        scratch=short_folder,
        log=tmp_path / "haproxy.log",
        port=servers[0].target.port,
        answer_s=30.0,
        binary=make_sure_of_haproxy(),
    )
    with pytest.raises(RouterError, match=rf"did not start on .*:{taken.port}(.|\n)*cannot bind"):
        taken.start()
    assert not taken.alive


def test_the_socket_tells_what_was_refused(router: HaproxyRouter, short_folder: Path) -> None:
    socket = HaproxySocket(short_folder / "haproxy.sock")
    with pytest.raises(HaproxyError, match="set weight predictions/third 3: No such server"):
        socket.change(["set weight predictions/stable 100", "set weight predictions/third 3"])
    with pytest.raises(HaproxyError, match=r"nowhere\.sock"):
        HaproxySocket(short_folder / "nowhere.sock").servers()
