"""The registry on MLflow.

What stands where:

    experiment ``metadrift/<model>``
      run per episode          decision as params and metrics; review/packet.html, packet.png
        nested run per recipe  losses, accuracy, seconds, loss over steps
      run per training         meta-training, imported models; meta-evaluation with its files
    registered model ``<model>``             versions, aliases champion and candidate
    registered model ``<model>-meta-init``   versions, alias meta-init

MLflow's creations take no idempotency key. So everything is searched for by its ``metadrift.key``
tag before it is created, and once more afterwards: of several that a lost reply left behind, one
is adopted and the others are deleted.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from deploy.mlflow_connection import connect
from deploy.mlflow_runs import KEY_TAG, LONGEST_TEXT, MlflowRuns
from deploy.registry import (
    DamagedFolderError,
    ReviewAnswer,
    ReviewRequest,
    UnknownVersionError,
)
from deploy.registry_records import (
    EpisodeRecord,
    ModelVersionRecord,
    RolloutRecord,
    TrainingRecord,
)
from deploy.review_packet import packet_digest, packet_html, packet_png
from deploy.review_tag import Refusal, read_review, reply
from deploy.run_facts import episode_facts, recipe_facts, rollout_facts, training_facts

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

META_INIT: Final = "meta-init"
REVIEW_TAG: Final = "metadrift.review"
REVIEW_STATUS_TAG: Final = "metadrift.review_status"

_DIGEST_TAG, _PACKET_TAG = "metadrift.digest", "metadrift.packet"
_ARTIFACTS_TAG = "metadrift.artifacts"
_MODEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


class MlflowRegistry:
    """``deploy.registry.Registry`` on an MLflow tracking server or a SQLite file.

    Args:
        address: ``sqlite:////folder/mlflow.db``, ``http://host`` or ``https://host``.
        model: Name of the registered model.
        artifacts: Folder for artifacts; with SQLite only (default: ``artifacts`` beside it).

    Raises:
        StoreAddressError: The address is refused.
        ValueError: So is the name.
    """

    def __init__(self, address: str, *, model: str, artifacts: Path | None = None) -> None:
        if not _MODEL_NAME.fullmatch(model):
            raise ValueError(f"model name is {model!r}: expected letters, digits, '.', '_' and '-'")
        self._model = model
        self._mlflow = connect(address, artifacts)
        self._client = self._mlflow.client
        self._runs = MlflowRuns(self._mlflow, f"metadrift/{model}")

    # --- runs

    def record_episode(self, record: EpisodeRecord) -> str:
        """Write an episode with its recipes and review packet; return the id of its run."""
        runs = self._runs
        with self._mlflow.calling("record an episode"):
            run = runs.ensure(record.key, f"{record.signal.kind}: {record.outcome}", record.at_ms)
            run_id = str(run.info.run_id)
            if runs.is_finished(run):
                return run_id
            runs.write(run_id, episode_facts(record), record.at_ms)
            for recipe in record.recipes:
                key = record.recipe_key(recipe.name)
                nested = runs.ensure(key, recipe.name, record.at_ms, parent=run_id).info.run_id
                runs.write(nested, recipe_facts(recipe), record.at_ms)
                runs.tag(nested, {"metadrift.message": recipe.message})
                runs.finish(nested, record.at_ms)
            digest = self._upload_packet(run_id, record)
            runs.tag(run_id, {"mlflow.note.content": record.reason, _PACKET_TAG: digest})
            runs.finish(run_id, record.at_ms)
            return run_id

    def _upload_packet(self, run_id: str, record: EpisodeRecord) -> str:
        html = packet_html(record)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "packet.html").write_bytes(html.encode())
            (folder / "packet.png").write_bytes(packet_png(record))
            (folder / "episode.json").write_bytes(msgspec.json.encode(record))
            self._client.log_artifacts(run_id, scratch, "review")
        return packet_digest(html)

    def record_training(self, record: TrainingRecord, files: Sequence[Path] = ()) -> str:
        """Write a training run with files as its artifacts; return its id."""
        with self._mlflow.calling("record a training"):
            run = self._runs.ensure(record.key, record.name, record.at_ms)
            run_id = str(run.info.run_id)
            if not self._runs.is_finished(run):
                self._runs.write(run_id, training_facts(record), record.at_ms)
                for file in files:
                    self._client.log_artifact(run_id, str(file))
                self._runs.finish(run_id, record.at_ms)
            return run_id

    def record_rollout(self, record: RolloutRecord) -> None:
        """Write how a rollout stands beside its episode and on its version."""
        state = {
            "metadrift.phase": record.phase,
            "metadrift.verdict": record.verdict,
            "metadrift.rollout_reason": record.reason[:LONGEST_TEXT],
        }
        with self._mlflow.calling("record a rollout"):
            on_version = self._version(record.version).tags
            run = self._runs.ensure(record.episode_key, "episode", record.at_ms)
            self._runs.write(run.info.run_id, rollout_facts(record), record.at_ms)
            self._runs.tag(run.info.run_id, state)
            for name, value in state.items():
                if on_version.get(name) != value:
                    self._client.set_model_version_tag(self._model, record.version, name, value)

    # --- versions

    def register_version(self, folder: Path, record: ModelVersionRecord) -> str:
        """Upload a model folder and register it; return the version."""
        with self._mlflow.calling("register"), tempfile.TemporaryDirectory() as scratch:
            made = self._find_version(self._model, record.key)
            if made is None:
                staged = Path(scratch) / "model"  # the name under which fetch_version looks
                _copy_checked(folder, staged, record.digest)
                pyfunc = Path(scratch) / "pyfunc"
                self._mlflow.save_pyfunc(
                    path=str(pyfunc),
                    python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                    artifacts={"model": str(staged)},
                    pip_requirements=_requirements(),
                )
                made = self._create_version(self._model, record, pyfunc, "model")
            return str(made.version)

    def register_meta_init(self, folder: Path, record: ModelVersionRecord) -> str:
        """Upload a meta-init folder, register it and point ``meta-init`` at it."""
        name = f"{self._model}-{META_INIT}"
        with self._mlflow.calling("register"), tempfile.TemporaryDirectory() as scratch:
            made = self._find_version(name, record.key)
            if made is None:
                staged = Path(scratch) / META_INIT
                _copy_checked(folder, staged, record.digest)
                made = self._create_version(name, record, staged, META_INIT)
            self._client.set_registered_model_alias(name, META_INIT, str(made.version))
            return str(made.version)

    def _create_version(
        self, name: str, record: ModelVersionRecord, folder: Path, kind: str
    ) -> "ModelVersion":
        run_id = self._runs.ensure(record.run_key, record.recipe, record.at_ms).info.run_id
        artifacts = f"{kind}-{record.digest.removeprefix('sha256:')[:8]}"
        self._client.log_artifacts(run_id, str(folder), artifacts)
        if record.own_run:
            self._runs.finish(run_id, record.at_ms)
        self._ensure_registered_model(name)
        made = self._client.create_model_version(
            name,
            f"runs:/{run_id}/{artifacts}",
            run_id,
            tags={**_version_tags(record), _ARTIFACTS_TAG: artifacts},
            description=_description(record),
            await_creation_for=0,
        )
        return self._find_version(name, record.key) or made

    def _find_version(self, name: str, key: str) -> "ModelVersion | None":
        found: list[ModelVersion] = list(
            self._client.search_model_versions(f"name='{name}' and tags.`{KEY_TAG}`='{key}'", 50)
        )
        found.sort(key=lambda each: int(each.version))
        for duplicate in found[1:]:
            self._client.delete_model_version(name, str(duplicate.version))
        return found[0] if found else None

    def _ensure_registered_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except self._mlflow.error as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def fetch_version(self, version: str, folder: Path) -> str:
        """Download a version's model folder to ``folder``; return the digest it must have."""
        with self._mlflow.calling("fetch a version"), tempfile.TemporaryDirectory() as scratch:
            found = self._version(version)
            digest, artifacts = found.tags.get(_DIGEST_TAG), found.tags.get(_ARTIFACTS_TAG, "")
            ours = re.fullmatch(r"model-[0-9a-f]{8}", artifacts)
            if digest is None or found.run_id is None or not ours:
                raise UnknownVersionError(
                    f"version {version} of {self._model!r} was not registered by metadrift; "
                    "bring it in with `metadrift model import`"
                )
            # From its run, not from its source: a source may be any address.
            path = f"{artifacts}/artifacts/model"
            got = Path(self._client.download_artifacts(found.run_id, path, scratch))
            _copy_checked(got, folder, digest)
            return digest

    def _version(self, version: str) -> "ModelVersion":
        try:
            with self._mlflow.missing():
                return self._client.get_model_version(self._model, version)
        except LookupError as error:
            raise UnknownVersionError(f"{self._model!r} has no version {version}") from error

    # --- aliases

    def aliases(self) -> dict[str, str]:
        """Return the version that each alias points at now, whoever set it."""
        with self._mlflow.calling("read the aliases"):
            try:
                with self._mlflow.missing():
                    found = self._client.get_registered_model(self._model)
            except LookupError:
                return {}
            return {str(alias): str(target) for alias, target in found.aliases.items()}

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias at a version."""
        with self._mlflow.calling("set an alias"):
            self._version(version)
            self._client.set_registered_model_alias(self._model, alias, version)

    def clear_alias(self, alias: str) -> None:
        """Remove an alias; harmless where there is none."""
        if alias in self.aliases():
            with self._mlflow.calling("clear an alias"):
                self._client.delete_registered_model_alias(self._model, alias)

    # --- reviews

    def poll_reviews(self, requests: Sequence[ReviewRequest]) -> tuple[ReviewAnswer, ...]:
        """Return the answers that wait for ``answer_review``; refuse malformed and stale ones."""
        answers: list[ReviewAnswer] = []
        for request in requests:
            with self._mlflow.calling("read a review"):
                tags = self._version(request.version).tags
                status = tags.get(REVIEW_STATUS_TAG, "")
                read = read_review(request, tags.get(REVIEW_TAG, ""), status=status)
                if isinstance(read, Refusal):
                    self._set_status(request.version, read.status)
                elif read is not None:
                    answers.append(read)
        return tuple(answers)

    def answer_review(self, answer: ReviewAnswer, outcome: str) -> None:
        """Tell the reviewer what became of an answer; it is not returned by a poll again."""
        with self._mlflow.calling("answer a review"):
            self._set_status(answer.version, reply(outcome, answer.tag))

    def _set_status(self, version: str, status: str) -> None:
        self._client.set_model_version_tag(self._model, version, REVIEW_STATUS_TAG, status)


def _copy_checked(source: Path, target: Path, digest: str) -> None:
    """Copy a folder whose manifest has the given digest."""
    manifest = source / "manifest.json"
    if not manifest.is_file():
        raise DamagedFolderError(f"{source} holds no manifest.json; write the model again")
    actual = f"sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}"
    if actual != digest:
        raise DamagedFolderError(f"{manifest} has the digest {actual}, not {digest} as recorded")
    shutil.copytree(source, target, dirs_exist_ok=True)


def _version_tags(record: ModelVersionRecord) -> dict[str, str]:
    tags = {
        **{f"metadrift.{name}": str(value)[:LONGEST_TEXT] for name, value in record.facts.items()},
        KEY_TAG: record.key,
        _DIGEST_TAG: record.digest,
        _PACKET_TAG: record.packet_digest or "",
        "metadrift.recipe": record.recipe,
        "metadrift.parent": record.parent or "",
    }
    return {name: value for name, value in tags.items() if value}


def _description(record: ModelVersionRecord) -> str:
    if not record.packet_digest:
        return record.reason
    answer = f"approve|reject {record.packet_digest[:8]} <your name> [reason]"
    return f"{record.reason}\n\nTo review, set the tag `{REVIEW_TAG}` to `{answer}`."


def _requirements() -> list[str]:
    try:
        ours = f"metadrift=={version('metadrift')}"
    except PackageNotFoundError:  # run from a source tree
        ours = "metadrift"
    return [ours, f"mlflow=={version('mlflow')}"]
