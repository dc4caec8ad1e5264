"""Every call to a real MLflow server going wrong in every way, and the caller killed after it."""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

import deploy.mlflow_connection
from deploy.mlflow_registry import MlflowRegistry
from deploy.registry import TransientError
from deploy.rollout import desired_traffic
from tests.deploy.registry_life import Effect, Version, life, tell, tell_until_killed
from tests.servers.faulty_proxy import Fault, FaultyProxy
from tests.servers.mlflow_server import MLflowServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

FULL = os.environ.get("METADRIFT_FAULTS") == "full"
"""``make faults`` runs everything; the suite a sample."""
MOST_ATTEMPTS = 100
TIMEOUT_S = "1"  # a slow answer past it is one more attempt, no failure
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.deploy.registry_life"])


class EachCallOnce:
    """Every call of an effect goes wrong once, one in each attempt."""

    def __init__(self, fault: Fault, kinds: Callable[[int, str, str], bool]) -> None:
        self._fault, self._kinds = fault, kinds
        self._seen: set[tuple[int, int, str, str]] = set()
        self.effect = 0
        self.begin_attempt()

    def begin_attempt(self) -> None:
        self._call, self._happened = 0, False

    def __call__(self, method: str, path: str) -> Fault | None:
        call = (self.effect, self._call, method, path.rpartition("/")[2])
        self._call += 1
        if self._happened or call in self._seen or not self._kinds(self.effect, method, path):
            return None
        self._seen.add(call)
        self._happened = True
        return self._fault


def tell_all(proxy: FaultyProxy, plan: EachCallOnce, model: str, effects: list[Effect]) -> int:
    """Tell every effect until it succeeds, each time with a new client; return the attempts."""
    registered: dict[str, str] = {}
    attempts = 0
    for plan.effect, effect in enumerate(effects):
        done = False
        while not done:
            attempts += 1
            assert attempts < MOST_ATTEMPTS * len(effects), effect
            plan.begin_attempt()
            try:
                tell(MlflowRegistry(proxy.address, model=model), effect, registered)
                done = True
            except TransientError:
                continue
    return attempts


def same_end(server: MLflowServer, model: str, folder: Path) -> None:
    """One run a key, all finished; one version a key; the alias is what is served."""
    effects, stages = life(folder / "again")
    client = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    experiment = client.get_experiment_by_name(f"metadrift/{model}").experiment_id
    runs = client.search_runs([experiment])
    keys = sorted(run.data.tags["metadrift.key"] for run in runs)
    assert keys == ["sorting/episode/1", "sorting/episode/1/maml", "v/1"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    wanted = {e.record.key: e.record.digest for e in effects if isinstance(e, Version)}
    found = client.search_model_versions(f"name='{model}'")
    assert sorted(v.tags["metadrift.key"] for v in found) == sorted(wanted)
    registry = MlflowRegistry(server.uri, model=model)
    for version in found:
        got = registry.fetch_version(str(version.version), folder / str(version.version))
        assert got == wanted[version.tags["metadrift.key"]]
    served = desired_traffic(stages[-1]).stable
    (champion,) = [v for v in found if v.tags["metadrift.key"] == f"v/{served[0]}"]
    assert registry.aliases() == {"champion": str(champion.version)}
    (candidate,) = [v for v in found if v is not champion]
    assert candidate.tags["metadrift.phase"] == stages[-1].phase.value


def everything(effect: int, method: str, path: str) -> bool:
    return True


def registry_writes(effect: int, method: str, path: str) -> bool:
    """Tell whether a call changes versions and aliases, beside notes on them."""
    if method == "GET" or path.endswith(("/search", "/set-tag")):
        return False
    return "/model-versions/" in path or "/alias" in path


FAULTS = [f for f in Fault if f not in (Fault.TIMEOUT, Fault.KILLED)]


@pytest.mark.parametrize("fault", FAULTS if FULL else [Fault.LOST_REPLY], ids=lambda f: f.name)
def test_each_call_going_wrong_leads_to_the_same_end(
    mlflow_server: MLflowServer, tmp_path: Path, fault: Fault
) -> None:
    model, (effects, _) = f"faults-{fault.name.lower()}", life(tmp_path)
    plan = EachCallOnce(fault, everything if FULL else registry_writes)
    with FaultyProxy(mlflow_server.port) as proxy:
        proxy.plan = plan
        tell_all(proxy, plan, model, effects)
    same_end(mlflow_server, model, tmp_path)
    print(f"{len(proxy.faults)} calls went wrong")
    assert len(proxy.faults) > 4 * len(effects) if FULL else len(proxy.faults) >= 8
    methods = {"GET", "POST", "PUT", "DELETE"} if FULL else {"POST", "DELETE"}
    assert {method for method, _ in proxy.faults} >= methods


def test_each_kind_of_call_timing_out_leads_to_the_same_end(
    mlflow_server: MLflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each method and path: each costs a timeout."""
    settings = deploy.mlflow_connection._SETTINGS
    monkeypatch.setitem(settings, "MLFLOW_HTTP_REQUEST_TIMEOUT", TIMEOUT_S)
    seen: set[tuple[str, str]] = set()

    def first(effect: int, method: str, path: str) -> bool:
        kind = (method, re.sub(r"/artifacts/.*", "", path))
        if not (FULL or registry_writes(effect, method, path)) or kind in seen:
            return False
        seen.add(kind)
        return True

    model, (effects, _) = "faults-timeout", life(tmp_path)
    plan = EachCallOnce(Fault.TIMEOUT, first)
    with FaultyProxy(mlflow_server.port) as proxy:
        proxy.plan = plan
        tell_all(proxy, plan, model, effects)
    same_end(mlflow_server, model, tmp_path)
    print(f"{len(proxy.faults)} calls went wrong")
    assert len(proxy.faults) == len(seen) >= (10 if FULL else 3)


def test_killed_after_each_call_the_next_process_reaches_the_same_end(
    mlflow_server: MLflowServer, tmp_path: Path
) -> None:
    """A process with SIGKILL, and another one that goes on with the effect that was not done."""
    model, (effects, _) = "faults-killed", life(tmp_path)
    plan = EachCallOnce(Fault.KILLED, everything if FULL else registry_writes)
    registered: dict[str, str] = {}
    kills = 0
    with FaultyProxy(mlflow_server.port) as proxy:
        proxy.plan = plan
        plan.effect = 0
        while plan.effect < len(effects):
            plan.begin_attempt()
            ours, theirs = _FORKS.Pipe()
            process = _FORKS.Process(
                target=tell_until_killed,
                args=(theirs, proxy.address, model, effects[plan.effect :], registered),
            )
            process.start()
            theirs.close()
            proxy.killed = process.kill
            try:
                while plan.effect < len(effects) and ours.poll(MOST_ATTEMPTS):
                    registered = ours.recv()
                    plan.effect += 1
            except EOFError:
                kills += 1
            finally:
                ours.close()
                process.join(MOST_ATTEMPTS)
                process.kill()
            assert process.exitcode in (0, -signal.SIGKILL)
            process.close()
    same_end(mlflow_server, model, tmp_path)
    print(f"{len(proxy.faults)} calls went wrong")
    assert kills == len(proxy.faults) >= (4 * len(effects) if FULL else 8)
