"""HAProxy for the tests: Debian's package, installed where we may.

``python -m tests.servers.haproxy`` does it ahead of the tests (``make test`` calls it).
"""

import os
import shutil
import subprocess
import sys

from deploy.haproxy_router import RouterError, find_haproxy

_INSTALL_S = 300


def make_sure_of_haproxy() -> str:
    """Return the path of HAProxy, installing it first where it is missing and we are root.

    Raises:
        RouterError: It is missing and cannot be installed; the message holds the command.
    """
    try:
        return find_haproxy()
    except RouterError:
        apt = shutil.which("apt-get")
        if apt is None or os.geteuid() != 0:
            raise
    for words in (["update"], ["install", "-y", "--no-install-recommends", "haproxy"]):
        done = subprocess.run(
            [apt, *words],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
        )
        if done.returncode:
            tail = (done.stdout + done.stderr)[-2000:]
            print(f"apt-get {' '.join(words)} ended with {done.returncode}:\n{tail}")
    return find_haproxy()


if __name__ == "__main__":
    try:
        print(f"HAProxy: {make_sure_of_haproxy()}")
    except (RouterError, subprocess.TimeoutExpired) as error:
        sys.exit(f"error: {error}")
