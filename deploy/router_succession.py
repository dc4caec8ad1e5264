"""Takes requests away from the router of an earlier owner that was stopped and not killed.

Its HAProxy goes on answering with the versions that it had, though somebody else owns the model now
(SIGSTOP, a suspended debugger, a frozen laptop). It is a process of its own and still listens to
its socket, so whoever comes next takes its port away: new requests find the new router, or nobody.
"""

from contextlib import suppress
from pathlib import Path

from deploy.haproxy_config import ARMS, admin
from deploy.haproxy_socket import HaproxyError, HaproxySocket

ROUTER = "router"
"""The frontend's name in the configuration."""


def succeed(note: Path, folder: Path) -> None:
    """End the router that ``note`` names, and note down ours.

    Args:
        note: File in the state's folder, with the path of a router's folder.
        folder: Of our router.

    Raises:
        OSError: The note cannot be written.
    """
    try:
        earlier = Path(note.read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        earlier = folder
    if earlier != folder and admin(earlier).is_socket():
        kept = (f"shutdown sessions server predictions/{arm}" for arm in ARMS)
        # An error says that it is dead, or stopped like its owner: it answers nobody then. A port
        # that it still holds is told when ours does not start.
        with suppress(HaproxyError):
            HaproxySocket(admin(earlier)).change([f"shutdown frontend {ROUTER}", *kept])
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{folder}\n", encoding="utf-8")
