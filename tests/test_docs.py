"""The documentation is held to the code: commands, links, names, and the generated pages."""

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from prometheus_client.metrics_core import Metric

from pipeline.cli import app
from pipeline.commands import common
from pipeline.compaction import DiskUse
from pipeline.config_reference import config_reference
from pipeline.core_state import ONE_ROUTE
from pipeline.engine_state import EngineState
from pipeline.json_schemas import json_schemas
from pipeline.metrics import TOTALS, Metrics
from pipeline.records import ServingSeen
from pipeline.settings import Settings, parse_settings
from pipeline.state_schema import FORMAT, TABLES

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(p for p in (ROOT / "docs").rglob("*.md") if "results" not in p.parts),
    ]
)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def fenced(text: str, language: str) -> Iterator[str]:
    """Yield the code blocks of a language."""
    for block in re.finditer(rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        yield block[1]


def shell_lines(text: str) -> list[str]:
    """Return the commands of the ```sh blocks, continued lines joined."""
    lines: list[str] = []
    for block in fenced(text, "sh"):
        joined = block.replace("\\\n", " ")
        lines += [line.strip() for line in joined.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith("#")]


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


# ---------------------------------------------------------------- commands


def verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that ``metadrift`` words name, and the words after its name."""
    command, left = typer.main.get_command(app), words[1:]
    while hasattr(command, "commands") and left and not left[0].startswith("-"):
        assert left[0] in command.commands, f"no such command: {shlex.join(words)}"
        command, left = command.commands[left[0]], left[1:]
    return command, left


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@each_page
def test_shell_commands_are_understood(page: Path) -> None:
    """Each metadrift command parses with all it needs; each make target exists."""
    for line in shell_lines(page.read_text()):
        words = shlex.split(line.split(" | ")[0])
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words[0] == "make":
            assert set(words[1:]) <= make_targets(), line
        if words[0] == "metadrift":
            command, left = verb_of(words)
            if "--help" not in left:
                command.make_context(command.name, list(left))  # a UsageError says what is wrong


@each_page
def test_commands_within_the_text_exist(page: Path) -> None:
    for quoted in re.findall(r"`(metadrift [^`]+)`", prose(page.read_text())):
        words = quoted.replace("[", " ").replace("]", " ").split()
        if words[1].isupper() or words[1].startswith("-"):
            continue
        command, left = verb_of(words)
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert {w for w in left if re.match(r"--?[a-z]", w)} <= known, quoted
    for quoted in re.findall(r"`make ([a-z-]+)`", prose(page.read_text())):
        assert quoted in make_targets(), quoted


def test_the_readme_shows_the_two_commands_and_every_verb_of_the_first_five_minutes() -> None:
    lines = shell_lines((ROOT / "README.md").read_text())
    assert lines[:2] == ["make demo", "make test"]
    shown = " ".join(lines)
    for verb in ("init --data", "init --topics", "check", "meta-train", "run", "produce", "status"):
        assert f"metadrift {verb}" in shown
    assert "metadrift model import" in shown


def test_operations_lists_every_exit_code() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    codes = {v for k, v in vars(common).items() if k.startswith("EXIT_")} | {0, 1, 70}
    listed = {int(n) for n in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert listed == codes


# ---------------------------------------------------------------- links and words


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings get on GitHub."""
    heads = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[`*]", "", head).strip().lower() for head in heads]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in plain}


@each_page
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), f"{target} leaves the project"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), target


@each_page
def test_no_machine_and_no_foreign_host_is_named(page: Path) -> None:
    text = page.read_text()
    assert str(ROOT) not in text
    folders = r"(?<![\w/:.])/(?:home|root|work|usr|opt|tmp|var|mnt|srv|Users)\b"
    assert re.findall(folders, text) == []
    hosts = set(re.findall(r"https?://([^/\s`)\"']+)", text))
    ours = {"127.0.0.1", "localhost", "mlflow.example.com", "prometheus.example.com"}
    assert {h.split(":")[0] for h in hosts} <= ours


# ---------------------------------------------------------------- pages that follow the code


def test_the_configuration_page_is_current() -> None:
    written = (ROOT / "docs/configuration.md").read_text()
    fix = "run: python -m pipeline.config_reference docs/configuration.md"
    assert written == config_reference(), fix


def test_settings_named_in_the_text_exist() -> None:
    sections = set(Settings.model_fields)
    reference = config_reference()
    keys = set(re.findall(r"^\| `([\w.]+)` \|", reference, re.MULTILINE))
    keys |= set(re.findall(r"^## ([a-z._]+)$", reference, re.MULTILINE))
    for page in PAGES:
        for named in re.findall(r"`([a-z]+(?:\.[a-z_]+)+)(?:: [^`]*)?`", prose(page.read_text())):
            if named.split(".")[0] in sections and not named.endswith((".py", ".json", ".sqlite")):
                assert named in keys, f"{page.name}: {named}"


def metrics_table() -> str:
    """Return the table of docs/metrics.md as the code has it."""
    settings = parse_settings({"model": {"name": "m"}})
    metrics = Metrics("m")
    state = EngineState(settings)
    state.monitors[ONE_ROUTE].judged(0.0, 0)  # the first label gives the reference loss
    state.core.serving = ServingSeen()
    metrics.observe(state, 0, True)
    metrics.disk(DiskUse(0, 0, 0))
    metrics.lag({"events": 0})
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    rows += sorted(_metric_row(metric) for metric in metrics.registry.collect())
    return "\n".join(rows)


def _metric_row(metric: Metric) -> str:
    labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
    assert labels, f"{metric.name} has no sample: give the state above what it shows"
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    kept = ", *state*" if metric.name.removeprefix("metadrift_") in TOTALS else ""
    kept = kept if metric.type == "counter" else ""
    return (
        f"| `{name}` | {metric.type}{kept} | {', '.join(labels)} | {metric.documentation.strip()} |"
    )


def test_the_metrics_page_is_current() -> None:
    table = metrics_table()
    assert table in (ROOT / "docs/metrics.md").read_text(), f"the table must read:\n{table}"


def constants(function: str, position: int) -> set[str]:
    """Return the texts that the pipeline passes to a function at an argument's position."""
    found = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or len(node.args) <= position:
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            argument = node.args[position]
            if name == function and isinstance(argument, ast.Constant):
                found.add(str(argument.value))
    return found


def listed(page: str, heading: str) -> set[str]:
    """Return the first column of the table under a heading."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n{heading}\n")[2]
    section = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r"^\| `([\w-]+)`", section, re.MULTILINE))


def test_the_topics_page_lists_every_kind_of_decision() -> None:
    phases = {
        f"rollout-{p}" for p in ("step", "paused", "resumed", "awaiting-approval", "canary")
    } | {f"rollout-{p}" for p in ("promoting", "probation", "promoted", "rejected")}
    phases |= {"rollout-rolled-back", "rollout-expired"}
    assert listed("topics.md", "### Kinds of decision") == constants("decide", 0) | phases


def test_the_topics_page_lists_every_class_of_dead_letter() -> None:
    classes = constants("dead_letter", 2) | constants("_UnusableError", 0)
    assert listed("topics.md", "### Classes of error") == classes | {"undecodable"}


def test_the_published_schemas_are_current() -> None:
    folder = ROOT / "docs/schemas"
    written = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert written == json_schemas(), "run: metadrift schema --out docs/schemas"


def test_the_architecture_page_lists_the_state_tables() -> None:
    tables = set(re.findall(r"CREATE TABLE (\w+)", TABLES))
    assert listed("architecture.md", "### State tables") == tables


def test_the_changelog_says_what_this_release_is_and_reads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"[Unreleased] {project['version']}" in text
    assert f"State format {FORMAT}" in text


def test_every_adr_is_in_the_index_and_has_its_parts() -> None:
    folder = ROOT / "docs/adr"
    index = (folder / "README.md").read_text()
    pages = sorted(p for p in folder.glob("[0-9]*.md"))
    assert [int(p.name[:4]) for p in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        assert f"]({page.name})" in index
        for part in ("Context", "Decision", "Consequences"):
            assert f"\n## {part}\n" in page.read_text(), f"{page.name}: {part}"
