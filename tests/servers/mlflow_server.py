"""A real ``mlflow server`` for the tests: one worker on loopback, SQLite and a local folder."""

import sys
from pathlib import Path

from tests.servers.leashed_process import LeashedProcess
from tests.servers.ports import LOOPBACK, free_ports, is_open

_START_S = 120.0  # most of it is importing mlflow, slow without bytecode
_STOP_S = 20.0


class MLflowServer:
    """Start, stop and restart one server; port and data stay over restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: LeashedProcess | None = None
        (self.port,) = free_ports(1)
        self.uri = f"http://{LOOPBACK}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.alive

    def start(self) -> None:
        """Start the server and wait until it serves.

        Raises:
            ServerError: It did not come up.
        """
        if self.alive:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        store = f"sqlite:///{self._folder / 'mlflow.db'}"
        artifacts = (self._folder / "artifacts").as_uri()
        process = LeashedProcess(
            [
                *[str(Path(sys.executable).with_name("mlflow")), "server"],
                *["--host", LOOPBACK, "--port", str(self.port), "--workers", "1"],
                *["--backend-store-uri", store, "--artifacts-destination", artifacts],
            ],
            log=self._folder / "server.log",
            # The job runner is for features that nothing here uses, in six more processes.
            env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        self._process = process
        try:
            process.wait_for(lambda: is_open(self.port), what="starting", within_s=_START_S)
        except BaseException:
            process.kill()
            raise

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self._process is not None and self._process.alive:
            self._process.terminate(within_s=_STOP_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the server and its worker."""
        if self._process is not None:
            self._process.kill()
            self._process = None
