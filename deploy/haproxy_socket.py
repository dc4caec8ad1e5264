"""HAProxy's runtime socket: commands on one line take effect together."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CALL_S = 10.0
_LONGEST_ANSWER = 2**20
_WELCOME = ("IP changed", "port changed", "no need to change", "nothing changed")
"""What ``set server ... addr`` says when all is well; other commands then say nothing."""


class HaproxyError(Exception):
    """HAProxy cannot be reached, or refused a command; the message is its own."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server of a backend as HAProxy has it.

    Attributes:
        port: Where its requests go.
        weight: Its share; 0 takes no new requests.
        in_use: It is not in maintenance.
    """

    port: int
    weight: int
    in_use: bool


@dataclass(frozen=True, slots=True)
class ServerTries:
    """What one server of a backend has been given since HAProxy started.

    Attributes:
        done: Tries that are over, but for those that the client gave up; a request that was sent
            again is several.
        answered: Of them, those with an answer below 500.
    """

    done: int
    answered: int


class HaproxySocket:
    """The socket at ``path``; each call connects anew, and times out after ten seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def change(self, commands: Sequence[str]) -> None:
        """Send commands that change something, all on one line.

        Raises:
            HaproxyError: HAProxy is away, or one of them was refused.
        """
        said = [line.strip() for line in self._call(";".join(commands)).splitlines()]
        refused = [line for line in said if line and not line.startswith(_WELCOME)]
        if refused:
            raise HaproxyError(f"HAProxy refused {'; '.join(commands)}: {'; '.join(refused)}")

    def servers(self) -> dict[str, ServerState]:
        """Return all servers by ``backend/name``.

        Raises:
            HaproxyError: HAProxy is away, or answers something else.
        """
        answer = self._call("show servers state")
        lines = answer.splitlines()
        header = next((line for line in lines if line.startswith("# be_id")), None)
        if header is None:
            raise HaproxyError(f"HAProxy shows no servers: {' '.join(lines)[:200]}")
        if not answer.endswith("\n\n"):
            raise HaproxyError("HAProxy's list of servers ends in the middle")
        columns = header.removeprefix("# ").split()
        found = {}
        for line in lines[lines.index(header) + 1 :]:
            row = dict(zip(columns, line.split(), strict=False))
            if "srv_port" in row:
                found[f"{row['be_name']}/{row['srv_name']}"] = ServerState(
                    port=int(row["srv_port"]),
                    weight=int(row["srv_uweight"]),
                    in_use=int(row["srv_admin_state"]) & _MAINTENANCE == 0,
                )
        return found

    def tries(self) -> dict[str, ServerTries]:
        """Return what each server was given, by ``backend/name``.

        Raises:
            HaproxyError: HAProxy is away, or answers something else.
        """
        answer = self._call("show stat")
        lines = answer.splitlines()
        if not lines or not lines[0].startswith("# pxname,") or not answer.endswith("\n\n"):
            raise HaproxyError(f"HAProxy shows no statistics: {answer[:200]!r}")
        columns = lines[0].removeprefix("# ").split(",")
        found = {}
        for line in lines[1:]:
            row = dict(zip(columns, line.split(","), strict=False))
            if row.get("svname") not in (None, "FRONTEND", "BACKEND"):
                proper = (f"hrsp_{kind}" for kind in ("1xx", "2xx", "3xx", "4xx"))
                found[f"{row['pxname']}/{row['svname']}"] = ServerTries(
                    done=sum(
                        sign * int(row[name] or 0)
                        for name, sign in (("stot", 1), ("scur", -1), ("cli_abrt", -1))
                    ),
                    answered=sum(int(row[name] or 0) for name in proper),
                )
        return found

    def _call(self, line: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CALL_S)
                connection.connect(str(self._path))
                connection.sendall(line.encode() + b"\n")
                parts: list[bytes] = []
                while sum(map(len, parts)) < _LONGEST_ANSWER:
                    part = connection.recv(65_536)
                    if not part:
                        return b"".join(parts).decode(errors="replace")
                    parts.append(part)
        except OSError as error:
            raise HaproxyError(f"HAProxy's socket {self._path}: {error}") from error
        raise HaproxyError(f"HAProxy's answer to {line[:80]!r} is over 1 MiB")


_MAINTENANCE = 0x01 | 0x02 | 0x20
"""Bits of srv_admin_state: forced, inherited, by resolution. 0x04 tells how the file began."""
