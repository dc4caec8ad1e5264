"""Guards in a cluster: a real Prometheus scrapes real model servers, and the keeper asks it."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from deploy.loopback import LOOPBACK
from deploy.prometheus_readings import AWAY_S
from deploy.rollout import CanaryPlan, Phase, Verdict, advance
from deploy.seldon_process import ModelFolder, SeldonOptions, SeldonProcess
from pipeline.kubernetes_serving import reach_prometheus
from tests.deploy.canaries import canary
from tests.deploy.seldon_cluster import SeldonWorld, eventually
from tests.deploy.served_models import OTHER_ROW, ROW, make_model, request, save
from tests.deploy.test_kubernetes_serving import CANARY, STABLE, Watched, keeping, settings
from tests.servers.prometheus_server import PrometheusServer
from tests.servers.scripted_prometheus import ScriptedPrometheus
from tests.servers.serving import serving_python_for_tests

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PLAN = CanaryPlan(most_error_rate=0.1, guard_requests=20)


def overflowing(folder: Path) -> ModelFolder:
    """A model that answers a young customer, and nothing finite for an old one."""
    model = make_model(1)
    layer, head = model.module.layers[0], model.module.head  # type: ignore[union-attr, index]
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.zero_()
        layer.weight[0, 0] = head.weight[0, 0] = 1e38  # type: ignore[index, operator, union-attr]
    return save(folder, model)


class Servers:
    """Model servers by version, on ports that they keep over a restart."""

    def __init__(self, folder: Path) -> None:
        (folder / "scratch").mkdir()
        self._options = SeldonOptions(
            serving_python_for_tests(), folder / "logs", folder / "scratch"
        )
        self._folders = {
            "1-a": save(folder / "1-a", make_model()),
            "2-b": overflowing(folder / "2-b"),
        }
        self.running: dict[str, SeldonProcess] = {}

    def start(self) -> None:
        for version, folder in self._folders.items():
            self.running[version] = SeldonProcess(version, folder, self._options)
        for process in self.running.values():
            eventually(process.ready, f"the server of {process.version}")

    def ask(self, version: str, row: list[object], n: int) -> list[int]:
        """Ask one server as a gateway would; return the statuses."""
        url = f"http://{LOOPBACK}:{self.running[version].port}/api/v1.0/predictions"
        with httpx.Client(timeout=60, trust_env=False) as client:
            return [client.post(url, json=request(row)).status_code for _ in range(n)]

    def close(self) -> None:
        for process in self.running.values():
            process.kill()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


def until_read(watched: Watched, requests: int, errors: int) -> None:
    def read() -> bool:
        reading = watched.look().readings.get("2-b")
        return reading is not None and (reading.requests, reading.errors) == (requests, errors)

    eventually(read, f"{requests} requests and {errors} errors, not {watched.seen}")


def test_a_candidate_that_errs_in_the_cluster_is_rolled_back(
    world: SeldonWorld, servers: Servers, tmp_path: Path
) -> None:
    targets = {p.metrics_port: {"pod": f"pod-of-{v}"} for v, p in servers.running.items()}
    with PrometheusServer(tmp_path / "prometheus", targets) as prometheus:
        chosen = {"prometheus": prometheus.url, "prometheus_labels": {"job": "model-servers"}}
        made = settings(world, tmp_path / "checked", **chosen)
        eventually(lambda: reach_prometheus(made, 20) == (2, ""), "both to be scraped")
        other = settings(
            world, tmp_path / "checked", prometheus=prometheus.url, prometheus_labels={"job": "x"}
        )
        assert reach_prometheus(other, 20) == (0, "")
        with keeping(world, tmp_path / "kept", **chosen) as watched:
            watched.serve(STABLE, world.operator.step)
            assert watched.seen.readings == {}, "one version alone is not judged"
            watched.serve(CANARY, world.operator.step)
            until_read(watched, 0, 0)
            assert servers.ask("2-b", ROW, 30) == [200] * 30
            until_read(watched, 30, 0)
            fine = watched.seen.readings["2-b"]
            assert fine.problem is None and 0 < (fine.latency_ms or 0) < 5000
            rollout = canary(PLAN)
            assert advance(rollout, 1.0, guard=fine) is rollout
            assert servers.ask("2-b", OTHER_ROW, 10) == [503] * 10
            assert servers.ask("1-a", OTHER_ROW, 10) == [200] * 10
            until_read(watched, 40, 10)
            back = advance(rollout, 2.0, guard=watched.seen.readings["2-b"])
            assert back.phase is Phase.ROLLED_BACK and back.verdict is Verdict.FAIL
            assert "10 of 40 requests failed" in back.reason
            assert watched.seen.readings["1-a"].errors == 0
            # The pod's end: it is no longer scraped, and vouches for nothing.
            servers.running["2-b"].kill()
            eventually(
                lambda: "0 of 1 servers of 2-b" in (watched.look().readings["2-b"].problem or ""),
                "the server to be missed",
            )
            assert watched.seen.readings["2-b"].errors == 10, "what it did is not forgotten"


def test_a_prometheus_that_is_silent_holds_up_neither_the_split_nor_an_abort(
    world: SeldonWorld, tmp_path: Path
) -> None:
    with ScriptedPrometheus() as prometheus, contextlib.ExitStack() as ending:
        prometheus.waits_s = 600.0
        ending.callback(setattr, prometheus, "waits_s", 0.0)
        with keeping(world, tmp_path, prometheus=prometheus.url) as watched:
            watched.serve(CANARY, world.operator.step)
            eventually(
                lambda: "does not answer" in (problem_of(watched) or ""), "the problem to be told"
            )
            began = time.monotonic()
            watched.serve(STABLE, world.operator.step)
            took_s = time.monotonic() - began
            assert took_s < 60, "it waited for Prometheus"
            assert watched.seen.readings == {}
            assert len(prometheus.asked) <= 2 + took_s / AWAY_S


def problem_of(watched: Watched) -> str | None:
    reading = watched.look().readings.get("2-b")
    return None if reading is None else reading.problem
