"""A process that reconciles a cluster tick by tick, and that is killed between two calls."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict

from deploy.rollout_plan import Traffic
from tests.deploy.seldon_cluster import SeldonWorld


class Ticker:
    """The process of ``tests.deploy.cluster_life``; made anew after it was killed.

    Args:
        dialect: ``v1`` or ``core2``.
        world: Where it works.
        address: Of the API server, or of a proxy before it.
    """

    def __init__(self, dialect: str, world: SeldonWorld, address: str) -> None:
        self._reach = json.dumps([dialect, address, world.token, world.namespace])
        self._process: subprocess.Popen[str] | None = None

    def tick(self, target: Traffic) -> bool | None:
        """Return whether the target is live; None when it was killed meanwhile."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.deploy.cluster_life"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._write(self._reach)
        self._write(json.dumps(asdict(target)))
        assert self._process.stdout is not None
        told = self._process.stdout.readline().strip()
        if told:
            return told == "True"
        assert self._end() == -signal.SIGKILL
        return None

    def kill(self) -> None:
        """End it without a word."""
        assert self._process is not None
        self._process.kill()

    def close(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self.kill()
            self._end()

    def _write(self, line: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _end(self) -> int:
        assert self._process is not None
        ended, self._process = self._process, None
        with ended:
            return ended.wait(60)
