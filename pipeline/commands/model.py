"""``metadrift model import``: one's own model as the first champion."""

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.columns import (
    GROUP,
    ID,
    LABEL,
    columns_from,
    feature_file,
    open_rows,
)
from pipeline.commands.common import (
    CONFIG,
    DEFAULT_CONFIG,
    EXIT_CONFIG,
    EXIT_DATA,
    EXIT_REFUSED,
    JSON,
    fail,
    print_json,
    settings_from,
)

if TYPE_CHECKING:
    from adapters.model_file import Model
    from pipeline.feature_file import FeatureFile
    from pipeline.settings import Settings

GROUP_HELP = "Bring in one's own models."

HELP = """Make a model folder the first champion; the daemon takes it at its next start.

DIR holds manifest.json and weights.safetensors; both digests are verified before anything is
parsed, and nothing is unpickled. With --holdout FILE the model's losses on rows that it was not
trained on tell the detectors what is normal; else they learn it from the first 30 labels.

\b
Write such a folder from your own nn.Module (its class importable, also by the daemon):
  from pathlib import Path
  from adapters.feature_schema import Feature, FeatureSchema, Preprocessor
  from adapters.model_file import Architecture, Model, save_model
  schema = FeatureSchema((Feature("age", "number"), Feature("plan", "category")))
  rows = schema.parse_many([{"age": 30, "plan": "a"}, {"age": 50, "plan": "b"}]).rows
  encoder = Preprocessor.fit(schema, rows)          # all training rows; encoder.encode(rows)
  kwargs = {"inputs": encoder.d, "hidden": [32], "outputs": 2}
  architecture = Architecture("adapters.modules:MLP", kwargs)   # "your.module:Class"
  module = architecture.build()                     # train it on encoder.encode(rows)
  model = Model(module=module, architecture=architecture, schema=schema, preprocessor=encoder,
                task_type="classification", class_names=("no", "yes"))
  save_model(Path("my-model"), model)

Example: metadrift model import my-model --holdout holdout.csv --label churned -c metadrift.yaml

Exit codes: 0 done, 2 options or configuration, 3 the folder or the file, 7 there is a champion.
"""


def add_to(app: typer.Typer) -> None:
    """Add the group of commands."""
    models = typer.Typer(no_args_is_help=True, help=GROUP_HELP)
    models.callback()(_group)
    models.command("import", help=HELP)(import_model)
    app.add_typer(models, name="model")


def _group() -> None:
    """Make a single command stay a subcommand."""


def import_model(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder.")],
    digest: Annotated[
        str | None, typer.Option(help="sha256:... that the manifest must have. Default: any.")
    ] = None,
    holdout: Annotated[
        Path | None, typer.Option(help="Labelled rows that the model was not trained on.")
    ] = None,
    label: LABEL = None,
    id: ID = None,  # noqa: A002 - the option's name
    group: GROUP = None,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Verify, store, leave for the daemon."""
    settings = settings_from(config)
    from pipeline.commands.state_view import core_here

    core = core_here(settings)
    if core is not None and core.versions:
        name = core.versions[core.routes["*"].champion].name
        fail(
            f"{settings.state_dir} has a champion already ({name}), and only the loop replaces it: "
            "let an episode earn it (`metadrift signal force`), or start anew with this model "
            "under another state_dir",
            EXIT_REFUSED,
        )
    from adapters.model_file import ModelFileError, load_model
    from pipeline import arrivals
    from pipeline.fold import shelf_of
    from pipeline.records import ModelsFound

    try:
        model = load_model(folder, digest)
    except ModelFileError as error:
        fail(f"{folder}: {error}", EXIT_DATA)
    known = feature_file(config)
    _check_fits(model, settings, known)
    losses, left_out = _losses(model, holdout, label, id, group, settings, known)
    waited = arrivals.read(settings.state_dir).champion
    try:
        stored = shelf_of(settings.state_dir).put_model(model)
        arrivals.announce(
            settings.state_dir, ModelsFound(champion=stored, recipe="imported", losses=losses)
        )
    except (OSError, sqlite3.Error) as error:
        fail(f"state_dir: {settings.state_dir} cannot be written: {error}", EXIT_CONFIG)
    mean = sum(losses) / len(losses) if losses else None
    if as_json:
        print_json(
            {
                "champion": stored,
                "losses": len(losses),
                "mean_loss": mean,
                "left_out": left_out,
                "replaces": waited or None,
            }
        )
        return
    typer.echo(f"{stored[:15]} is the first champion from the daemon's next start on")
    if waited and waited != stored:
        typer.echo(f"  in place of {waited[:15]}, which had not been taken yet")
    if mean is not None:
        typer.echo(f"  mean loss {mean:.3f} over {len(losses)} rows tells the detectors what is")
        typer.echo("  normal")
    else:
        typer.echo("  without --holdout: the detectors learn what is normal from 30 labels")
    for why, count in left_out.items():
        typer.echo(f"  left out {count}: {why}")


def _check_fits(model: "Model", settings: "Settings", known: "FeatureFile | None") -> None:
    if model.task_type != settings.model.task_type:
        fail(
            f"model.task_type: {settings.model.task_type}, but the model is for "
            f"{model.task_type}: correct one of them",
            EXIT_CONFIG,
        )
    if known is not None and known.schema.digest() != model.schema.digest():
        names = [f.name for f in model.schema.features]
        typer.echo(
            f"note: the model's own schema counts from now on ({', '.join(names[:20])}); it "
            "differs from the features file",
            err=True,
        )


def _losses(
    model: "Model",
    holdout: Path | None,
    label: str | None,
    id: str | None,  # noqa: A002 - the option's name
    group: str | None,
    settings: "Settings",
    known: "FeatureFile | None",
) -> tuple[tuple[float, ...], dict[str, int]]:
    """Return the losses that prime the detectors, and what was left out of them."""
    if holdout is None:
        kept = model.info.get("holdout_losses")
        if isinstance(kept, list) and all(isinstance(x, float) and 0 <= x <= 1 for x in kept):
            return tuple(kept), {}
        return (), {}
    import numpy as np

    from pipeline.data_file import DataFile, DataFileError
    from pipeline.file_examples import examples_of_rows

    columns = columns_from(known, label=label, id=id, group=group)
    if columns.label is None:
        fail("--label: missing; name the column of the truth in the holdout file", EXIT_CONFIG)
    open_rows(holdout, columns, settings, None)  # tells what is wrong with the file itself
    try:
        file = DataFile(holdout, columns, task_type=model.task_type, schema=model.schema)
        found = examples_of_rows(file.rows(), model.schema)
    except DataFileError as error:
        fail(str(error), EXIT_DATA)
    examples = found.examples
    fresh = np.flatnonzero(~np.isin(examples.keys, model.trained_on))
    left_out = {
        "no label": found.unlabelled,
        "a feature does not fit the schema": sum(found.refused.values()),
        "the model was trained on the row": len(examples) - len(fresh),
    }
    if not len(fresh):
        fail(f"{holdout}: no row can be used ({left_out}): give rows of its own", EXIT_DATA)
    examples = examples.take(fresh)
    losses = model.losses(model.predict(examples.rows), examples.truths)
    return tuple(losses.tolist()), {why: count for why, count in left_out.items() if count}
