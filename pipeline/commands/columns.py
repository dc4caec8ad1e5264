"""The options that say which column of a data file means what: the same in every command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import EXIT_CONFIG, EXIT_DATA, fail

if TYPE_CHECKING:
    from pipeline.data_file import Columns, DataFile
    from pipeline.feature_file import FeatureFile
    from pipeline.settings import Settings
    from pipeline.task_examples import TasksBy

_KEPT = " Default: as given to `init`."

LABEL = Annotated[str | None, typer.Option("--label", help="Column of the truth." + _KEPT)]
TASK = Annotated[
    str | None,
    typer.Option("--task", help="Column that names the task, or several: machine,season." + _KEPT),
]
TIME = Annotated[str | None, typer.Option("--time", help="Column of the time." + _KEPT)]
ID = Annotated[str | None, typer.Option("--id", help="Column that names the row." + _KEPT)]
GROUP = Annotated[
    str | None, typer.Option("--group", help="Column of rows that must not be split." + _KEPT)
]
DETECT = "detect"
SEGMENTS = Annotated[
    str | None,
    typer.Option(
        "--boundaries",
        help="Instead of --task: a task is what lies between boundaries; a column (each change of "
        "its value), positions as 900,1800, or `detect`.",
    ),
]
FEATURES = Annotated[
    str | None,
    typer.Option("--features", help="Feature columns, comma-separated. Default: all others."),
]
BOUNDARIES = Annotated[
    str | None,
    typer.Option(
        "--boundaries", help="Where the truth changes: a column, or positions as 900,1800."
    ),
]


def feature_file(config: Path) -> "FeatureFile | None":
    """Return what ``init`` wrote beside the configuration, if it did."""
    from pipeline.feature_file import FeatureFileError, load_beside

    try:
        return load_beside(config)
    except FeatureFileError as error:
        fail(str(error), EXIT_CONFIG)


def columns_from(
    known: "FeatureFile | None",
    *,
    label: str | None = None,
    task: str | None = None,
    time: str | None = None,
    id: str | None = None,  # noqa: A002 - the option's name
    group: str | None = None,
    features: str | None = None,
    boundaries: str | None = None,
) -> "Columns":
    """Return the columns that the options name, else those that ``init`` was given."""
    from pipeline.data_file import Columns, parse_boundaries

    kept = known.columns if known else Columns(None)
    try:
        return Columns(
            label=label or kept.label,
            task=task or kept.task,
            time=time or kept.time,
            id=id or kept.id,
            group=group or kept.group,
            features=tuple(f.strip() for f in features.split(",") if f.strip())
            if features is not None
            else kept.features,
            boundaries=parse_boundaries(boundaries) if boundaries else None,
        )
    except ValueError as error:
        fail(str(error), EXIT_CONFIG)


def tasks_from(
    known: "FeatureFile | None", boundaries: str | None, task: str | None, **named: str | None
) -> tuple["Columns", "TasksBy"]:
    """Return the columns, and what tells tasks apart: --task or --boundaries, never both."""
    from dataclasses import replace

    if boundaries is None:
        return columns_from(known, task=task, **named), "column"
    if task is not None:
        fail("--boundaries and --task: give one of them", EXIT_CONFIG)
    detect = boundaries == DETECT
    columns = columns_from(known, **named, boundaries=None if detect else boundaries)
    return replace(columns, task=None), "detection" if detect else "boundaries"


def open_rows(
    path: Path, columns: "Columns", settings: "Settings", known: "FeatureFile | None"
) -> "DataFile":
    """Open a data file as the model reads it; what cannot be used ends the command."""
    from pipeline.data_file import DataFileError, open_data_file

    task_type = settings.model.task_type
    if known is not None and known.task_type != task_type:
        fail(
            f"model.task_type: {task_type}, but the features file says {known.task_type}: "
            "correct one of them",
            EXIT_CONFIG,
        )
    try:
        return open_data_file(
            path, columns, task_type=task_type, schema=known.schema if known else None
        )
    except DataFileError as error:
        fail(str(error), EXIT_DATA)
