"""A process that makes the local backend's traffic follow a target, to be killed at any call.

``python -m tests.deploy.local_life FOLDER PORT STABLE [CANDIDATE WEIGHT]`` prints a line once the
target is live and goes on supervising until it is killed or its input ends.
"""

import json
import select
import sys
import time
from pathlib import Path

from deploy.controller import reconcile
from deploy.loopback import get
from deploy.rollout_plan import Traffic
from deploy.seldon_local import LocalBackend, LocalServing
from deploy.seldon_process import ModelFolder
from tests.servers.quick_model_server import quick_python


def backend_in(folder: Path, port: int) -> LocalBackend:
    """Return a backend of quick model servers."""
    serving = LocalServing(
        python=quick_python(folder), logs=folder / "logs", port=port, start_s=60.0
    )
    return LocalBackend(serving, lambda version: ModelFolder(folder, f"sha256:{version}"))


def answered_by(port: int) -> str:
    """Ask the router something; whatever goes wrong inside, it is answered."""
    status, body = get(port, "/metadata", 60.0)
    assert status == 200, body
    version: str = json.loads(body)["meta"]["tags"]["model_version"]
    return version


def main(folder: str, port: str, stable: str, candidate: str = "", weight: str = "0") -> None:
    """Supervise until the input ends."""
    target = Traffic(stable, candidate or None, int(weight))
    backend = backend_in(Path(folder), int(port))
    told = False
    try:
        while not select.select([sys.stdin], [], [], 0)[0]:
            if reconcile(target, backend).live and not told:
                told = True
                print("live", flush=True)
            time.sleep(0.02)
    finally:
        backend.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
