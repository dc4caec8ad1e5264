"""One model version as a process: Seldon's microservice on loopback, in its own environment."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.loopback import LOOPBACK, free_ports, get
from deploy.server_process import ServerProcess

_PACKAGES = ("adapters", "deploy")
_HEALTH_S = 5.0


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where a model version lies.

    Attributes:
        folder: Holds ``manifest.json`` and ``weights.safetensors``.
        digest: ``sha256:...`` of the manifest.
    """

    folder: Path
    digest: str


@dataclass(frozen=True, slots=True)
class SeldonOptions:
    """How model servers are started.

    Attributes:
        python: Interpreter of the serving environment (``deploy.serving_environment``).
        logs: Folder for their logs.
        scratch: Folder with a short path, for sockets and temporary files.
        threads: Requests that one server answers at a time.
        python_path: Folders with the modules of one's own architectures.
    """

    python: Path
    logs: Path
    scratch: Path
    threads: int = 4
    python_path: Sequence[Path] = field(default_factory=tuple)


class SeldonProcess:
    """A started model server; ``ready`` says when it answers.

    Args:
        version: Name of the model version.
        model: Its folder.
        options: How to start it.
        port: Where it answers, on loopback; None takes a free one.
    """

    def __init__(
        self, version: str, model: ModelFolder, options: SeldonOptions, port: int | None = None
    ) -> None:
        self.version, self._digest = version, model.digest
        free, self.metrics_port, self._grpc_port = free_ports(3)
        self.port = port or free
        self._healthy_s: float | None = None
        parameters = {
            "model_dir": str(model.folder.absolute()),
            "digest": model.digest,
            "version": version,
        }
        listed = [{"name": n, "value": v, "type": "STRING"} for n, v in parameters.items()]
        paths = [_program(options.scratch), *(path.absolute() for path in options.python_path)]
        ports = {"http": self.port, "grpc": self._grpc_port, "metrics": self.metrics_port}
        self._process = ServerProcess(
            [
                *(str(options.python), "-m", "deploy.serving.launcher", "--host", LOOPBACK),
                *(word for n, p in ports.items() for word in (f"--{n}-port", str(p))),
                *("--threads", str(options.threads), "--grpc-workers", "0"),
                *("--log-level", "WARNING", "--parameters", json.dumps(listed)),
            ],
            log=options.logs / f"model-{version}.log",
            env={
                "PYTHONPATH": ":".join(map(str, paths)),
                "TMPDIR": str(options.scratch),
                "PYTHONWARNINGS": "ignore",
                "SELDON_LOG_LEVEL": "WARNING",
            },
        )

    @property
    def pid(self) -> int:
        """Its process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.exit_code is None

    def ready(self) -> bool:
        """Ask it whether its model answers; False also while it starts.

        Somebody else may have taken its port before it did, perhaps the model server of another
        daemon: what answers has to be this version.
        """
        try:
            status, body = get(self.port, "/health/status", _HEALTH_S)
        except OSError:
            return False
        if status != 200 or not self._is_ours(body):
            return False
        self._healthy_s = time.monotonic()
        return True

    def _is_ours(self, health: bytes) -> bool:
        try:
            told = json.loads(health)
        except ValueError:
            return False
        wanted = {"model_version": self.version, "digest": self._digest}
        return isinstance(told, dict) and wanted.items() <= told.items()

    def silent_for(self) -> float:
        """Return the seconds since it last answered ``ready``; 0 before its first answer."""
        return 0.0 if self._healthy_s is None else time.monotonic() - self._healthy_s

    def why_it_ended(self) -> str:
        """Return its exit code and the end of its log."""
        return (
            f"exit code {self._process.exit_code}; the end of its log: {self._process.log_tail()}"
        )

    def log_tail(self) -> str:
        """Return the end of its log."""
        return self._process.log_tail()

    def ask_to_end(self) -> None:
        """Let it finish the requests in hand; ``kill`` then ends what is left of its group."""
        self._process.ask_to_end()

    def kill(self) -> None:
        """End its whole group at once."""
        self._process.kill()


def _program(scratch: Path) -> Path:
    """Return a folder that holds the model server's packages and none of our libraries."""
    program = scratch / "program"
    program.mkdir(exist_ok=True)
    for name in _PACKAGES:
        link = program / name
        if not link.is_symlink():
            link.symlink_to(Path(__file__).absolute().parents[1] / name)
    return program
