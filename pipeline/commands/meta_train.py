"""``metadrift meta-train``: starts for few-step adaptation, and the first champion."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pipeline.commands.columns import (
    FEATURES,
    GROUP,
    ID,
    LABEL,
    SEGMENTS,
    TASK,
    TIME,
    feature_file,
    open_rows,
    tasks_from,
)
from pipeline.commands.common import (
    CONFIG,
    DEFAULT_CONFIG,
    EXIT_CONFIG,
    EXIT_DATA,
    EXIT_REGISTRY,
    JSON,
    fail,
    print_json,
    settings_from,
)

if TYPE_CHECKING:
    from adapters.model_file import Architecture
    from pipeline.data_file import Columns
    from pipeline.meta_from_memory import FromMemory
    from pipeline.meta_run import MetaRunResult
    from pipeline.settings import Settings
    from pipeline.task_examples import TasksBy

HELP = """Train Reptile, MAML and other starts over tasks; a first champion where there is none.

Tasks come from a column (--task) or are drawn as N-way K-shot episodes over the classes (--ways,
--shots). With --task, --shots draws so many labels of each class to adapt from; without it they
come without regard to class, as in a stream. Rows in order of time can be cut into tasks instead:
--boundaries takes a column, positions, or `detect`, which lets an error monitor find the cuts. The
result waits in the state folder for the daemon's next start; MLflow gets a run and the meta-init as
a version of NAME-meta-init, alias meta-init.

With --from-memory the confirmed tasks of this model's state are learned from as well. What comes of
it replaces the meta-init in force only where it is better on tasks that neither was trained on.

Example: metadrift meta-train history.csv --label churned --task region -c metadrift.yaml

Example: metadrift meta-train history.csv --label churned --task region --from-memory

Example: metadrift meta-train history.csv --label churned --time at --boundaries detect

Example: metadrift meta-train glyphs.parquet --label glyph --ways 5 --shots 4

Example: metadrift meta-train glyphs.parquet --label glyph --ways 5 --algorithms maml,anil
--module adapters.networks:Conv4 --module-args '{"filters": 32}' --checkpoints training

Exit codes: 0 done, 2 options or configuration, 3 data (too few tasks among it), 9 trained and kept
here, but MLflow could not be told: run it again when it is back (same seed, same result).
"""

REGISTRATION_S = 120.0


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("meta-train", help=HELP)(meta_train)


def meta_train(
    file: Annotated[Path, typer.Argument(help="CSV, JSONL (also .gz, .xz) or Parquet.")],
    label: LABEL = None,
    task: TASK = None,
    boundaries: SEGMENTS = None,
    time: TIME = None,
    id: ID = None,  # noqa: A002 - the option's name
    group: GROUP = None,
    features: FEATURES = None,
    ways: Annotated[
        int | None, typer.Option(min=2, help="N-way episodes over the classes, not a task column.")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            min=1, help="Labels per class to adapt from. Default: 5 with --ways, else --support."
        ),
    ] = None,
    support: Annotated[
        int | None,
        typer.Option(min=1, help="Labels to adapt from. Default: half of episode.support."),
    ] = None,
    query: Annotated[int, typer.Option(min=1, help="Examples that judge an adapted start.")] = 40,
    champion: Annotated[
        bool, typer.Option(help="Fit a first champion too, where there is none.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    max_seconds: Annotated[
        float, typer.Option(min=1.0, help="Wall-clock budget of each algorithm.")
    ] = 60.0,
    processes: Annotated[int, typer.Option(min=1, help="Algorithms side by side.")] = 2,
    algorithms: Annotated[
        str, typer.Option(help="Out of maml, reptile, fomaml, anil, meta-sgd, joint; by commas.")
    ] = "maml,reptile",
    module: Annotated[
        str | None,
        typer.Option(help="A torch module of your own instead of the MLP: package.module:Class."),
    ] = None,
    module_args: Annotated[
        str, typer.Option(help="Its constructor's arguments, as a JSON object.")
    ] = "{}",
    validate_every: Annotated[
        int, typer.Option(min=0, help="Meta-steps between looks for early stopping; 0: never.")
    ] = 0,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="Folder for the training's state: the same command goes on from it."),
    ] = None,
    from_memory: Annotated[
        bool, typer.Option(help="Learn from the state's confirmed tasks, too; win, or be left.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where meta-steps run: cpu, cuda.")] = "cpu",
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Train, keep, register."""
    settings = settings_from(config)
    known = feature_file(config)
    columns, tasks_by = tasks_from(
        known, boundaries, task, label=label, time=time, id=id, group=group, features=features
    )
    _refuse_unfit(columns, tasks_by, ways=ways, from_memory=from_memory)
    if shots and support and ways is None:
        fail("--shots and --support: give labels per class, or in all", EXIT_CONFIG)
    from adapters.meta_init import Algorithm
    from adapters.meta_settings import MetaTrainingError, MetaTrainSettings
    from adapters.model_file import ModelFileError
    from pipeline.commands.progress import Bars
    from pipeline.data_file import DataFileError
    from pipeline.meta_run import MetaRunError, meta_run

    per_class = shots or (5 if ways else None)
    if ways and per_class:
        support, query = ways * per_class, ways * max(1, query // ways)
    try:
        plan = MetaTrainSettings(
            algorithms=cast("tuple[Algorithm, ...]", tuple(algorithms.replace(" ", "").split(","))),
            architecture=_architecture(module, module_args),
            device=_device(device),
            validate_every=validate_every,
            support=support or max(1, settings.episode.support // 2),
            query=query,
            ways=ways or 0,
            seed=seed,
            max_seconds=max_seconds,
            processes=processes,
        )
    except ValueError as error:
        fail(str(error), EXIT_CONFIG)
    wanted = champion and not _has_champion(settings)
    data = open_rows(file, columns, settings, known)
    try:
        with Bars() as bars:
            result = meta_run(
                data,
                plan,
                settings.state_dir,
                tasks_by=tasks_by,
                shots=None if ways else per_class,
                class_names=known.class_names if known else (),
                champion=wanted,
                tell=bars.tell,
                checkpoints=checkpoints,
                memory=_memory(settings) if from_memory else None,
            )
    except (DataFileError, MetaRunError, MetaTrainingError, ModelFileError, ValueError) as error:
        fail(str(error), EXIT_DATA)
    except OSError as error:
        fail(f"state_dir: {settings.state_dir} cannot be written ({error})", EXIT_CONFIG)
    if not as_json:
        _tell(result)
    run, version, away = _register(settings, file, result)
    if as_json:
        print_json(_document(result, run, version, away))
    elif not away:
        of = f", version {version} of {settings.model.name}-meta-init" if version else ""
        typer.echo(f"MLflow: run {run}{of}")
    if not as_json and result.taken and _running(settings):
        typer.echo("the daemon is running: restart it to take these")
    if away:
        fail(
            f"MLflow could not be told ({away}); the result is kept in {result.folder}"
            + (" and the daemon will use it" if result.taken else "")
            + ": correct registry.tracking_uri or start the server, then run this "
            "again with the same seed",
            EXIT_REGISTRY,
        )


def _refuse_unfit(
    columns: "Columns", tasks_by: "TasksBy", *, ways: int | None, from_memory: bool
) -> None:
    """End the command where the label is missing, or what tells tasks apart is not one thing."""
    if columns.label is None:
        fail("--label: missing; name the column of the truth", EXIT_CONFIG)
    if ways is None and columns.task is None and tasks_by == "column":
        fail(
            "give --task COLUMN, --boundaries, or --ways N --shots K over the classes", EXIT_CONFIG
        )
    if tasks_by != "column" and (ways or from_memory):
        fail("--boundaries: leave out --ways and --from-memory", EXIT_CONFIG)
    if from_memory and ways is not None:
        fail("--from-memory needs tasks by name; give --task instead of --ways", EXIT_CONFIG)


def _architecture(module: str | None, arguments: str) -> "Architecture | None":
    """Return the module that was asked for; ValueError names the option that is wrong."""
    from adapters.model_file import Architecture, ModelFileError

    try:
        kwargs = json.loads(arguments)
    except ValueError as error:
        raise ValueError(f"--module-args: {arguments!r} is not JSON ({error})") from error
    if not isinstance(kwargs, dict):
        raise ValueError(f"--module-args: {arguments!r} is no JSON object, such as '{{}}'")
    if module is None:
        if kwargs:
            raise ValueError("--module-args without --module; name the class")
        return None
    found = Architecture(module, kwargs)
    try:
        found.module_class()
    except ModelFileError as error:
        raise ValueError(f"--module: {error}") from error
    return found


def _device(name: str) -> str:
    """Return the device where it is there; ValueError says what to do where it is not."""
    import torch

    kind, _, number = name.partition(":")
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise ValueError(f"--device: {name!r}; use cpu, cuda or cuda:0")
    if int(number or 0) >= there:
        raise ValueError(f"--device: {name!r} is not here ({there} of its kind are); use cpu")
    return name


def _has_champion(settings: "Settings") -> bool:
    """Whether the state has a champion, or one waits for the next start."""
    from pipeline import arrivals
    from pipeline.commands.state_view import core_here

    core = core_here(settings)
    return bool(core is not None and core.versions) or bool(
        arrivals.read(settings.state_dir).champion
    )


def _memory(settings: "Settings") -> "FromMemory":
    """Return the state's confirmed tasks and the meta-init in force."""
    from pipeline import arrivals
    from pipeline.commands.state_view import core_here, glimpse_here
    from pipeline.fold import shelf_of
    from pipeline.meta_from_memory import FromMemory, confirmed_tasks

    core = core_here(settings)
    if core is None:
        fail("--from-memory: the model has no state yet; run the daemon first", EXIT_CONFIG)
    tasks = confirmed_tasks(glimpse_here(settings, 0))
    if not tasks:
        fail(
            "--from-memory: no confirmed task with examples is remembered yet (see `metadrift "
            "status`, memory.tasks and memory.examples)",
            EXIT_DATA,
        )
    digest = arrivals.read(settings.state_dir).meta_init or core.meta_init
    return FromMemory(tasks, shelf_of(settings.state_dir).meta_init(digest) if digest else None)


def _running(settings: "Settings") -> bool:
    from pipeline.commands.state_view import daemon_runs

    return daemon_runs(settings)


def _register(settings: "Settings", file: Path, result: "MetaRunResult") -> tuple[str, str, str]:
    """Return run, version and, where MLflow could not be told, why."""
    from pipeline.meta_run import training_record, version_record
    from pipeline.state_file import wall_s
    from pipeline.tracking_store import artifacts_folder, tracking_uri
    from pipeline.training_registration import (
        NotRegisteredError,
        record_run,
        register_training,
    )

    at_ms = int(wall_s() * 1000)
    training = training_record(settings.model.name, file, result, at_ms)
    try:
        if not result.taken:
            run = record_run(
                uri=tracking_uri(settings),
                artifacts=artifacts_folder(settings),
                model=settings.model.name,
                run=training,
                files=(),
                timeout_s=REGISTRATION_S,
            )
            return run, "", ""
        run, version = register_training(
            uri=tracking_uri(settings),
            artifacts=artifacts_folder(settings),
            model=settings.model.name,
            training=training,
            version=version_record(settings.model.name, result, at_ms),
            folder=result.folder,
            timeout_s=REGISTRATION_S,
        )
    except NotRegisteredError as error:
        return "", "", str(error)
    return run, version, ""


def _document(result: "MetaRunResult", run: str, version: str, away: str) -> dict[str, object]:
    return {
        "meta_init": result.digest,
        "folder": str(result.folder),
        "recommended": result.meta_init.recommended,
        "validation": dict(result.meta_init.validation),
        "cut_short": result.meta_init.info.get("cut_short", []),
        "champion": result.champion or None,
        "champion_loss": result.champion_loss,
        "examples": result.examples,
        "left_out": result.left_out,
        "memory": list(result.memory),
        "contest": _contest(result),
        "seconds": round(result.seconds, 2),
        "mlflow": {"run": run, "version": version, "away": away or None},
    }


def _contest(result: "MetaRunResult") -> dict[str, object] | None:
    found = result.contest
    if found is None:
        return None
    return {
        "replaces": found.wins,
        "reason": found.reason,
        "old_loss": float(found.old.mean()),
        "new_loss": float(found.new.mean()),
        "p_value": found.p_value,
        "risk": found.risk,
        "tasks": list(found.tasks),
    }


def _tell(result: "MetaRunResult") -> None:
    from adapters.joint import FINE_TUNE

    typer.echo(f"learned from {result.examples} rows in {result.seconds:.0f} s")
    for why, count in result.left_out.items():
        typer.echo(f"  left out {count}: {why}")
    for job, table in result.meta_init.validation.items():
        if isinstance(table, dict) and "loss" in table:
            typer.echo(
                f"  {job}: loss {table['loss']:.3f} on unseen tasks after {table['steps']} steps"
            )
        if isinstance(table, dict) and "fine_tuned_loss_by_support" in table:
            losses = table["fine_tuned_loss_by_support"].values()
            typer.echo(
                f"  for comparison, one model of all tasks after {FINE_TUNE.steps} steps of Adam: "
                f"{sum(losses) / len(losses):.3f}"
            )
    if result.memory:
        typer.echo(f"  learned from confirmed tasks, too: {', '.join(result.memory)}")
    if result.contest is not None:
        typer.echo(result.contest.reason)
    typer.echo(f"meta-init {result.digest[:15]}, recommended: {result.meta_init.recommended}")
    if result.champion:
        typer.echo(
            f"first champion {result.champion[:15]}, loss {result.champion_loss:.3f} on rows it "
            "did not train on"
        )
    cut = result.meta_init.info.get("cut_short")
    if isinstance(cut, list) and cut:
        typer.echo(
            f"cut short by --max-seconds: {', '.join(cut)}; a larger one gives better starts"
        )
