"""HAProxy as a child process that draws one of two ports for each request, by weight."""

import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.haproxy_config import ARMS, admin, haproxy_config, versions
from deploy.haproxy_socket import HaproxyError, HaproxySocket, ServerTries
from deploy.loopback import LOOPBACK, free_ports
from deploy.router_succession import succeed
from deploy.server_process import ServerProcess

_START_S = 30.0
_AWAIT_S = 2.0
_DRAIN_S = 5.0
AGAIN_S = 5.0
"""After a start that failed, the next one comes no sooner, seconds."""
SILENT_S = 30.0
"""One whose socket says nothing for so long has hung: it is killed, seconds."""
_SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"


class RouterError(Exception):
    """HAProxy is missing or did not start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model server that takes requests: its version's name and its port."""

    version: str
    port: int


@dataclass(frozen=True, slots=True)
class Routes:
    """Where requests go: ``candidate`` is None where only stable answers."""

    stable: int
    candidate: int | None
    candidate_weight: int


def find_haproxy() -> str:
    """Return the path of HAProxy.

    Raises:
        RouterError: There is none; the message holds the command that installs it.
    """
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_FOLDERS}")
    if found is None:
        how = (
            "brew install haproxy"
            if sys.platform == "darwin"
            else "apt-get update && apt-get install -y haproxy"
        )
        raise RouterError(
            f"the local serving backend needs HAProxy 2.6 or newer; install it: {how}"
        )
    return found


class HaproxyRouter:
    """One HAProxy; its port stays over restarts, its routes do not.

    Args:
        scratch: Folder with a short path, for the socket.
        log: Gets what it prints.
        port: Where it listens on loopback; 0 takes a free port.
        answer_s: Longest that a model server may take over a request, seconds.
        binary: Path of HAProxy.
        note: File that names the router of an earlier owner, which is ended, and then this one;
            None: there are no others.
    """

    def __init__(
        self,
        *,
        scratch: Path,
        log: Path,
        port: int,
        answer_s: float,
        binary: str,
        note: Path | None = None,
    ) -> None:
        self.port = port or free_ports(1)[0]
        self._scratch, self._log, self._binary = scratch, log, binary
        self._answer_s, self._note = answer_s, note
        self._socket = HaproxySocket(admin(scratch))
        self._process: ServerProcess | None = None
        self._answered = False
        self._started_s = 0.0
        self._failed: tuple[float, str] | None = None
        self._silent_since_s: float | None = None

    @property
    def url(self) -> str:
        """Where requests are sent."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process group, while it runs."""
        return self._process.pid if self._process is not None and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.exit_code is None

    def start(self) -> None:
        """Start it where it does not run, with no routes; wait two seconds at most.

        Raises:
            HaproxyError: It does not answer yet; a later call looks again.
            RouterError: It ended, or did not answer for half a minute and was ended; within the
                next five seconds the same again, without a try.
        """
        if not self.alive:
            if self._failed is not None and time.monotonic() < self._failed[0] + AGAIN_S:
                raise RouterError(self._failed[1])
            self.stop()
            self._process = self._begin()
            self._answered, self._started_s = False, time.monotonic()
            self._silent_since_s = None
        deadline_s = time.monotonic() + _AWAIT_S
        while not self._answered:
            try:
                self._socket.servers()
                self._answered, self._failed = True, None
            except HaproxyError as error:
                now_s = time.monotonic()
                if not self.alive or now_s >= self._started_s + _START_S:
                    raise self._not_started(error) from error
                if now_s >= deadline_s:
                    raise
                time.sleep(0.05)

    def _begin(self) -> ServerProcess:
        configuration = self._scratch / "haproxy.cfg"
        text = haproxy_config(port=self.port, folder=self._scratch, answer_s=self._answer_s)
        command = [self._binary, "-db", "-f", str(configuration)]
        try:
            configuration.write_text(text, encoding="utf-8")
            versions(self._scratch).write_text("", encoding="utf-8")
            if self._note is not None:
                succeed(self._note, self._scratch)
            return ServerProcess(command, log=self._log, env={})
        except OSError as error:
            raise RouterError(f"{self._binary} cannot be run: {error}") from error

    def _not_started(self, error: HaproxyError) -> RouterError:
        tail = self._process.log_tail() if self._process is not None else ""
        self.stop()
        told = f"HAProxy did not start on {self.url} ({error}); the end of its log: {tail}"
        self._failed = (time.monotonic(), told)
        return RouterError(told)

    def routes(self) -> Routes | None:
        """Return where requests go now; None where nothing takes them.

        Raises:
            HaproxyError: It cannot be asked; after half a minute of that it is killed, so that
                ``start`` begins anew.
        """
        if not self.alive:
            return None
        try:
            servers = self._socket.servers()
        except HaproxyError as error:
            raise self._silent(error) from error
        self._silent_since_s = None
        stable, candidate = (servers[f"predictions/{arm}"] for arm in ARMS)
        if not stable.in_use or stable.weight + candidate.weight != 100:
            return None
        port = servers["stable/model"].port
        if not candidate.in_use:
            return Routes(port, None, 0)
        return Routes(port, servers["candidate/model"].port, candidate.weight)

    def _silent(self, error: HaproxyError) -> HaproxyError:
        """Return what to raise where it does not answer; kill it if that lasts."""
        now_s = time.monotonic()
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        if not self._answered or now_s - self._silent_since_s < SILENT_S:
            return error
        if self._process is not None:
            self._process.kill()
        return HaproxyError(f"HAProxy said nothing for {SILENT_S:g} s and was killed: {error}")

    def tries(self) -> dict[str, ServerTries]:
        """Return what each arm was given since HAProxy started, by ``ARMS``.

        Raises:
            HaproxyError: It cannot be asked.
        """
        found = self._socket.tries()
        return {arm: found[f"predictions/{arm}"] for arm in ARMS}

    def route(self, stable: Target, candidate: Target | None, candidate_weight: int) -> None:
        """Draw the candidate for each request with ``candidate_weight`` percent, else stable.

        Raises:
            HaproxyError: It refused, cannot be reached, or goes on as before: what it does is read
                back, since a lost command and one that was carried out both say nothing.
        """
        now = self.routes()
        wanted = Routes(stable.port, candidate.port if candidate else None, candidate_weight)
        if now == wanted:
            return
        weights = _weights(candidate_weight)
        if now is not None and (now.stable, now.candidate) == (wanted.stable, wanted.candidate):
            self._change(weights, wanted)
            return
        # One line takes effect as a whole. A candidate that changes begins with no share.
        by_version = versions(self._scratch)
        commands = [*_weights(0), *_server("stable", stable.port)]
        entries = [f"clear map {by_version}", f"add map {by_version} {stable.version} stable"]
        if candidate is None:
            commands.append("set server predictions/candidate state maint")
            commands.append("set server candidate/model state maint")
        else:
            commands += _server("candidate", candidate.port)
            # The one before it may have been taken out; this one is not judged by that.
            commands.append("set server predictions/candidate health up")
            entries.append(f"add map {by_version} {candidate.version} candidate")
        self._change([*commands, *entries, *weights], wanted)

    def _change(self, commands: list[str], wanted: Routes) -> None:
        self._socket.change(commands)
        found = self.routes()
        if found != wanted:
            raise HaproxyError(f"HAProxy did not take a change: it has {found}, not {wanted}")

    def stop(self) -> None:
        """Let it finish the requests in hand, then end it."""
        if self._process is not None:
            self._process.stop(_DRAIN_S, signal.SIGUSR1)
            self._process = None


def _weights(candidate: int) -> list[str]:
    return [
        f"set weight predictions/stable {100 - candidate}",
        f"set weight predictions/candidate {candidate}",
    ]


def _server(arm: str, port: int) -> list[str]:
    return [
        f"set server {arm}/model addr {LOOPBACK} port {port}",
        f"set server {arm}/model state ready",
        f"set server predictions/{arm} state ready",
    ]
