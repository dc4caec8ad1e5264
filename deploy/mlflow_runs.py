"""MLflow runs that exist once per key, however often they are written."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from deploy.mlflow_connection import Connection
from deploy.registry import TransientError
from deploy.run_facts import RunFacts

if TYPE_CHECKING:
    from mlflow.entities import Run

KEY_TAG: Final = "metadrift.key"
LONGEST_TEXT: Final = 5000  # MLflow refuses longer tags and params

_PARENT_TAG = "mlflow.parentRunId"
_FINISHED = "FINISHED"
_METRICS_A_CALL, _PARAMS_A_CALL = 1000, 100
_DELETED_RETRY_S = 60.0

_T = TypeVar("_T")


class MlflowRuns:
    """The runs of one experiment, each named by its key."""

    def __init__(self, connection: Connection, experiment: str) -> None:
        self._mlflow = connection
        self._client = connection.client
        self._experiment = experiment

    def ensure(self, key: str, name: str, at_ms: int, parent: str | None = None) -> "Run":
        """Return the run of ``key``; create it, RUNNING, where there is none.

        Args:
            key: Names the run.
            name: For the eye; an existing run keeps its own.
            at_ms: When it started, epoch milliseconds.
            parent: Id of the run that it is nested in.
        """
        experiment = self._experiment_id()
        run = self._find(experiment, key)
        if run is None:
            tags = {KEY_TAG: key, **({_PARENT_TAG: parent} if parent else {})}
            created = self._client.create_run(experiment, at_ms, tags, run_name=name)
            run = self._find(experiment, key) or created
        elif parent and run.data.tags.get(_PARENT_TAG) != parent:
            self._client.set_tag(run.info.run_id, _PARENT_TAG, parent)
        return run

    def is_finished(self, run: "Run") -> bool:
        """Whether everything about ``run`` was written."""
        return bool(run.info.status == _FINISHED)

    def write(self, run_id: str, facts: RunFacts, at_ms: int) -> None:
        """Write facts; a number written twice with the same step and time is kept once."""
        metric, param = self._mlflow.metric, self._mlflow.param
        metrics = [metric(name, value, at_ms, 0) for name, value in facts.metrics.items()]
        for name, points in facts.curves.items():
            metrics += [metric(name, value, at_ms, step) for step, value in points]
        params = [param(name, text[:LONGEST_TEXT]) for name, text in facts.params.items()]
        for batch in _batches(metrics, _METRICS_A_CALL):
            self._client.log_batch(run_id, metrics=batch)
        for few in _batches(params, _PARAMS_A_CALL):
            self._client.log_batch(run_id, params=few)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, empty ones left out."""
        for name, value in tags.items():
            if value:
                self._client.set_tag(run_id, name, value[:LONGEST_TEXT])

    def finish(self, run_id: str, at_ms: int) -> None:
        """Say that everything was written."""
        self._client.set_terminated(run_id, _FINISHED, at_ms)

    def _find(self, experiment: str, key: str) -> "Run | None":
        found: list[Run] = list(
            self._client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=50)
        )
        found.sort(key=lambda run: (not self.is_finished(run), str(run.info.run_id)))
        for duplicate in found[1:]:
            self._client.delete_run(duplicate.info.run_id)
        return found[0] if found else None

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            return str(self._client.create_experiment(self._experiment, self._mlflow.artifacts))
        if found.lifecycle_stage != "active":
            raise TransientError(
                f"the experiment {self._experiment!r} was deleted; restore it in MLflow",
                retry_in_s=_DELETED_RETRY_S,
            )
        return str(found.experiment_id)


def _batches(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
