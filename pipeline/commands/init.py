"""``metadrift init``: from a data file to a configuration, from a configuration to topics."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.commands.columns import FEATURES, GROUP, ID, LABEL, TASK, TIME, columns_from
from pipeline.commands.common import (
    CONFIG,
    DEFAULT_CONFIG,
    EXIT_BROKER,
    EXIT_CONFIG,
    EXIT_DATA,
    EXIT_REFUSED,
    JSON,
    fail,
    print_json,
    settings_from,
)

if TYPE_CHECKING:
    from pipeline.inference import Inferred

HELP = """Infer features and configuration from a data file, or make the topics.

With --data: reads the file once, writes a commented configuration and, beside it, the features
file (what the model reads; correct it before training). With --topics: makes the six topics of a
configuration; those that exist are left as they are.

Example: metadrift init --data history.csv --label churned --task region

Example: metadrift init --topics -c metadrift.yaml --replication-factor 3

Exit codes: 0 done, 2 options or configuration, 3 the data file, 5 the broker, 7 a file exists.
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init", help=HELP)(init)


def init(
    data: Annotated[
        Path | None, typer.Option(help="CSV, JSONL (also .gz, .xz) or Parquet to infer from.")
    ] = None,
    label: LABEL = None,
    task: TASK = None,
    time: TIME = None,
    id: ID = None,  # noqa: A002 - the option's name
    group: GROUP = None,
    features: FEATURES = None,
    task_type: Annotated[
        Literal["classification", "regression"] | None,
        typer.Option(help="What labels are. Default: inferred."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name. Default: the file's.")] = None,
    bootstrap_servers: Annotated[
        str | None, typer.Option(help="Kafka brokers for the configuration, host:port,...")
    ] = None,
    topics: Annotated[bool, typer.Option("--topics", help="Make the topics.")] = False,
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions of events, labels and predictions.")
    ] = 4,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, help="Copies of each topic. Default: the broker's.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for the broker.")] = 15.0,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Write a configuration, make topics, or both."""
    if data is None and not topics:
        fail("give --data FILE --label COLUMN, or --topics -c CONFIG", EXIT_CONFIG)
    done: dict[str, object] = {}
    if data is not None:
        if label is None:
            fail("--label: missing; name the column of the truth", EXIT_CONFIG)
        options = {"label": label, "task": task, "time": time, "id": id, "group": group}
        done |= _from_data(
            data, options, features, task_type, name, bootstrap_servers, config, force=force
        )
    if topics:
        done["topics"] = _topics(config, partitions, replication_factor, timeout)
    if as_json:
        print_json(done)
    else:
        _tell(done)


def _from_data(
    data: Path,
    options: dict[str, str | None],
    features: str | None,
    task_type: Literal["classification", "regression"] | None,
    name: str | None,
    bootstrap_servers: str | None,
    config: Path,
    *,
    force: bool,
) -> dict[str, object]:
    import yaml

    from pipeline.config_template import render_config
    from pipeline.data_file import DataFileError
    from pipeline.feature_file import FeatureFile, path_beside
    from pipeline.inference import infer
    from pipeline.settings import ConfigError, Settings, parse_settings

    beside = path_beside(config)
    there = [str(p) for p in (config, beside) if p.exists()]
    if there and not force:
        fail(
            f"already there: {', '.join(there)}; replace with --force, or name another -c",
            EXIT_REFUSED,
        )
    columns = columns_from(
        None,
        label=options["label"],
        task=options["task"],
        time=options["time"],
        id=options["id"],
        group=options["group"],
        features=features,
    )
    try:
        found = infer(data, columns, task_type)
    except DataFileError as error:
        fail(str(error), EXIT_DATA)
    model = name or _model_name(data)
    answers: dict[str, object] = {"model.name": model, "model.task_type": found.task_type}
    if found.task_type == "regression":
        answers["detect.confidence"] = False
    if bootstrap_servers is not None:
        answers["kafka.bootstrap_servers"] = bootstrap_servers
    head = f"# Written by `metadrift init` from {data.name}; every key and its default.\n\n"
    text = head + render_config(Settings, answers)
    try:
        parse_settings(yaml.safe_load(text))
    except ConfigError as error:
        fail(f"{error} (from --name or --bootstrap-servers)", EXIT_CONFIG)
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")
    FeatureFile(found.task_type, columns, found.schema, found.class_names).save(beside)
    return {
        "config": str(config),
        "features_file": str(beside),
        "model": model,
        "task_type": found.task_type,
        "why": found.why,
        "rows": found.rows,
        "labelled": found.labelled,
        "classes": found.classes,
        "tasks": len(found.tasks),
        "features": {f.name: _kind(f.kind, f.shape, f.nullable) for f in found.schema.features},
        "left_out": found.left_out,
        "doubts": found.doubts,
        "next": _next_commands(data, config, found),
    }


def _kind(kind: str, shape: tuple[int, ...], nullable: bool) -> str:
    size = f"({', '.join(map(str, shape))})" if shape else ""
    return f"{kind}{size}{', may be missing' if nullable else ''}"


def _model_name(data: Path) -> str:
    """Return a model's name from a file's.

    >>> _model_name(Path("data/Our churn 2026.csv.gz"))
    'Our-churn-2026'
    """
    stem = data.name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:63] or "model"


def _next_commands(data: Path, config: Path, found: "Inferred") -> list[str]:
    tasks = "" if found.tasks else " --ways 2 --shots 5"
    if not found.tasks and found.task_type == "regression":
        tasks = " --task COLUMN"
    return [
        f"metadrift init --topics -c {config}",
        f"metadrift check -c {config}",
        f"metadrift meta-train {data}{tasks} -c {config}",
        f"metadrift run -c {config}",
        f"metadrift produce {data} --rate 50 -c {config}",
        f"metadrift status -c {config}",
    ]


def _topics(
    config: Path, partitions: int, replication_factor: int | None, timeout_s: float
) -> dict[str, str]:
    settings = settings_from(config)
    from pipeline.kafka_topics import TopicError, make_topics

    try:
        return make_topics(settings.kafka, partitions, replication_factor or -1, timeout_s)
    except TopicError as error:
        fail(str(error), EXIT_BROKER)


def _tell(done: dict[str, object]) -> None:
    if "config" in done:
        typer.echo(f"{done['rows']} rows, {done['labelled']} labelled: {done['task_type']}")
        typer.echo(f"  because {done['why']}")
        _list("features", done["features"])
        _list("classes (rows)", done["classes"])
        _list("left out", done["left_out"])
        _list("look at (--force writes anew)", done["doubts"])
        typer.echo(f"wrote {done['config']} and {done['features_file']}")
    _list("topics", done.get("topics"))
    commands = done.get("next")
    if isinstance(commands, list):
        typer.echo("next:")
        for command in commands:
            typer.echo(f"  {command}")


def _list(title: str, entries: object) -> None:
    if not isinstance(entries, dict) or not entries:
        return
    typer.echo(f"{title}:")
    for key, value in list(entries.items())[:40]:
        typer.echo(f"  {key}: {value}")
    if len(entries) > 40:
        typer.echo(f"  ... and {len(entries) - 40} more")
