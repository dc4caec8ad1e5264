"""Every option of `metadrift meta-train` changes what comes of it."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.feature_schema import Feature, FeatureSchema
from adapters.meta_init import MetaInit, load_meta_init
from adapters.model_file import lineage_key
from deploy.registry_records import TrainingRecord
from pipeline import arrivals, training_registration
from pipeline.cli import app
from pipeline.data_file import Columns, DataFileError, open_data_file
from pipeline.task_examples import task_examples
from tests.pipeline.made_state import write_config
from tests.pipeline.shift_files import history

OPTIONS = (
    *("--label", "label", "--task", "shift", "--support", "4", "--query", "6", "--seed", "3"),
    *("--algorithms", "anil", "--validate-every", "1", "--processes", "1", "--max-seconds", "60"),
    *("--no-champion", "--json"),
)


def batches(path: Path) -> Path:
    """Write eight small shifts, with batches of two rows and a time."""
    past = history(path, tasks=8, rows=24)
    with past.open(newline="") as file:
        header, *lines = csv.reader(file)
    with past.open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow([*header, "batch", "at"])
        for i, line in enumerate(lines):
            written.writerow(
                [*line, f"b{i // 2}", f"2026-01-{1 + i // 24:02d}T00:00:{i % 24:02d}Z"]
            )
    return past


class Told:
    """What MLflow would have been told, without MLflow."""

    def __init__(self) -> None:
        self.params: Mapping[str, object] = {}

    def __call__(self, *, training: TrainingRecord, **_: object) -> tuple[str, str]:
        self.params = training.params
        return "run-1", "1"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Take MLflow's place."""
    told = Told()
    monkeypatch.setattr(training_registration, "register_training", told)
    return told


def trained(tmp_path: Path, *more: str | Path, code: int = 0) -> tuple[dict[str, object], str]:
    """Train on the batches; return the command's document and its complaint."""
    past, config = batches(tmp_path / "past.csv"), write_config(tmp_path)
    args = ["meta-train", past, *OPTIONS, *more, "-c", config]
    found = CliRunner().invoke(app, [str(arg) for arg in args])
    assert found.exit_code == code, found.output
    return ({}, found.stderr) if code else (json.loads(found.stdout), "")


def init_of(document: dict[str, object]) -> MetaInit:
    return load_meta_init(Path(str(document["folder"])), str(document["meta_init"]))


def test_options_of_data_and_training_have_their_effect(tmp_path: Path, told: Told) -> None:
    document, _ = trained(tmp_path, "--time", "at", "--id", "id", "--group", "batch")
    init = init_of(document)
    assert set(init.starts) == {"anil"}
    assert [f.name for f in init.schema.features] == ["colour", "x"]
    assert {int(key) for key in init.trained_on} == {lineage_key(f"b{i}") for i in range(96)}
    table = init.validation["anil"]
    assert isinstance(table, dict)
    assert set(table["loss_by_support"]) == {"4"}
    assert table["stopped_early"] is True and table["meta_steps"] < table["meta_steps_planned"]
    assert document["champion"] is None and not arrivals.read(tmp_path / "state").champion
    assert init.info["seed"] == 3
    expected = {"support": 4, "query": 6, "seed": 3, "validate_every": 1, "processes": 1}
    assert expected.items() <= told.params.items()
    assert told.params["module"] == "adapters.modules:MLP" and told.params["device"] == "cpu"


def test_a_module_of_ones_own_and_some_features(tmp_path: Path, told: Told) -> None:
    own = ("--module", "adapters.networks:NormalisedMLP")
    arguments = ("--module-args", '{"hidden": [8], "norm": "layer"}')
    document, _ = trained(tmp_path, *own, *arguments, "--features", "x")
    init = init_of(document)
    assert init.architecture.path == told.params["module"] == "adapters.networks:NormalisedMLP"
    assert init.architecture.kwargs == {"hidden": [8], "norm": "layer", "inputs": 6, "outputs": 2}
    assert [f.name for f in init.schema.features] == ["x"]


def test_a_training_goes_on_from_its_checkpoint_and_refuses_another_one(
    tmp_path: Path, told: Told
) -> None:
    kept = tmp_path / "kept"
    first, _ = trained(tmp_path, "--checkpoints", kept, "--features", "x")
    state = (kept / "anil.checkpoint").read_bytes()
    again, _ = trained(tmp_path, "--checkpoints", kept, "--features", "x")
    assert again["meta_init"] == first["meta_init"]
    assert (kept / "anil.checkpoint").read_bytes() == state
    _, complaint = trained(
        tmp_path, "--checkpoints", kept, "--features", "x", "--query", "7", code=3
    )
    assert "anil.checkpoint" in " ".join(complaint.split())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, told: Told) -> None:
    occupied = tmp_path / "occupied"
    occupied.write_text("")
    _, complaint = trained(tmp_path, "--checkpoints", occupied, code=3)
    assert "another checkpoint folder" in " ".join(complaint.split())
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "shelf").write_text("")
    _, complaint = trained(tmp_path, code=2)
    assert "cannot be written" in complaint and "state_dir" in complaint


def test_shots_are_labels_per_class_of_a_task(tmp_path: Path, told: Told) -> None:
    past, config = batches(tmp_path / "past.csv"), write_config(tmp_path)
    kept = [o for i, o in enumerate(OPTIONS) if "--support" not in OPTIONS[max(0, i - 1) : i + 1]]

    def run(*more: str) -> Mapping[str, object]:
        args = ["meta-train", str(past), *kept, "--features", "x", *more, "-c", str(config)]
        found = CliRunner().invoke(app, args)
        assert found.exit_code == 0, found.output
        return {**json.loads(found.stdout), **told.params}

    balanced, plain = run("--shots", "3"), run("--support", "6")
    assert (balanced["support"], balanced["by_class"]) == (6, True)
    assert (plain["support"], plain["by_class"]) == (6, False)
    assert balanced["meta_init"] != plain["meta_init"]
    _, complaint = trained(tmp_path, "--shots", "3", code=2)
    assert "--shots and --support" in complaint


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("", "rows.csv: has a header but no rows; give a file with data"),
        ("1,a,\n2,b,\n", "no row can be used (no task: 2 rows); correct the file, --label or"),
    ],
)
def test_a_file_without_a_usable_row_says_why(tmp_path: Path, rows: str, says: str) -> None:
    path, columns = tmp_path / "rows.csv", Columns("y", task="t")
    path.write_text("x,y,t\n" + rows)
    schema = FeatureSchema((Feature("x", "number"),))
    file = open_data_file(path, columns, task_type="classification", schema=schema)
    with pytest.raises(DataFileError) as error:
        task_examples(file, "column")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--module", "adapters.networks:Nothing", "--module: "),
        ("--module", "json:loads", "--module: "),
        ("--module-args", "{", "--module-args: '{' is not JSON"),
        ("--module-args", "[1]", "is no JSON object"),
        ("--module-args", '{"hidden": [8]}', "--module-args without --module"),
        ("--algorithms", "maml,maml", "name each once"),
        ("--device", "abacus", "--device: 'abacus'; use cpu, cuda"),
        ("--device", "cuda:99", "--device: 'cuda:99' is not here"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(
    tmp_path: Path, option: str, value: str, says: str
) -> None:
    _, complaint = trained(tmp_path, option, value, code=2)
    assert says in " ".join(complaint.split())
