"""The local backend end to end: real Seldon model servers behind a real HAProxy."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import pytest

from deploy.controller import Convergence, PermanentBackendError, reconcile
from deploy.rollout_plan import Traffic
from deploy.seldon_local import LocalBackend, LocalServing
from deploy.seldon_process import ModelFolder
from tests.deploy.drawn_shares import fits
from tests.deploy.served_models import (
    OTHER_ROW,
    ROW,
    make_model,
    probabilities,
    raw_rows,
    request,
    save,
)
from tests.deploy.test_server_process import members, wait_for
from tests.servers.haproxy import make_sure_of_haproxy
from tests.servers.serving import serving_python_for_tests

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ANSWERED = b'{"response": {"meta": {"tags": {"model_version": "1-a"}}}}'
DEEP = b'{"jsonData": ' + b"[" * 9000
PATIENCE_S = 240.0
CLIENT_S = 120.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFolder]:
    """Two versions of a classifier, a regression, and one whose weights were changed."""
    root = tmp_path_factory.mktemp("models")
    made = {
        "1-a": save(root / "1-a", make_model(1)),
        "2-b": save(root / "2-b", make_model(2)),
        "3-regression": save(root / "3", make_model(3, regression=True)),
        "4-damaged": save(root / "4", make_model(4)),
    }
    weights = made["4-damaged"].folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    return made


@pytest.fixture(scope="module")
def backend(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, ModelFolder]
) -> Iterator[LocalBackend]:
    """One backend for the module: each test states the traffic it begins with."""
    made = local_backend(tmp_path_factory.mktemp("serving"), folders)
    try:
        assert made.observed() is None
        yield made
    finally:
        made.close()


def local_backend(logs: Path, folders: dict[str, ModelFolder]) -> LocalBackend:
    make_sure_of_haproxy()
    serving = LocalServing(
        python=serving_python_for_tests(), logs=logs, start_s=PATIENCE_S, answer_s=60.0
    )
    return LocalBackend(serving, folders.__getitem__)


def converge(
    backend: LocalBackend,
    traffic: Traffic,
    until: Callable[[Convergence], bool] = lambda seen: seen.live,
) -> Convergence:
    """Reconcile, as the shell does, until something is seen."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        seen = reconcile(traffic, backend)
        if until(seen):
            return seen
        assert time.monotonic() < deadline_s, seen
        time.sleep(0.1)


@cache
def client() -> httpx.Client:
    """One for the module: making one takes longer than many requests."""
    return httpx.Client(timeout=CLIENT_S, trust_env=False, headers={"Connection": "close"})


@pytest.fixture(autouse=True, scope="module")
def _client() -> Iterator[None]:
    yield
    client().close()
    client.cache_clear()


def post(backend: LocalBackend, content: object, path: str = "/api/v1.0/predictions") -> Any:
    answer = client().post(backend.router.url + path, json=content)
    assert answer.status_code == 200, answer.text
    return answer.json()


def who_answers(backend: LocalBackend, requests: int) -> Counter[tuple[str, str]]:
    tags = [post(backend, request(ROW))["meta"]["tags"] for _ in range(requests)]
    return Counter((t["model_version"], t["arm"]) for t in tags)


def metric(backend: LocalBackend, version: str, name: str) -> float:
    port = backend.processes()[version].metrics_port
    page = client().get(f"http://127.0.0.1:{port}/metrics").text
    (line,) = [x for x in page.splitlines() if x.startswith(f"metadrift_serving_{name}{{")]
    assert f'model_version="{version}"' in line
    return float(line.rpartition(" ")[2])


def test_a_version_answers_over_http_as_it_does_in_this_process(
    backend: LocalBackend, folders: dict[str, ModelFolder]
) -> None:
    converge(backend, Traffic("1-a"))
    answer = post(backend, request(ROW, OTHER_ROW))
    assert answer["data"]["names"] == ["no", "yes"]
    wanted = probabilities(folders["1-a"], ROW, OTHER_ROW)
    assert answer["data"]["ndarray"] == [pytest.approx(row, abs=1e-6) for row in wanted]
    tags = {"model_version": "1-a", "model_digest": folders["1-a"].digest, "arm": "stable"}
    assert answer["meta"]["tags"] == tags


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "words"),
    [
        ("POST", "/predict", b'{"data": {"names": ["age"], "ndarray": [[1, 2]]}}', 400, "row 0"),
        ("POST", "/predict", b'{"jsonData": {"age": "x"}}', 400, "feature 'age' is 'x'"),
        ("POST", "/predict", b'{"data": {"tensor": {"shape": [0]}}}', 400, "data.names"),
        ("POST", "/predict", b"[[[", 400, "JSON"),
        ("POST", "/predict", DEEP, 400, "nests too deeply"),
        ("POST", "/api/v1.0/feedback", b'{"reward": 1}', 400, "response.meta.tags"),
        ("POST", "/api/v1.0/feedback", b'{"reward": "much"}', 400, "reward"),
        ("POST", "/api/v1.0/feedback", ANSWERED, 400, "reward is missing"),
        ("DELETE", "/predict", b"", 405, "not allowed"),
    ],
    ids=lambda value: "deep" if value is DEEP else None,
)
def test_bad_requests_come_back_with_the_reason(
    backend: LocalBackend, method: str, path: str, content: bytes, status: int, words: str
) -> None:
    converge(backend, Traffic("1-a"))
    kind = {"Content-Type": "application/json"}
    answer = client().request(method, backend.router.url + path, content=content, headers=kind)
    assert (answer.status_code, words in answer.json()["status"]["info"]) == (status, True), (
        answer.text
    )


def test_everything_listens_on_loopback_alone(backend: LocalBackend) -> None:
    converge(backend, Traffic("1-a"))
    server, router = backend.processes()["1-a"], backend.router.pid
    assert router is not None
    listening = set()
    for pid in [*members(server.pid), *members(router)]:
        for connection in psutil.Process(pid).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                listening.add((connection.laddr.ip, connection.laddr.port))
    wanted = (server.port, server.metrics_port, backend.router.port)
    assert listening == {("127.0.0.1", port) for port in wanted}


def test_a_canary_takes_its_steps_is_promoted_and_leaves(backend: LocalBackend) -> None:
    converge(backend, Traffic("1-a"))
    for weight in (5, 25, 50):
        converge(backend, Traffic("1-a", "2-b", weight))
        seen = who_answers(backend, 100)
        assert fits(seen["2-b", "candidate"], 100, weight), (weight, seen)
        assert seen["1-a", "stable"] == 100 - seen["2-b", "candidate"]
    before = {v: p.pid for v, p in backend.processes().items()}
    converge(backend, Traffic("2-b", "1-a", shadow=True))  # promoted, on probation
    assert who_answers(backend, 20) == {("2-b", "stable"): 20}
    assert {v: p.pid for v, p in backend.processes().items()} == before
    converge(backend, Traffic("1-a"))  # regret: rolled back, the canary is gone
    assert who_answers(backend, 20) == {("1-a", "stable"): 20}
    assert set(backend.processes()) == {"1-a"}

    def gone() -> bool:
        reconcile(Traffic("1-a"), backend)  # each look clears away what has ended
        return not members(before["2-b"])

    wait_for(gone)
    assert not reconcile(Traffic("1-a"), backend).applied  # and nothing more is to be done


def test_feedback_is_counted_by_the_version_that_answered(backend: LocalBackend) -> None:
    converge(backend, Traffic("1-a", "2-b", 50))
    counted = {v: metric(backend, v, "feedback_total") for v in ("1-a", "2-b")}
    answers = [post(backend, request(ROW)) for _ in range(40)]
    for answer in answers:
        content = {"request": request(ROW), "response": answer, "reward": 0}
        post(backend, content, "/api/v1.0/feedback")
    by_version = Counter(a["meta"]["tags"]["model_version"] for a in answers)
    assert set(by_version) == {"1-a", "2-b"}
    for version, count in counted.items():
        assert metric(backend, version, "feedback_total") == count + by_version[version]


class Load:
    """Four clients that ask without a pause until they are told to end."""

    def __init__(self, url: str) -> None:
        self.asked = 0
        self.wrong: list[str] = []
        self._arms: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for _ in range(4)]

    def _ask(self, url: str) -> None:
        with httpx.Client(timeout=CLIENT_S, trust_env=False) as client:
            while not self._end.is_set():
                with self._lock:
                    self.asked += 1
                try:
                    answer = client.post(f"{url}/predict", json=request(ROW))
                    arm = answer.raise_for_status().json()["meta"]["tags"]["arm"]
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    with self._lock:
                        self.wrong.append(repr(error))
                    continue
                with self._lock:
                    self._arms[arm] += 1

    @property
    def arms(self) -> Counter[str]:
        """Answers so far by arm."""
        with self._lock:
            return self._arms.copy()

    def wait_for_answers(self, more: int) -> Counter[str]:
        """Return the answers by arm from now on, once there are some of them."""
        before = self.arms
        wait_for(lambda: self.wrong != [] or self.arms.total() >= before.total() + more)
        return self.arms - before

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def nothing_is_lost(self) -> None:
        """Every request had its answer."""
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.wrong == []
        assert self.arms.total() == self.asked


@pytest.mark.parametrize("weight", [50, 10])
def test_nothing_is_lost_when_the_canary_is_killed_under_load(
    backend: LocalBackend, weight: int
) -> None:
    traffic = Traffic("1-a", "2-b", weight)
    converge(backend, traffic)
    with Load(backend.router.url) as load:
        load.wait_for_answers(100)
        os.killpg(backend.processes()["2-b"].pid, signal.SIGKILL)
        seen = converge(backend, traffic, until=lambda seen: seen.error is not None)
        assert seen.observed == Traffic("1-a", "2-b", 0)  # noticed: stable has everything
        assert backend.failures()["2-b"].count >= 1
        assert load.wait_for_answers(50)["candidate"] <= 4  # what the clients had in hand
        converge(backend, traffic)  # it is back by itself
        arms = load.wait_for_answers(300)
    load.nothing_is_lost()
    assert fits(arms["candidate"], arms.total(), weight), arms  # from the first request on


def test_steps_under_load_lose_nothing_and_hold_their_share(backend: LocalBackend) -> None:
    converge(backend, Traffic("1-a", "2-b", 5))
    with Load(backend.router.url) as load:
        for weight in (25, 50, 5):
            converge(backend, Traffic("1-a", "2-b", weight))
            arms = load.wait_for_answers(150)
            assert fits(arms["candidate"], arms.total(), weight), (weight, arms)
        converge(backend, Traffic("2-b", "1-a", shadow=True))
        converge(backend, Traffic("1-a", "2-b", 50))
        converge(backend, Traffic("1-a"))
    load.nothing_is_lost()


def test_a_stable_server_and_a_router_that_die_come_back(backend: LocalBackend) -> None:
    traffic = Traffic("1-a", "2-b", 25)
    converge(backend, traffic)
    with Load(backend.router.url) as load:
        load.wait_for_answers(50)
        os.killpg(backend.processes()["1-a"].pid, signal.SIGKILL)
        converge(backend, traffic, until=lambda seen: seen.observed is None)
        converge(backend, traffic)
        assert load.wait_for_answers(100)["stable"] > 0
    load.nothing_is_lost()
    converge(backend, Traffic("1-a"))
    url, pid = backend.router.url, backend.router.pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    converge(backend, Traffic("1-a"), until=lambda seen: seen.applied)
    converge(backend, Traffic("1-a"))
    assert backend.router.url == url
    assert who_answers(backend, 5) == {("1-a", "stable"): 5}


def test_a_damaged_candidate_never_serves_and_leaves_stable_alone(backend: LocalBackend) -> None:
    converge(backend, Traffic("1-a"))
    stable = backend.processes()["1-a"].pid
    target = Traffic("1-a", "4-damaged", 25)
    seen = converge(backend, target, until=lambda seen: "failed 2 times" in (seen.error or ""))
    assert seen.observed == Traffic("1-a", "4-damaged", 0)
    assert seen.retry_in_s is not None
    assert "the weights hash to" in backend.failures()["4-damaged"].reason
    assert who_answers(backend, 10) == {("1-a", "stable"): 10}
    converge(backend, Traffic("1-a"))
    assert backend.failures().get("4-damaged") is None
    assert backend.processes()["1-a"].pid == stable


def test_a_regression_answers_values(backend: LocalBackend) -> None:
    converge(backend, Traffic("3-regression"))
    answer = post(backend, request(ROW, OTHER_ROW))
    wanted = make_model(3, regression=True).predict(raw_rows(ROW, OTHER_ROW)).values
    assert answer["data"]["names"] == ["value"]
    assert answer["data"]["ndarray"] == [[pytest.approx(value, rel=1e-5)] for value in wanted]


def test_unknown_and_odd_versions_are_refused(backend: LocalBackend) -> None:
    with pytest.raises(PermanentBackendError, match="'9-z' is not known here"):
        backend.apply(Traffic("9-z"))
    with pytest.raises(PermanentBackendError, match="cannot be served: use letters"):
        backend.apply(Traffic("1; shutdown sessions"))


def test_close_leaves_nothing(backend: LocalBackend) -> None:
    """The last one: nothing answers after it."""
    converge(backend, Traffic("3-regression"))
    groups = [backend.processes()["3-regression"].pid, backend.router.pid]
    backend.close()
    wait_for(lambda: not [pid for group in groups if group for pid in members(group)])
    assert backend.processes() == {}
