"""``metadrift meta-evaluate``: is meta-learning worth it on this data, and which recipe?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.columns import (
    FEATURES,
    GROUP,
    ID,
    LABEL,
    SEGMENTS,
    TASK,
    TIME,
    tasks_from,
)
from pipeline.commands.common import (
    EXIT_CONFIG,
    EXIT_DATA,
    EXIT_REGISTRY,
    JSON,
    fail,
    settings_from,
)

if TYPE_CHECKING:
    from adapters.evaluation_results import MetaEvaluation
    from pipeline.data_file import Columns, DataFile
    from pipeline.report.evaluation_document import EvaluationDocument
    from pipeline.settings import Settings
    from pipeline.task_examples import TasksBy

HELP = """Answer for your own data: is meta-learning worth it here, and which recipe?

Puts test tasks aside, trains starts on the others, and lets every recipe and eight baselines adapt
to the test tasks from the same few labels. Prints tables and an answer in words, which may be "no";
writes meta-evaluation.json, .png and .txt to --out, and a run with these files to MLflow. With
--time, labels to adapt from are earlier than the rows that judge, within each class of a task. All
tasks that do not judge train, later ones too: with tasks in order of time, leave those after the
test tasks out of the file. --boundaries cuts rows in order of time into tasks instead of --task;
with `detect` an error monitor finds the cuts, from the labels of all rows. 600 episodes take some
minutes per number of shots.

Example: metadrift meta-evaluate history.csv --label churned --task region --shots 1,5

Example: metadrift meta-evaluate gas.csv --label gas --task batch --test-tasks 5,6 --episodes 100

Exit codes: 0 answered (also with "no"), 2 options or configuration, 3 data (too few tasks or rows
among it), 9 answered and written, but MLflow could not be told.
"""

REGISTRATION_S = 120.0


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("meta-evaluate", help=HELP)(meta_evaluate)


def meta_evaluate(
    file: Annotated[Path, typer.Argument(help="CSV, JSONL (also .gz, .xz) or Parquet.")],
    label: LABEL = None,
    task: TASK = None,
    boundaries: SEGMENTS = None,
    time: TIME = None,
    id: ID = None,  # noqa: A002 - the option's name
    group: GROUP = None,
    features: FEATURES = None,
    shots: Annotated[
        str, typer.Option(help="Labels per class (regression: in all), comma-separated.")
    ] = "1,5",
    test_tasks: Annotated[
        str | None, typer.Option(help="Tasks that judge; all others train, later ones too.")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Or: this share of the tasks, drawn. Default: 0.3.")
    ] = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="Per number of shots; 600 or more to publish.")
    ] = 600,
    query: Annotated[int, typer.Option(min=1, help="Rows that judge, per episode at most.")] = 60,
    algorithms: Annotated[
        str, typer.Option(help="Starts to train, comma-separated.")
    ] = "maml,reptile",
    meta_seconds: Annotated[
        float, typer.Option(min=1.0, help="Training budget of each algorithm.")
    ] = 60.0,
    processes: Annotated[int, typer.Option(min=1, help="Algorithms side by side.")] = 2,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Configuration; default: all defaults.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for JSON and picture.")] = Path(
        "meta-evaluation"
    ),
    as_json: JSON = False,
) -> None:
    """Evaluate, print, write, record."""
    if test_tasks is not None and test_fraction is not None:
        fail("--test-tasks and --test-fraction: give one of them", EXIT_CONFIG)
    settings, data, tasks_by = _opened(
        file,
        config,
        out,
        boundaries,
        task,
        label=label,
        time=time,
        id=id,
        group=group,
        features=features,
    )
    from adapters.meta_evaluation import EvaluationSettings
    from adapters.meta_settings import MetaTrainingError, MetaTrainSettings
    from pipeline.commands.progress import Bars
    from pipeline.data_file import DataFileError
    from pipeline.meta_evaluation_run import (
        EvaluationPlan,
        evaluate_file,
        write_document,
        write_evaluation,
    )

    if test_fraction is not None and not 0 < test_fraction < 1:
        fail(f"--test-fraction: {test_fraction}; use a number between 0 and 1", EXIT_CONFIG)
    try:
        plan = EvaluationPlan(
            EvaluationSettings(
                shots=_shots(shots),
                episodes=episodes,
                query=query,
                order="time" if data.columns.time else "random",
                validation_episodes=min(48, episodes),
                seed=seed,
            ),
            MetaTrainSettings(
                algorithms=tuple(_listed(algorithms)),  # type: ignore[arg-type] # checked there
                max_seconds=meta_seconds,
                processes=processes,
                seed=seed,
            ),
            tuple(dict.fromkeys(_listed(test_tasks or ""))),
            0.3 if test_fraction is None else test_fraction,
            tasks_by,
        )
    except ValueError as error:
        fail(str(error), EXIT_CONFIG)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out: {out} cannot be made ({error.strerror}); name another", EXIT_CONFIG)
    try:
        with Bars() as bars:
            document = evaluate_file(data, plan, bars.tell)
    except (DataFileError, MetaTrainingError, ValueError) as error:
        fail(str(error), EXIT_DATA)
    written = write_evaluation(out, document)
    document, away = _recorded(settings, document, written)
    write_document(out, document)  # now with its run
    if as_json:
        typer.echo(written[0].read_text(encoding="utf-8"))
    else:
        _tell(document, written)
    if away:
        fail(
            f"MLflow could not be told ({away}); the result is in {written[0]}: correct "
            "registry.tracking_uri or start the server, then run this again with the same seed",
            EXIT_REGISTRY,
        )


def _opened(
    file: Path,
    config: Path | None,
    out: Path,
    boundaries: str | None,
    task: str | None,
    **named: str | None,
) -> tuple["Settings", "DataFile", "TasksBy"]:
    """Return settings (without a configuration all defaults, state in ``out``), data and cut."""
    from pipeline.commands.columns import feature_file, open_rows
    from pipeline.data_file import DataFileError
    from pipeline.inference import infer
    from pipeline.settings import parse_settings

    known = feature_file(config) if config is not None else None
    columns, tasks_by = tasks_from(known, boundaries, task, **named)
    _require(columns, tasks_by)
    if config is not None:
        settings = settings_from(config)
        return settings, open_rows(file, columns, settings, known), tasks_by
    try:
        task_type = infer(file, columns).task_type
    except DataFileError as error:
        fail(str(error), EXIT_DATA)
    settings = parse_settings(
        {"model": {"name": _name(file), "task_type": task_type}, "state_dir": out}
    )
    return settings, open_rows(file, columns, settings, None), tasks_by


def _require(columns: "Columns", tasks_by: "TasksBy") -> None:
    if columns.label is None:
        fail("--label: missing; name the column of the truth", EXIT_CONFIG)
    if columns.task is None and tasks_by == "column":
        fail(
            "--task: missing; name the column that tells tasks apart, or --boundaries", EXIT_CONFIG
        )


def _name(file: Path) -> str:
    stem = file.name.split(".", 1)[0]
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in stem).strip("._-") or "data"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _shots(text: str) -> tuple[int, ...]:
    found = _listed(text)
    if not found or not all(part.isdecimal() for part in found):
        raise ValueError(f"--shots: {text!r}; write whole numbers as 1,5")
    return tuple(sorted({int(part) for part in found}))


def _recorded(
    settings: "Settings", document: "EvaluationDocument", files: tuple[Path, ...]
) -> tuple["EvaluationDocument", str]:
    """Return the document with its run and, where MLflow could not be told, why."""
    from msgspec.structs import replace

    from pipeline.meta_evaluation_run import evaluation_record
    from pipeline.report.evaluation_document import ToldMLflow
    from pipeline.state_file import wall_s
    from pipeline.tracking_store import artifacts_folder, tracking_uri
    from pipeline.training_registration import NotRegisteredError, record_run

    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        run = record_run(
            uri=tracking_uri(settings),
            artifacts=artifacts_folder(settings),
            model=settings.model.name,
            run=evaluation_record(settings.model.name, document, int(wall_s() * 1000)),
            files=files,
            timeout_s=REGISTRATION_S,
        )
    except (NotRegisteredError, OSError) as error:
        return replace(document, mlflow=ToldMLflow(away=str(error))), str(error)
    return replace(document, mlflow=ToldMLflow(run=run)), ""


def _tell(document: "EvaluationDocument", written: tuple[Path, ...]) -> None:
    from rich.console import Console

    from pipeline.report.evaluation_table import evaluation_tables

    console = Console()
    trained, data = document.training, document.data
    console.print(
        f"{data.rows} rows; trained on {len(trained.train_tasks)} tasks in {trained.seconds:.0f} s,"
        f" {len(trained.validation_tasks)} more chose steps; support and query "
        + (f"by {data.time!r}" if document.order == "time" else "at random"),
        highlight=False,
    )
    for note in _notes(document):
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(evaluation_tables(document))
    names = ", ".join(str(path) for path in written)
    console.print(f"written: {names}", highlight=False, soft_wrap=True)
    if document.mlflow.run:
        console.print(f"MLflow: run {document.mlflow.run}", highlight=False)


def _notes(document: "EvaluationDocument") -> list[str]:
    found: MetaEvaluation = document.evaluation
    notes = [f"left out {count}: {why}" for why, count in document.data.left_out.items()]
    if document.training.left_out:
        notes.append(f"too small to train on: {', '.join(document.training.left_out)}")
    if document.training.cut_short:
        cut = ", ".join(document.training.cut_short)
        notes.append(f"cut short by --meta-seconds: {cut}; a larger one gives better starts")
    notes += [f"not used with {t.shots} shots: {t.name} {t.reason}" for t in found.not_used]
    notes += [
        f"{s.recipe} failed in {s.failed} of {s.episodes} episodes, {s.shots} shots: {s.failure}"
        for s in found.scores
        if s.failed
    ]
    return notes
