"""`metadrift model import` and `metadrift meta-train`: models that come from outside the loop."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.feature_schema import Feature, FeatureSchema, Preprocessor
from adapters.meta_init import load_meta_init
from adapters.model_file import Architecture, Model, lineage_key, load_model, save_model
from pipeline import arrivals, training_registration
from pipeline.cli import app
from pipeline.commands import meta_train
from pipeline.commands.model import HELP
from pipeline.model_shelf import ModelShelf
from pipeline.records import ModelsFound
from tests.pipeline.made_state import core_in_canary, digest, write_config, write_state
from tests.pipeline.shift_files import history, write_shifts

SCHEMA = FeatureSchema((Feature("colour", "category"), Feature("x", "tensor", (6,))))


def write_model(folder: Path, *, trained_on: tuple[str, ...] = (), **info: object) -> str:
    """Write a model that says "yes" whatever comes; return its digest."""
    import numpy as np
    import torch

    rows = SCHEMA.parse_many([{"colour": "red", "x": [0.0] * 6}]).rows
    encoder = Preprocessor.fit(SCHEMA, rows)
    architecture = Architecture(
        "adapters.modules:MLP", {"inputs": encoder.d, "hidden": [4], "outputs": 2}
    )
    module = architecture.build()
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
        list(module.parameters())[-1][1] = 1.0
    model = Model(
        module=module,
        architecture=architecture,
        schema=SCHEMA,
        preprocessor=encoder,
        task_type="classification",
        class_names=("no", "yes"),
        trained_on=np.unique(np.array([lineage_key(k) for k in trained_on], np.uint64)),
        info=info,
    )
    return save_model(folder, model)


def run(*args: str | Path, code: int = 0) -> str:
    found = CliRunner().invoke(app, [str(a) for a in args])
    assert found.exit_code == code, found.output
    return found.stderr if code else found.stdout


def test_a_model_folder_becomes_the_first_champion(tmp_path: Path) -> None:
    config, folder = write_config(tmp_path), tmp_path / "own"
    written = write_model(folder)
    said = run("model", "import", folder, "-c", config, "--digest", written)
    assert "is the first champion" in said and "from 30 labels" in said
    waiting = arrivals.read(tmp_path / "state")
    assert (waiting.champion, waiting.recipe, waiting.losses) == (written, "imported", ())
    assert ModelShelf(tmp_path / "state" / "shelf").model(written).class_names == ("no", "yes")


def test_holdout_losses_prime_the_detectors_without_rows_it_was_trained_on(tmp_path: Path) -> None:
    config, folder = write_config(tmp_path), tmp_path / "own"
    rows = write_shifts(tmp_path / "rows.csv", [("day", 0, 60)], seed=4)
    write_model(folder, trained_on=tuple(f"rows-{i}" for i in range(20)))
    said = run(
        *("model", "import", folder, "--holdout", rows, "--label", "label", "--id", "id"),
        *("-c", config, "--json"),
    )
    told = json.loads(said)
    labels = [line.rsplit(",", 1)[1] for line in rows.read_text().split()[1:]][20:]
    assert told["losses"] == 40
    assert told["mean_loss"] == pytest.approx(labels.count("no") / 40)
    assert told["left_out"] == {"the model was trained on the row": 20}
    assert arrivals.read(tmp_path / "state").losses == tuple(float(x == "no") for x in labels)


def test_losses_that_the_folder_brings_are_used(tmp_path: Path) -> None:
    write_model(tmp_path / "own", holdout_losses=[0.0, 1.0, 0.5])
    run("model", "import", tmp_path / "own", "-c", write_config(tmp_path))
    assert arrivals.read(tmp_path / "state").losses == (0.0, 1.0, 0.5)


def test_what_cannot_be_imported_is_refused_with_a_fix(tmp_path: Path) -> None:
    config, folder = write_config(tmp_path), tmp_path / "own"
    write_model(folder)
    assert "expected sha256:0" in run(
        "model", "import", folder, "-c", config, "--digest", "sha256:0", code=3
    )
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "they were changed or damaged" in run("model", "import", folder, "-c", config, code=3)
    assert "must hold manifest.json" in run("model", "import", tmp_path, "-c", config, code=3)
    write_model(folder)
    other = tmp_path / "r.yaml"
    other.write_text(config.read_text().replace("name: m", "name: m, task_type: regression"))
    assert "model.task_type: regression" in run("model", "import", folder, "-c", other, code=2)
    assert not (tmp_path / "state" / "arrivals.json").exists()


def test_a_state_with_a_champion_takes_no_other(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    write_state(tmp_path / "state", core_in_canary(), [])
    write_model(tmp_path / "own")
    said = run("model", "import", tmp_path / "own", "-c", config, code=7)
    assert "has a champion already (1-aaaaaaaa)" in said and "another state_dir" in said


def test_the_help_shows_code_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = HELP.split("\b\n")[1].split("\n\n")[0].splitlines()[1:]
    exec("\n".join(line[2:] for line in lines), {})  # noqa: S102 - our own help
    model = load_model(tmp_path / "my-model", None)
    assert model.class_names == ("no", "yes")
    assert model.predict(model.schema.parse_many([{"age": 3, "plan": "z"}]).rows).labels


def test_meta_training_leaves_meta_init_and_champion_when_mlflow_is_away(tmp_path: Path) -> None:
    config = write_config(tmp_path, "registry: {tracking_uri: 'http://127.0.0.1:1'}\n")
    past = history(tmp_path / "history.csv", tasks=12, rows=40)
    found = CliRunner().invoke(
        app,
        [
            *("meta-train", str(past), "--label", "label", "--task", "shift", "--id", "id"),
            *("--support", "8", "--query", "12", "--max-seconds", "1", "--processes", "1"),
            *("-c", str(config), "--json"),
        ],
    )
    assert found.exit_code == 9, found.output
    assert "run this again with the same seed" in found.stderr.replace("\n", " ")
    told = json.loads(found.stdout)
    assert told["examples"] == 480 and "127.0.0.1" in told["mlflow"]["away"]
    waiting = arrivals.read(tmp_path / "state")
    assert (waiting.meta_init, waiting.champion) == (told["meta_init"], told["champion"])
    assert waiting.recipe == "joint" and waiting.recommended == told["recommended"]
    assert len(waiting.losses) == 96 and 0 <= told["champion_loss"] <= 1
    init = load_meta_init(Path(told["folder"]), told["meta_init"])
    assert init.schema == SCHEMA and set(init.starts) == {"maml", "reptile"}
    assert lineage_key("history-0") in init.trained_on


def registered(**_: object) -> tuple[str, str]:
    return "run-1", "1"


def test_n_way_meta_training_keeps_the_champion_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_registration, "register_training", registered)
    config = write_config(tmp_path)
    shapes = tmp_path / "shapes.csv"
    lines = [f"{i},{i % 8 + i / 10_000},{i % 8 * 2},c{i % 8}" for i in range(240)]
    shapes.write_text("\n".join(["name,a,b,shape", *lines]))
    arrivals.announce(tmp_path / "state", ModelsFound(digest("c")))
    told = json.loads(
        run(
            *("meta-train", shapes, "--label", "shape", "--id", "name", "--ways", "2"),
            *("--shots", "3", "--query", "6", "--max-seconds", "1", "--processes", "1"),
            *("-c", config, "--json"),
        )
    )
    assert told["champion"] is None
    waiting = arrivals.read(tmp_path / "state")
    assert waiting.champion == digest("c") and waiting.meta_init == told["meta_init"]
    init = load_meta_init(Path(told["folder"]), None)
    assert (init.slots, init.class_names) == (2, ())


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "--label: missing"),
        (["--label", "label"], 2, "give --task COLUMN, --boundaries, or --ways N --shots K"),
        (["--label", "label", "--task", "nope"], 3, "has no column 'nope'"),
        (["--label", "label", "--task", "shift"], 3, "bring more tasks, or lower support"),
        (["--label", "label", "--ways", "9"], 3, "bring more classes"),
    ],
)
def test_what_meta_training_cannot_use_is_named(
    tmp_path: Path, args: list[str], code: int, says: str
) -> None:
    past = history(tmp_path / "history.csv", tasks=2, rows=10)
    assert says in run("meta-train", past, *args, "-c", write_config(tmp_path), code=code)


def test_registration_ends_at_its_deadline(tmp_path: Path) -> None:
    from deploy.registry_records import ModelVersionRecord, TrainingRecord

    began = time.monotonic()
    with pytest.raises(training_registration.NotRegisteredError, match=r"within 0\.2 s"):
        training_registration.register_training(
            uri=f"sqlite:///{tmp_path}/mlflow.db",
            artifacts=tmp_path / "artifacts",
            model="m",
            training=TrainingRecord("m/t", "t", 0),
            version=ModelVersionRecord("m/v", "m/t", 0, digest("a"), "meta-train", "r"),
            folder=tmp_path,
            timeout_s=0.2,
        )
    assert time.monotonic() - began < meta_train.REGISTRATION_S / 10
