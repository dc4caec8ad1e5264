"""Apache Kafka's jars for the tests, fetched once by Maven into the project's cache folder.

``python -m tests.servers.kafka_jars`` does it ahead of the tests (``make test`` calls it).
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

_POM = Path(__file__).with_name("pom.xml")
_NEWEST_TOO_OLD_JAVA = 16
_FETCH_S = 900
_KEG_FOLDERS = ("/opt/homebrew/opt", "/usr/local/opt")  # brew does not link its Java


class MissingToolError(RuntimeError):
    """Java or Maven is not there; the message holds the command that installs it."""


def _install_hint() -> str:
    if sys.platform == "darwin":
        return "brew install openjdk@17 maven"
    return "apt-get update && apt-get install -y openjdk-17-jdk-headless maven"


def java() -> str:
    """Return the path of a Java 17 or newer.

    Raises:
        MissingToolError: There is none on PATH, in JAVA_HOME or among brew's kegs.
    """
    home = os.environ.get("JAVA_HOME")
    found = [
        *([f"{home}/bin/java"] if home else []),
        *filter(None, [shutil.which("java")]),
        *(f"{keg}/{name}/bin/java" for keg in _KEG_FOLDERS for name in ("openjdk@17", "openjdk")),
    ]
    tried = []
    for path in found:
        if not Path(path).exists():
            continue
        asked = subprocess.run(
            [path, "-version"], check=False, capture_output=True, text=True, timeout=60
        )
        version = re.search(r'version "(\d+)', asked.stderr + asked.stdout)
        if version and int(version[1]) > _NEWEST_TOO_OLD_JAVA:
            return path
        tried.append(f"{path} is version {version[1] if version else 'unknown'}")
    raise MissingToolError(
        f"the tests' Apache Kafka needs Java 17 or newer ({'; '.join(tried) or 'none found'}); "
        f"install it: {_install_hint()}"
    )


def kafka_version() -> str:
    """Return the version that pom.xml names."""
    found = ElementTree.parse(_POM).findtext(".//{*}kafka.version")  # noqa: S314 (our own file)
    if not found:
        raise ValueError(f"{_POM} names no kafka.version")
    return found


def kafka_jars() -> Path:
    """Return the folder of Kafka's jars, fetching them first where they are not there yet.

    Raises:
        MissingToolError: Java or Maven is missing.
    """
    cache = Path(__file__).parents[2] / ".cache"
    folder = cache / f"kafka-{kafka_version()}"
    if folder.exists():
        return folder
    cache.mkdir(exist_ok=True)
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():  # another test run may have fetched them while we waited
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingToolError(
            f"fetching Apache Kafka for the tests needs Maven; install it: {_install_hint()}"
        )
    java_home = str(Path(java()).resolve().parents[1])
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        jars = Path(scratch) / "jars"
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
        fetched = subprocess.run(
            [maven, "-B", "-q", "-f", str(_POM), *goal],
            env={**os.environ, "JAVA_HOME": java_home},
            check=False,
            capture_output=True,
            text=True,
            timeout=_FETCH_S,
        )
        if fetched.returncode != 0:
            raise RuntimeError(f"Maven could not fetch Apache Kafka:\n{fetched.stdout[-4000:]}")
        jars.rename(folder)  # complete or absent, never half


if __name__ == "__main__":
    try:
        print(f"Apache Kafka {kafka_version()}: {kafka_jars()}, run by {java()}")
    except MissingToolError as error:
        sys.exit(f"error: {error}")
