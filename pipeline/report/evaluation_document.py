"""What ``meta-evaluation.json`` holds; published as a JSON Schema.

Scores are accuracies in [0, 1], or for regression mean absolute errors in target units; see
``evaluation.metric``. Gains are better when larger, whatever the metric.
"""

import msgspec

from adapters.evaluation_results import MetaEvaluation, TrainingCost

FORMAT = "metadrift-meta-evaluation/2"


class DataRead(msgspec.Struct, frozen=True, kw_only=True):
    """What was read.

    Attributes:
        file: Its name.
        label: Column of the truth.
        task: Column that names the task.
        time: Column of the time; null: support and query are drawn at random.
        rows: Labelled rows with a task.
        left_out: Reason -> rows.
    """

    file: str
    label: str
    task: str
    time: str | None
    rows: int
    left_out: dict[str, int]


class MetaTrained(msgspec.Struct, frozen=True, kw_only=True):
    """How the starts were trained, on tasks that judge nothing.

    Attributes:
        algorithms: Of the starts.
        train_tasks: Names of the tasks trained on.
        validation_tasks: Names of the tasks that chose steps and step sizes.
        left_out: Tasks with too few rows for an episode of ``support`` + ``query``.
        support: Labels that starts were trained to adapt from.
        query: Rows that judged them in training.
        seconds: Wall time.
        costs: Per start: its own wall time, and the peak memory of one meta-step.
        cut_short: Algorithms that the time budget ended early; give them more for better starts.
    """

    algorithms: list[str]
    train_tasks: list[str]
    validation_tasks: list[str]
    left_out: list[str]
    support: int
    query: int
    seconds: float
    costs: list[TrainingCost]
    cut_short: list[str]


class ToldMLflow(msgspec.Struct, frozen=True, kw_only=True):
    """The run in MLflow, or why there is none."""

    run: str | None = None
    away: str | None = None


class EvaluationDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One ``metadrift meta-evaluate``.

    Attributes:
        data: What was read.
        training: How the starts were trained.
        order: ``time``: support from the earlier half of each class's rows in a task, query from
            the later half; ``random``: any.
        query: Query rows per episode, at most.
        evaluation: What was found.
        seconds: Wall time altogether.
        mlflow: Where it is recorded.
        format: Of this document.
    """

    data: DataRead
    training: MetaTrained
    order: str
    query: int
    evaluation: MetaEvaluation
    seconds: float
    mlflow: ToldMLflow
    format: str = FORMAT


def evaluation_json_schema() -> dict[str, object]:
    """Return the JSON Schema (2020-12) of the document."""
    as_written = msgspec.json.encode(msgspec.json.schema(EvaluationDocument))  # tuples are lists
    schema = msgspec.json.decode(as_written, type=dict[str, object])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": FORMAT,
        **schema,
    }
