"""Questions to Prometheus that are not answered as they should be: each ends in words, in time."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.prometheus_api import PrometheusApi, PrometheusError, check_address
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.scripted_prometheus import ScriptedPrometheus, vector

ONE = ({"__name__": "up", "job": "m"}, "1")


@pytest.fixture
def server() -> Iterator[ScriptedPrometheus]:
    with ScriptedPrometheus() as made:
        yield made


def ask(server: ScriptedPrometheus, token_file: Path | None = None, timeout_s: float = 20) -> str:
    """Return why the question failed."""
    api = PrometheusApi(server.url, token_file, timeout_s)
    try:
        with pytest.raises(PrometheusError) as caught:
            api.query("up")
    finally:
        api.close()
    return str(caught.value)


def test_a_vector_comes_with_its_labels_and_its_warnings(server: ScriptedPrometheus) -> None:
    server.body = vector(ONE, ({"job": "n"}, "2.5e3"), warnings=["a store is away"], infos=["i"])
    api = PrometheusApi(f"{server.url}/")
    answer = api.query('up{job="m"}')
    assert [(dict(s.labels), s.value) for s in answer.samples] == [
        ({"__name__": "up", "job": "m"}, 1.0),
        ({"job": "n"}, 2500.0),
    ]
    assert answer.warnings == "a store is away"
    server.body = vector()
    assert api.query("up").samples == () and api.query("up").warnings == ""
    assert server.asked[0] == ('up{job="m"}', None)
    api.close()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (
            400,
            b'{"status":"error","errorType":"bad_data","error":"parse error at char 3"}',
            "answered 400: parse error at char 3",
        ),
        (200, b'{"status":"error","errorType":"timeout","error":"query timed out"}', "timed out"),
        (503, b"<html>Service Unavailable</html>", "answered 503 and no JSON"),
        (401, b"{}", "answered 401: no success"),
        (500, vector(ONE), "answered 500: no success"),
        (200, b"", "no JSON"),
        (200, vector(ONE)[:-9], "no JSON"),
        (200, b"[" * 100_000, "no JSON"),
        (200, b"[]", "answered 200: no success"),
        (200, b'{"status":"success"}', "no vector"),
        (200, b'{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}', "no vector"),
        (200, b'{"status":"success","data":{"resultType":"vector","result":{}}}', "no vector"),
        (200, vector((ONE[0], "NaN")), "no number"),
        (200, vector(ONE, (ONE[0], "+Inf")), "no number"),
        (200, vector((ONE[0], "many")), "no number"),
        (200, b'{"status":"success","data":{"resultType":"vector","result":[7]}}', "no number"),
        (200, vector(ONE).replace(b'"1"]', b"1]"), "no number"),
        (200, vector(*[ONE] * 60_000), "over 4194304 bytes"),
    ],
)
def test_what_cannot_be_used_is_told(
    server: ScriptedPrometheus, status: int, body: bytes, says: str
) -> None:
    server.status, server.body = status, body
    told = ask(server)
    assert says in told and len(told) <= 300


def test_one_that_is_away_or_slow_costs_its_time_and_no_more(server: ScriptedPrometheus) -> None:
    server.waits_s = 5.0
    began = time.monotonic()
    assert "does not answer: " in ask(server, timeout_s=0.2)
    server.waits_s, server.drips_s = 0.0, 0.1
    server.body = vector(*[ONE] * 20)  # two minutes
    assert "was not done answering after 0.5 s" in ask(server, timeout_s=0.5)
    assert time.monotonic() - began < 30
    (closed,) = free_ports(1)
    api = PrometheusApi(f"http://{LOOPBACK}:{closed}")
    with pytest.raises(PrometheusError, match=r"does not answer: .*refused"):
        api.query("up")
    api.close()


def test_the_token_is_read_for_each_question_and_goes_nowhere_else(
    server: ScriptedPrometheus, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    api = PrometheusApi(server.url, token)
    with pytest.raises(PrometheusError, match="No such file"):
        api.query("up")
    for text in ("first\n", "second"):
        token.write_text(text)
        api.query("up")
    assert [sent for _, sent in server.asked] == ["Bearer first", "Bearer second"]
    token.write_text("one\ntwo")
    with pytest.raises(PrometheusError, match="holds no token"):
        api.query("up")
    token.write_text("third")
    with ScriptedPrometheus() as other:
        server.status, server.location = 302, f"{other.url}/api/v1/query?query=up"
        with pytest.raises(PrometheusError, match="answered 302"):
            api.query("up")
        assert not other.asked
    api.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("prometheus:9090", "write http:// or https://"),
        ("ftp://prometheus", "write http:// or https://"),
        ("http://", "write http:// or https://"),
        ("http://p:9090/?x=1", "write http:// or https://"),
        ("http://me:secret@p:9090", "use prometheus_token_file"),
        ("http://p:9090", "in the clear"),
    ],
)
def test_an_address_that_may_not_be_asked_is_refused(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        check_address(url, Path("token"))
    assert "secret" not in str(caught.value)
    check_address("https://p", Path("token"))
    check_address("http://p:9090/prefix", None)
