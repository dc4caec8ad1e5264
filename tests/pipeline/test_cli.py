"""The command line as a whole: help, light imports, wrong configurations."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pipeline.arrivals import announce
from pipeline.cli import VERBS, app
from pipeline.commands import state_view
from pipeline.fold import state_path
from pipeline.records import ModelsFound

HEAVY = ("torch", "mlflow", "river", "pandas", "kafka", "numpy", "pydantic", "scipy")
MINIMAL = "model: {name: m}\n"


def paths() -> list[tuple[str, ...]]:
    """Every command's words."""
    found: list[tuple[str, ...]] = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [(name, n) for n in inner] if inner else [(name,)]
    return found


def test_every_command_of_the_promise_is_there() -> None:
    words = {" ".join(p) for p in paths()}
    assert words >= {
        *("init", "check", "run", "produce", "replay", "meta-train", "model import", "status"),
        *("approve", "reject", "pause", "resume", "abort", "promote", "schema"),
        *("signal new-task", "signal force"),
    }
    assert len(VERBS) == len(set(VERBS))


@pytest.mark.parametrize("words", paths(), ids=" ".join)
def test_help_has_an_example_exit_codes_and_json(words: tuple[str, ...]) -> None:
    found = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "120", "NO_COLOR": "1"})
    assert found.exit_code == 0
    text = re.sub(r"\s+", " ", found.output)
    assert f"Example: metadrift {' '.join(words)}" in text
    assert "Exit codes: 0" in text
    assert "--json" in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from pipeline.cli import main\n"
        "sys.argv = ['metadrift', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "meta-train" in found.stdout
    assert found.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read {path}: No such file or directory; write one with `metadrift init`"),
        (
            "model: [",
            "{path} is no YAML: line 1, column 9: expected the node content, but found "
            "'<stream end>'; correct it",
        ),
        ("- 1\n", "holds no mapping"),
        ("{}", "model: missing; add it"),
        ("1: 2\nmodel: {name: m}\n", "1: no such key; remove it or correct its spelling"),
        ("model: {name: m}\nrollot: {}\n", "rollot: {}: no such key"),
        ("model: {name: '!'}\n", "model.name: '!': string should match pattern"),
        (
            "model: {name: m}\nrollout: {dwell_s: .inf}\n",
            "rollout.dwell_s: inf: input should be a finite",
        ),
        ("model: {name: m}\nkafka: here\n", "kafka: 'here': input should be a valid dictionary"),
        (
            "model: {name: m}\nrollout: {steps: [50, 5]}\n",
            "rollout: steps must rise strictly within 1..100 (a first 0 is a shadow step), "
            "got [50, 5]",
        ),
        (
            "model: {name: m}\nkafka: {sasl_password: x}\n",
            "kafka.sasl_password: secrets do not belong in the file; "
            "set METADRIFT_KAFKA__SASL_PASSWORD",
        ),
    ],
)
@pytest.mark.parametrize("command", ["status", "produce rows.csv", "pause"])
def test_a_wrong_configuration_names_key_value_and_fix(
    tmp_path: Path, text: str | None, says: str, command: str
) -> None:
    path = tmp_path / "m.yaml"
    if text is not None:
        path.write_text(text)
    found = CliRunner().invoke(app, [*command.split(), "-c", str(path)])
    assert found.exit_code == 2
    assert says.replace("{path}", str(path)) in found.stderr


def test_a_wrong_environment_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.yaml").write_text(MINIMAL)
    monkeypatch.setenv("METADRIFT_ROLLOUT__STEPS", "5,25")
    found = CliRunner().invoke(app, ["status", "-c", str(tmp_path / "m.yaml")])
    assert found.exit_code == 2
    assert "METADRIFT_ROLLOUT__STEPS='[5, 25, 50]'" in found.stderr


def test_a_misspelt_section_in_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.yaml").write_text(MINIMAL)
    monkeypatch.setenv("METADRIFT_ROLOUT__MODE", "shadow")
    found = CliRunner().invoke(app, ["status", "-c", str(tmp_path / "m.yaml")])
    assert found.exit_code == 2
    assert "METADRIFT_ROLOUT__MODE: no such section 'rolout'" in found.stderr
    assert "rollout" in found.stderr


def test_the_state_file_is_looked_for_where_the_daemon_keeps_it(tmp_path: Path) -> None:
    assert state_view.state_file(tmp_path) == state_path(tmp_path)


def test_a_command_that_fails_says_so_in_a_line_and_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MINIMAL + f"state_dir: {tmp_path}/none\n")
    found = CliRunner().invoke(app, ["status", "-c", str(tmp_path / "m.yaml")])
    assert isinstance(found.exception, SystemExit)
    assert found.stderr.startswith("error: state_dir: ")
    assert "start the daemon once with `metadrift run`" in found.stderr


def test_a_model_that_is_not_on_the_shelf_is_named_with_what_to_do(tmp_path: Path) -> None:
    """In a process of its own: ``run`` takes over the process's signals."""
    announce(tmp_path / "state", ModelsFound("sha256:" + "a" * 64, losses=(0.0,)))
    path = tmp_path / "m.yaml"
    path.write_text(MINIMAL + f"state_dir: {tmp_path}/state\nhttp: {{port: 0}}\n")
    program = Path(sys.executable).with_name("metadrift")
    found = subprocess.run(
        [program, "run", "-c", path], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    for words in ("shelf/models/" + "a" * 32, "bring shelf/ back from the backup", "state_dir"):
        assert words in found.stderr


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("produce none.csv", 3, "none.csv: no such file"),
        ("produce rows.csv --rate 0", 2, "rate is 0.0: use more than 0 events a second"),
        ("produce rows.csv --label-delay 3 --label-delay-s 1", 2, "use one of them"),
        ("produce rows.csv --label answer", 3, "choose from: a, b"),
        ("signal new-task --task t --examples none.csv", 3, "none.csv: no such file"),
        ("signal new-task --task t --examples ,", 2, "names none"),
        ("signal new-task --task t --examples rows.csv", 2, "--label: missing"),
        ("replay", 2, "give a FILE"),
    ],
)
def test_wrong_options_are_named_before_a_broker_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("metadrift.yaml").write_text(MINIMAL + "kafka: {bootstrap_servers: '127.0.0.1:1'}\n")
    Path("rows.csv").write_text("a,b\n1,x\n2,y\n")
    found = CliRunner().invoke(app, command.split())
    assert found.exit_code == code, found.output
    assert says in found.stderr
