"""The registry against a real MLflow server: away, hung, losing replies, stopped for a while."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from mlflow import MlflowClient

from deploy.mlflow_registry import MlflowRegistry
from deploy.registry import ReviewRequest, TransientError
from deploy.registry_records import TrainingRecord
from tests.deploy.episodes import episode, model_folder, version_record
from tests.servers.lossy_proxy import LossyProxy
from tests.servers.mlflow_server import MLflowServer
from tests.servers.ports import LOOPBACK, free_ports

pytestmark = pytest.mark.integration

T = TypeVar("T")
LONGEST_CALL_S = 5.0
GIVE_UP_S = 60.0


def told(call: Callable[[], T]) -> T:
    """Repeat a call as the outbox does: a busy server may need more than one."""
    deadline = time.monotonic() + GIVE_UP_S
    while True:
        try:
            return call()
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def client_of(server: MLflowServer) -> MlflowClient:
    return MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)


def test_a_training_run_keeps_its_files(mlflow_server: MLflowServer, tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text("maml .9", encoding="utf-8")
    registry = MlflowRegistry(mlflow_server.uri, model="sorting")
    record = TrainingRecord("sorting/meta-evaluate/1", "meta-evaluation", 1_000, {"seed": 3})
    run_id = told(lambda: registry.record_training(record, [tmp_path / "table.txt"]))
    assert told(lambda: registry.record_training(record, [tmp_path / "gone.txt"])) == run_id
    (tmp_path / "back").mkdir()
    client = client_of(mlflow_server)
    assert [file.path for file in client.list_artifacts(run_id)] == ["table.txt"]
    kept = client.download_artifacts(run_id, "table.txt", str(tmp_path / "back"))
    assert Path(kept).read_text(encoding="utf-8") == "maml .9"


def test_a_server_that_is_down_is_reported_at_once() -> None:
    (port,) = free_ports(1)
    registry = MlflowRegistry(f"http://{LOOPBACK}:{port}", model="sorting")
    started = time.monotonic()
    with pytest.raises(TransientError, match="could not record an episode") as caught:
        registry.record_episode(episode())
    assert time.monotonic() - started < LONGEST_CALL_S
    assert caught.value.retry_in_s > 0


def test_a_server_that_never_answers_is_reported_in_time() -> None:
    with socket.socket() as deaf:
        deaf.bind((LOOPBACK, 0))
        deaf.listen()
        registry = MlflowRegistry(f"http://{LOOPBACK}:{deaf.getsockname()[1]}", model="sorting")
        started = time.monotonic()
        with pytest.raises(TransientError, match=r"timeout|timed out"):
            registry.aliases()
        assert time.monotonic() - started < LONGEST_CALL_S


def test_a_redirect_is_not_followed(mlflow_server: MLflowServer) -> None:
    """A redirect could lead the client, with its credentials, to any address."""
    with socket.create_server((LOOPBACK, 0)) as other:
        other.settimeout(0.2)
        target = f"http://{LOOPBACK}:{other.getsockname()[1]}/"
        with LossyProxy(mlflow_server.port) as proxy:
            proxy.redirect_to(target)
            registry = MlflowRegistry(proxy.uri, model="redirected")
            with pytest.raises(TransientError):
                registry.aliases()
        with pytest.raises(TimeoutError):
            other.accept()


def test_a_lost_reply_leaves_one_run(mlflow_server: MLflowServer) -> None:
    record, model = episode(), "lost-run"
    with LossyProxy(mlflow_server.port) as proxy:
        registry = MlflowRegistry(proxy.uri, model=model)
        told(registry.aliases)
        proxy.lose_reply_of("/runs/create")
        run_id = told(lambda: registry.record_episode(record))
        assert proxy.lost
    client = client_of(mlflow_server)
    experiment = client.get_experiment_by_name(f"metadrift/{model}").experiment_id
    runs = client.search_runs([experiment])
    assert len(runs) == 1 + len(record.recipes)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert run_id in {run.info.run_id for run in runs}


def test_a_lost_reply_leaves_one_version(mlflow_server: MLflowServer, tmp_path: Path) -> None:
    folder, digest = model_folder(tmp_path / "made")
    record, model = version_record("v/1", digest), "lost-version"
    with LossyProxy(mlflow_server.port) as proxy:
        registry = MlflowRegistry(proxy.uri, model=model)
        proxy.lose_reply_of("/model-versions/create")
        version = told(lambda: registry.register_version(folder, record))
        assert proxy.lost
    kept = client_of(mlflow_server).search_model_versions(f"name='{model}'")
    assert [str(each.version) for each in kept] == [version]
    assert registry_of(mlflow_server, model).fetch_version(version, tmp_path / "got") == digest


def test_a_creation_that_arrives_late_leaves_one_version(
    mlflow_server: MLflowServer, tmp_path: Path
) -> None:
    folder, digest = model_folder(tmp_path / "made")
    record, model = version_record("v/1", digest), "late-version"
    client = client_of(mlflow_server)
    with LossyProxy(mlflow_server.port) as proxy:
        registry = MlflowRegistry(proxy.uri, model=model)
        proxy.hold_request_of("/model-versions/create")
        version = told(lambda: registry.register_version(folder, record))
        proxy.deliver()
        assert len(client.search_model_versions(f"name='{model}'")) == 2
        assert told(lambda: registry.register_version(folder, record)) == version
    kept = client.search_model_versions(f"name='{model}'")
    assert [str(each.version) for each in kept] == [version]


def registry_of(server: MLflowServer, model: str) -> MlflowRegistry:
    return MlflowRegistry(server.uri, model=model)


def test_a_person_approves_and_moves_an_alias_on_the_server(
    mlflow_server: MLflowServer, tmp_path: Path
) -> None:
    model, record = "reviewed", episode()
    registry, person = registry_of(mlflow_server, model), client_of(mlflow_server)
    folder, digest = model_folder(tmp_path / "made")
    told(lambda: registry.record_episode(record))
    candidate = version_record("v/1", digest, episode_record=record)
    version = told(lambda: registry.register_version(folder, candidate))
    assert candidate.packet_digest is not None
    shown = person.get_model_version(model, version).tags["metadrift.packet"][:8]
    person.set_model_version_tag(model, version, "metadrift.review", f"approve {shown} ann")
    request = ReviewRequest(version, candidate.packet_digest)
    (answer,) = told(lambda: registry.poll_reviews([request]))
    assert (answer.verdict, answer.by) == ("approve", "ann")
    told(lambda: registry.answer_review(answer, "approved"))
    assert told(lambda: registry.poll_reviews([request])) == ()
    person.set_registered_model_alias(model, "champion", version)
    assert told(registry.aliases) == {"champion": version}


def test_a_server_that_was_stopped_is_caught_up_with(tmp_path: Path) -> None:
    server = MLflowServer(tmp_path / "server")
    try:
        server.start()
        registry = registry_of(server, "sorting")
        first, second = episode("e/1"), episode("e/2")
        told(lambda: registry.record_episode(first))
        server.stop()
        with pytest.raises(TransientError):
            registry.record_episode(second)
        server.start()
        told(lambda: registry.record_episode(second))
        told(lambda: registry.record_episode(first))
        client = client_of(server)
        experiment = client.get_experiment_by_name("metadrift/sorting").experiment_id
        keys = [run.data.tags["metadrift.key"] for run in client.search_runs([experiment])]
        expected = [each.key for each in (first, second)]
        expected += [each.recipe_key(r.name) for each in (first, second) for r in each.recipes]
        assert sorted(keys) == sorted(expected)
    finally:
        server.stop()
