"""The wheel ships exactly the four packages and runs from an otherwise empty environment."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"pipeline", "detectors", "adapters", "deploy"}
BUILD_S = 120
RUN_S = 60


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "tests"):  # the tests are there to be left out
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source])
    (built,) = folder.glob("*.whl")
    return built


def run(command: list[object], within_s: float = BUILD_S) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=within_s,
        cwd="/",
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def project_version() -> str:
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return version


def test_it_holds_the_four_packages_typed_and_licensed_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    information = f"metadrift-{project_version()}.dist-info"
    assert {name.split("/")[0] for name in names} == {*PACKAGES, information}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {f"{package}/__init__.py" for package in PACKAGES} <= set(names)
    assert {f"{information}/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= set(names)
    allowed = {".py", ".typed", ".json", ".html", ".txt"}
    odd = [n for n in names if not n.startswith(information) and Path(n).suffix not in allowed]
    assert odd == []


def test_every_module_of_the_source_tree_is_in_it(wheel: Path) -> None:
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    written = {
        str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")
    }
    assert shipped == written


def test_it_installs_into_an_empty_environment_and_answers(wheel: Path, tmp_path: Path) -> None:
    """Installing the libraries again would take gigabytes; they are lent by a path file."""
    run([sys.executable, "-m", "venv", tmp_path / "empty"])
    python = tmp_path / "empty" / "bin" / "python"
    run([python, "-m", "pip", "install", "--no-deps", "--no-index", wheel])
    asked = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    purelib = Path(run([python, "-c", asked]).strip())
    (purelib / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    where = "import pipeline, detectors, adapters, deploy; print(pipeline.__file__)"
    assert Path(run([python, "-c", where]).strip()).is_relative_to(purelib)
    told = run([tmp_path / "empty" / "bin" / "metadrift", "--help"], RUN_S)
    assert "demo" in told
