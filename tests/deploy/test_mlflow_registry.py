"""The registry on MLflow's own SQLite store, read back through a client of MLflow."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from adapters.feature_schema import Feature, FeatureSchema, Preprocessor
from adapters.model_file import Architecture, Model, load_model, save_model
from adapters.modules import initialise
from deploy.mlflow_registry import MlflowRegistry
from deploy.registry import DamagedFolderError, ReviewRequest, UnknownVersionError
from deploy.registry_records import EpisodeRecord, RolloutRecord, TrainingRecord
from deploy.review_packet import packet_digest, packet_html
from tests.deploy.episodes import AT_MS, episode, model_folder, version_record

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for the module (making its tables takes two seconds)."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def client(address: str) -> MlflowClient:
    """A person's own client of the same store."""
    return MlflowClient(tracking_uri=address, registry_uri=address)


@pytest.fixture
def registry(address: str, request: pytest.FixtureRequest) -> MlflowRegistry:
    """A registry under a model name of the test's own."""
    return MlflowRegistry(address, model=name_of(request))


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    return name_of(request)


def name_of(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def test_an_episode_is_a_run_with_its_numbers_and_a_nested_run_per_recipe(
    registry: MlflowRegistry, client: MlflowClient, model: str
) -> None:
    told = episode()
    run_id = registry.record_episode(told)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["gate.p_value"] == 0.0005
    assert run.data.metrics["winner.query_loss"] == 0.05
    assert run.data.metrics["frozen.holdout_loss"] == 0.4
    assert run.data.params["outcome"] == "candidate"
    assert run.data.params["offsets.events.0"] == "1010..1249"
    assert run.data.params["holdout.digest"] == "sha256:cc"
    assert run.data.params["seed.bake_off"] == "7"
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    by_name = {each.info.run_name: each for each in nested}
    assert set(by_name) == {"frozen", "maml", "scratch"}
    maml = by_name["maml"]
    assert maml.data.metrics["accuracy"] == 0.925
    curve = client.get_metric_history(maml.info.run_id, "query_loss_by_step")
    assert [(point.step, point.value) for point in curve] == [(0, 0.5), (1, 0.2), (5, 0.05)]
    assert by_name["scratch"].data.tags["metadrift.message"] == "loss became nan <at> 3"
    assert "query_loss" not in by_name["scratch"].data.metrics


def test_an_episode_carries_its_packet_and_its_whole_record(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path
) -> None:
    told = episode()
    run_id = registry.record_episode(told)
    folder = Path(client.download_artifacts(run_id, "review", str(tmp_path)))
    assert (folder / "packet.html").read_text() == packet_html(told)
    assert (folder / "packet.png").read_bytes().startswith(b"\x89PNG")
    kept = msgspec.json.decode((folder / "episode.json").read_bytes(), type=EpisodeRecord)
    assert kept == told
    tag = client.get_run(run_id).data.tags["metadrift.packet"]
    assert tag == packet_digest(packet_html(told))


def test_telling_an_episode_twice_or_after_half_of_it_leaves_one(
    registry: MlflowRegistry, client: MlflowClient, model: str
) -> None:
    told = episode()
    run_id = registry.record_episode(told)
    experiment = client.get_run(run_id).info.experiment_id
    client.update_run(run_id, status="RUNNING")  # as if the process had died before the end
    assert registry.record_episode(told) == run_id
    assert len(client.search_runs([experiment])) == 1 + len(told.recipes)
    assert len(client.get_metric_history(run_id, "gate.p_value")) == 1


def test_a_duplicate_run_is_deleted_and_the_finished_one_kept(
    registry: MlflowRegistry, client: MlflowClient
) -> None:
    told = TrainingRecord("training/1", "meta-train", AT_MS, {"seed": 3}, {"accuracy": 0.9})
    run_id = registry.record_training(told)
    experiment = client.get_run(run_id).info.experiment_id
    client.create_run(experiment, tags={"metadrift.key": "training/1"})
    assert registry.record_training(told) == run_id
    assert [run.info.run_id for run in client.search_runs([experiment])] == [run_id]


def test_a_version_leads_back_to_its_recipe_and_comes_back_unchanged(
    registry: MlflowRegistry, client: MlflowClient, model: str, tmp_path: Path
) -> None:
    told = episode()
    run_id = registry.record_episode(told)
    folder, digest = model_folder(tmp_path / "made")
    record = version_record("sorting/candidate/1", digest, episode_record=told)
    version = registry.register_version(folder, record)
    assert registry.register_version(folder, record) == version
    (kept,) = client.search_model_versions(f"name='{model}'")
    assert str(kept.version) == version
    assert client.get_run(kept.run_id).data.tags["mlflow.parentRunId"] == run_id
    assert kept.tags["metadrift.digest"] == digest
    assert f"approve|reject {record.packet_digest[:8]} " in kept.description
    assert registry.fetch_version(version, tmp_path / "fetched") == digest
    for name in ("manifest.json", "weights.safetensors"):
        assert (tmp_path / "fetched" / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_that_is_not_what_the_record_says_is_refused(
    registry: MlflowRegistry, client: MlflowClient, model: str, tmp_path: Path
) -> None:
    folder, digest = model_folder(tmp_path / "made")
    (folder / "manifest.json").write_bytes(b'{"other": 1}')
    with pytest.raises(DamagedFolderError, match="not sha256:"):
        registry.register_version(folder, version_record("v", digest))
    with pytest.raises(DamagedFolderError, match=r"no manifest\.json"):
        registry.register_version(tmp_path / "nowhere", version_record("v", digest))
    assert not client.search_model_versions(f"name='{model}'")


def test_a_damaged_artifact_is_not_fetched(
    registry: MlflowRegistry, client: MlflowClient, model: str, tmp_path: Path
) -> None:
    folder, digest = model_folder(tmp_path / "made")
    version = registry.register_version(folder, version_record("v", digest))
    found = client.get_model_version(model, version)
    assert client.get_run(found.run_id).info.status == "FINISHED", "nobody else tells of this run"
    (tmp_path / "manifest.json").write_bytes(b'{"evil": 1}')
    path = f"{found.tags['metadrift.artifacts']}/artifacts/model"
    client.log_artifact(found.run_id, str(tmp_path / "manifest.json"), path)
    with pytest.raises(DamagedFolderError):
        registry.fetch_version(version, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_a_version_of_somebody_else_is_not_fetched(
    registry: MlflowRegistry, client: MlflowClient, model: str, tmp_path: Path
) -> None:
    client.create_registered_model(model)
    foreign = client.create_model_version(model, "s3://elsewhere/model")
    with pytest.raises(UnknownVersionError, match="metadrift model import"):
        registry.fetch_version(str(foreign.version), tmp_path / "fetched")
    with pytest.raises(UnknownVersionError, match="no version 99"):
        registry.fetch_version("99", tmp_path / "fetched")


def test_aliases_are_set_moved_by_hand_and_cleared(
    registry: MlflowRegistry, client: MlflowClient, model: str, tmp_path: Path
) -> None:
    assert registry.aliases() == {}
    folder, digest = model_folder(tmp_path / "made")
    first = registry.register_version(folder, version_record("v/1", digest))
    second = registry.register_version(folder, version_record("v/2", digest))
    registry.set_alias("champion", first)
    registry.set_alias("candidate", second)
    registry.set_alias("candidate", second)
    assert registry.aliases() == {"champion": first, "candidate": second}
    client.set_registered_model_alias(model, "champion", second)
    assert registry.aliases()["champion"] == second
    registry.clear_alias("candidate")
    registry.clear_alias("candidate")
    assert registry.aliases() == {"champion": second}
    with pytest.raises(UnknownVersionError, match="no version 99"):
        registry.set_alias("champion", "99")


def test_the_meta_init_has_a_model_and_an_alias_of_its_own(
    registry: MlflowRegistry, client: MlflowClient, model: str, tmp_path: Path
) -> None:
    folder, digest = model_folder(tmp_path / "made")
    training = TrainingRecord("training/1", "meta-train", AT_MS, curves={"loss": ((0, 1.0),)})
    run_id = registry.record_training(training)
    record = replace(version_record("meta-init/1", digest), run_key="training/1")
    version = registry.register_meta_init(folder, record)
    assert registry.register_meta_init(folder, record) == version
    kept = client.get_model_version_by_alias(f"{model}-meta-init", "meta-init")
    assert (str(kept.version), kept.run_id) == (version, run_id)
    names = [each.path for each in client.list_artifacts(run_id, kept.tags["metadrift.artifacts"])]
    assert {Path(name).name for name in names} == {"manifest.json", "weights.safetensors"}
    assert registry.aliases() == {}


def test_a_review_is_read_once_answered_and_a_stale_one_refused(
    registry: MlflowRegistry, client: MlflowClient, model: str, tmp_path: Path
) -> None:
    folder, digest = model_folder(tmp_path / "made")
    version = registry.register_version(folder, version_record("v/1", digest))
    request = ReviewRequest(version, "1a2b3c4d" + "0" * 56)

    def status() -> str:
        return str(client.get_model_version(model, version).tags["metadrift.review_status"])

    def write(tag: str) -> None:
        client.set_model_version_tag(model, version, "metadrift.review", tag)

    assert registry.poll_reviews([request]) == ()
    write("approve 99999999 ann")
    assert registry.poll_reviews([request]) == ()
    assert status() == "refused: the packet is 1a2b3c4d now, read it again [approve 99999999 ann]"
    write("looks good to me")
    assert registry.poll_reviews([request]) == ()
    assert status().startswith("refused: expected approve|reject")
    write("approve 1a2b3c4d ann checked the new plan")
    (answer,) = registry.poll_reviews([request])
    assert (answer.verdict, answer.by, answer.reason) == ("approve", "ann", "checked the new plan")
    assert registry.poll_reviews([request]) == (answer,)  # until it is answered
    registry.answer_review(answer, "approved, canary starts")
    assert status() == "approved, canary starts [approve 1a2b3c4d ann checked the new plan]"
    assert registry.poll_reviews([request]) == ()
    write("reject 1a2b3c4d bob changed our mind")
    (second,) = registry.poll_reviews([request])
    assert (second.verdict, second.by) == ("reject", "bob")


def test_a_rollout_is_written_beside_its_episode_and_on_its_version(
    registry: MlflowRegistry, client: MlflowClient, model: str, tmp_path: Path
) -> None:
    told = episode()
    run_id = registry.record_episode(told)
    folder, digest = model_folder(tmp_path / "made")
    version = registry.register_version(folder, version_record("v/1", digest, episode_record=told))
    rollout = RolloutRecord(
        episode_key=told.key,
        version=version,
        at_ms=AT_MS,
        phase="promoted",
        verdict="pass",
        reason="better in 31 of 40 labels",
        metrics={"labels": 40, "e_better": 25.0},
        weights=((1260, 5.0), (1300, 25.0), (1400, 100.0)),
    )
    registry.record_rollout(rollout)
    registry.record_rollout(rollout)
    run = client.get_run(run_id)
    assert run.data.metrics["rollout.e_better"] == 25.0
    assert len(client.get_metric_history(run_id, "rollout.weight")) == 3
    tags = client.get_model_version(model, version).tags
    assert (tags["metadrift.phase"], tags["metadrift.verdict"]) == ("promoted", "pass")


def test_anybody_can_load_a_version_through_pyfunc(
    registry: MlflowRegistry, address: str, model: str, tmp_path: Path
) -> None:
    schema = FeatureSchema(
        (Feature("age", "number", nullable=True), Feature("image", "tensor", (2,)))
    )
    rows = schema.parse_many([{"age": 3, "image": [0.5, -1]}, {"age": None, "image": [1, 2]}]).rows
    preprocessor = Preprocessor.fit(schema, rows)
    architecture = Architecture(
        "adapters.modules:MLP",
        {"inputs": preprocessor.encode(rows).shape[1], "hidden": [4], "outputs": 2},
    )
    made = Model(
        module=initialise(architecture, 1),
        architecture=architecture,
        schema=schema,
        preprocessor=preprocessor,
        task_type="classification",
        class_names=("left", "right"),
    )
    torch.set_num_threads(1)
    digest = save_model(tmp_path / "made", made)
    version = registry.register_version(tmp_path / "made", version_record("v/1", digest))
    registry.set_alias("champion", version)
    assert registry.fetch_version(version, tmp_path / "fetched") == digest
    expected = load_model(tmp_path / "fetched", digest).predict(rows)
    stranger = f"""
import mlflow, pandas
frame = pandas.DataFrame({{"age": [3, None], "image": [[0.5, -1], [1, 2]]}}, index=[7, 8])
wide = pandas.DataFrame({{"age": [3, None], "image.0": [0.5, 1], "image.1": [-1, 2]}})
model = mlflow.pyfunc.load_model("models:/{model}@champion")
print(model.predict(frame).to_json(orient="split", double_precision=15))
print(model.predict(wide).to_json(orient="split", double_precision=15))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", stranger],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": address,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    by_lists, by_columns = map(msgspec.json.decode, loaded.stdout.splitlines())
    assert by_lists["columns"] == ["prediction", "proba.left", "proba.right"]
    assert by_lists["index"] == [7, 8]
    assert by_lists["data"] == by_columns["data"]
    assert [row[0] for row in by_lists["data"]] == expected.labels
    said = np.array([row[1:] for row in by_lists["data"]], dtype=np.float32)
    assert expected.proba is not None
    np.testing.assert_allclose(said, expected.proba, rtol=1e-6)
