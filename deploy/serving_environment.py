"""Makes the model server's own environment: Python 3.11 with seldon-core 1.17.1.

seldon-core cannot share an environment with current MLflow and River. The command

    python -m deploy.serving_environment

(or ``metadrift serve --make-environment``) makes one in a cache folder, once: the folder's name
holds a digest of the pinned requirements, so changed pins make a new environment and leave the old
one to those that still run in it.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PYTHON = "python3.11"
INSTALL_S = 3600.0
"""Longest that the installation may take: some gigabytes, the first time."""
_LOCK_NAME = "serving.lock"
_PINS = tuple(
    Path(__file__).with_name("serving") / name for name in ("requirements.txt", "constraints.txt")
)
_MADE = "made"


class ServingEnvironmentError(Exception):
    """The environment is not there or cannot be made; the message says what to do."""


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return where environments are kept: in the user's cache folder.

    >>> str(cache_folder({"XDG_CACHE_HOME": "/caches"}))
    '/caches/metadrift'
    """
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "metadrift"


def environment_folder(cache: Path) -> Path:
    """Return the folder of the environment that fits this version's requirements."""
    pins = b"".join(path.read_bytes() for path in _PINS)
    return cache.absolute() / f"serving-{hashlib.sha256(pins).hexdigest()[:12]}"


def serving_python(cache: Path) -> Path:
    """Return the environment's interpreter.

    Raises:
        ServingEnvironmentError: The environment has not been made.
    """
    folder = environment_folder(cache)
    if not (folder / _MADE).exists():
        raise ServingEnvironmentError(
            f"the model server's environment is not in {folder}; make it once with "
            "`metadrift serve --make-environment` (some gigabytes)"
        )
    return folder / "bin" / "python"


def make_environment(cache: Path) -> Path:
    """Make the environment where it is not there yet; return its interpreter.

    Safe to call from several processes: one makes it, the others wait.

    Raises:
        ServingEnvironmentError: Python 3.11 is missing, or the installation failed.
    """
    folder = environment_folder(cache)
    if not (folder / _MADE).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / _LOCK_NAME):
            if not (folder / _MADE).exists():
                _make(folder)
    return folder / "bin" / "python"


def find_python() -> str:
    """Return a Python 3.11.

    Raises:
        ServingEnvironmentError: There is none; the message holds the command that installs it.
    """
    if platform.python_version_tuple()[:2] == ("3", "11"):
        return sys.executable
    found = shutil.which(PYTHON)
    if found is None:
        how = (
            "brew install python@3.11"
            if sys.platform == "darwin"
            else "apt-get update && apt-get install -y python3.11 python3.11-venv, or, where the "
            "distribution has none, uv python install 3.11"
        )
        raise ServingEnvironmentError(
            f"the model server needs Python 3.11 (seldon-core 1.17.1 runs on no newer one), and "
            f"there is no {PYTHON} on PATH; install it: {how}"
        )
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path) -> None:
    python, pins = find_python(), str(_PINS[0])
    shutil.rmtree(folder, ignore_errors=True)  # one that was not finished
    inside = str(folder / "bin" / "python")
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is not None:
        _run([uv, "venv", "--no-project", "--python", python, str(folder)])
        _run([uv, "pip", "install", "--python", inside, "-r", pins])
    else:
        _run([python, "-m", "venv", str(folder)])
        _run([inside, "-m", "pip", "install", "--disable-pip-version-check", "-r", pins])
    _run([inside, "-c", "import seldon_core.microservice, torch, safetensors"])
    # Without bytecode each start of a server takes seconds more. Some libraries ship files that are
    # no Python of this version, so a complaint is no failure.
    lib = str(folder / "lib")
    compiled = [inside, "-m", "compileall", "-q", "-j", "0", lib]
    subprocess.run(  # noqa: S603 - our own interpreter
        compiled, check=False, capture_output=True, timeout=INSTALL_S
    )
    (folder / _MADE).write_text("complete\n", encoding="utf-8")


def _run(command: list[str]) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(  # noqa: S603 - uv or Python, by their paths
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_S,
            env=kept,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServingEnvironmentError(f"{' '.join(command[:4])}: {error}") from error
    if done.returncode:
        tail = (done.stdout + done.stderr).strip()[-3000:]
        raise ServingEnvironmentError(
            f"making the model server's environment failed at `{' '.join(command[:4])} ...`:\n"
            f"{tail}"
        )


def main() -> None:
    """Make the environment, or say why it cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m deploy.serving_environment")
    parser.add_argument(
        "--into", type=Path, default=cache_folder(os.environ), help="cache folder to make it in"
    )
    cache = parser.parse_args().into
    try:
        print(f"the model server's environment: {make_environment(cache)}")  # noqa: T201
    except ServingEnvironmentError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
