"""The loopback interface: free ports, and one bounded GET."""

import http.client
import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Return different ports that nothing listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def get(port: int, path: str, timeout_s: float) -> tuple[int, bytes]:
    """Return status and body of ``GET path``.

    Raises:
        OSError: Nothing answers there in time, or what answers is no HTTP server.
    """
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"port {port}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
