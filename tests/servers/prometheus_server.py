"""A real Prometheus for the tests: it scrapes ports on loopback once a second."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml

from tests.servers.kube_servers import PROMETHEUS, go_binary
from tests.servers.leashed_process import LeashedProcess
from tests.servers.ports import LOOPBACK, free_ports

_START_S = 120.0


class PrometheusServer:
    """One server over a folder of its own; a context manager.

    Args:
        folder: For its data and its log.
        targets: What to scrape, by port: labels that are added to each sample.

    Attributes:
        url: Its address.
    """

    def __init__(self, folder: Path, targets: Mapping[int, Mapping[str, str]]) -> None:
        (port,) = free_ports(1)
        self.url = f"http://{LOOPBACK}:{port}"
        binary = go_binary(PROMETHEUS)
        folder.mkdir(parents=True)
        static = [
            {"targets": [f"{LOOPBACK}:{p}"], "labels": dict(labels)}
            for p, labels in targets.items()
        ]
        job = {"job_name": "model-servers", "metrics_path": "/metrics", "static_configs": static}
        often = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        written = {"global": often, "scrape_configs": [job]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(written))
        self._argv = [
            str(binary),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
        ]
        self._log = folder / "prometheus.log"

    def __enter__(self) -> Self:
        self._process = LeashedProcess(self._argv, log=self._log)
        try:
            self._process.wait_for(self._ready, what="starting", within_s=_START_S)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/-/ready", timeout=5, trust_env=False).status_code == 200
        return False
