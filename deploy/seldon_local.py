"""The local backend: real Seldon model servers on loopback behind HAProxy.

One process serves one model version and keeps doing so when it moves from one arm to the other; a
promotion changes two addresses in the router and starts nothing. ``deploy.controller.reconcile``
supervises: what has died is no longer observed, so it is applied again.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.controller import PermanentBackendError, TransientBackendError
from deploy.haproxy_router import HaproxyRouter, RouterError, Target, find_haproxy
from deploy.haproxy_socket import HaproxyError
from deploy.leaving_servers import LeavingServers
from deploy.rollout_plan import Traffic
from deploy.scratch_folder import ScratchFolder
from deploy.seldon_process import ModelFolder, SeldonOptions, SeldonProcess

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
STARTING_POLL_S = 0.2
"""How soon to look again at a server that is starting, seconds."""
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_HEALTH_EVERY_S = 2.0
_SILENT_S = 30.0
_FORGIVEN_S = 300.0
_LEAVE_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Failures:
    """How often a version's server has failed since it last ran well for five minutes.

    Attributes:
        count: Times it ended or fell silent.
        reason: What the last time looked like.
    """

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class LocalServing:
    """How the local backend is set up.

    Attributes:
        python: Interpreter of the serving environment (``deploy.serving_environment``).
        logs: Folder for the servers' logs.
        port: The router's, on loopback; 0 takes a free one.
        threads: Requests that one model server answers at a time.
        start_s: Longest that a model server may take to start, seconds.
        answer_s: Longest that a model server may take over a request, seconds.
        python_path: Folders with the modules of one's own architectures.
        router_note: File of the state that these servers belong to; the router of an earlier owner
            of it is ended. None: they belong to none.
    """

    python: Path
    logs: Path
    port: int = 0
    threads: int = 4
    start_s: float = 120.0
    answer_s: float = 10.0
    python_path: tuple[Path, ...] = ()
    router_note: Path | None = None


@dataclass(slots=True)
class _Server:
    """What is known of one version that is wanted."""

    process: SeldonProcess | None = None
    answered: bool = False
    port: int | None = None
    failures: Failures | None = None
    started_s: float = 0.0
    not_before_s: float = 0.0
    looked_s: float = 0.0


class LocalBackend:
    """Splits requests between at most two model servers; used by one thread, closed at its end.

    Args:
        serving: How it is set up.
        models: Returns where the model of a version lies; KeyError for one that is not known.
        clock: Seconds that only rise.
        failures: Of an earlier life, by version; those that are wanted again go on from there.

    Raises:
        PermanentBackendError: HAProxy is missing; the message says how to install it.
    """

    def __init__(
        self,
        serving: LocalServing,
        models: Callable[[str], ModelFolder],
        clock: Callable[[], float] = time.monotonic,
        failures: Mapping[str, Failures] | None = None,
    ) -> None:
        self._serving, self._models, self._clock = serving, models, clock
        try:
            binary = find_haproxy()
        except RouterError as error:
            raise PermanentBackendError(str(error)) from error
        # Paths of sockets may have about a hundred bytes; a state folder's path may be longer.
        self._scratch = ScratchFolder()
        self._options = SeldonOptions(
            python=serving.python,
            logs=serving.logs,
            scratch=self._scratch.path,
            threads=serving.threads,
            python_path=serving.python_path,
        )
        self.router = HaproxyRouter(
            scratch=self._scratch.path,
            log=serving.logs / "haproxy.log",
            port=serving.port,
            answer_s=serving.answer_s,
            binary=binary,
            note=serving.router_note,
        )
        known = (failures or {}).items()
        self._servers = {version: _Server(failures=failed) for version, failed in known}
        self._leaving = LeavingServers()
        self._shadow = False

    # ---------------------------------------------------------------- the protocol

    def apply(self, traffic: Traffic) -> None:
        """Start what is missing, route, then end what is no longer wanted.

        Waits for no server: while one starts it raises, and a later call goes on. Until a candidate
        answers, stable has all requests. What has to leave ends the requests that it has in hand
        meanwhile, and is killed by a later call after 15 seconds.

        Raises:
            TransientBackendError: A server is starting, or it has failed and is tried again later,
                each time after a longer wait.
            PermanentBackendError: A version is not known, or HAProxy cannot run.
        """
        wanted = [traffic.stable, *([traffic.candidate] if traffic.candidate else [])]
        folders = {version: self._folder(version) for version in wanted}
        self._shadow = traffic.shadow
        broken = None
        try:
            self.router.start()
            stable = self._target(traffic.stable, folders)
            candidate = None
            if traffic.candidate is not None:
                try:
                    candidate = self._target(traffic.candidate, folders)
                except TransientBackendError as error:
                    broken = error
            self.router.route(stable, candidate, traffic.candidate_weight if candidate else 0)
        except HaproxyError as error:
            raise TransientBackendError(str(error), retry_in_s=_FIRST_WAIT_S) from error
        except RouterError as error:
            raise TransientBackendError(str(error), retry_in_s=_LONGEST_WAIT_S) from error
        self._end_all_but(wanted)
        if broken is not None:
            raise broken

    def observed(self) -> Traffic | None:
        """Return the split as HAProxy has it, as far as living servers stand behind it.

        A candidate that is starting or dead is there with weight 0 (which no target asks for, but
        as a shadow); without a living stable server nothing is.

        Raises:
            TransientBackendError: HAProxy cannot be asked.
        """
        self._leaving.clear_away(self._clock())
        try:
            routes = self.router.routes()
        except HaproxyError as error:
            raise TransientBackendError(str(error), retry_in_s=_FIRST_WAIT_S) from error
        living = {
            server.process.port: version
            for version, server in self._servers.items()
            if self._lives(version, server) and server.process is not None and server.answered
        }
        if routes is None or routes.stable not in living:
            return None
        stable = living[routes.stable]
        if routes.candidate is None or routes.candidate not in living:
            waits = next((version for version in self._servers if version != stable), None)
            return Traffic(stable, waits)
        shadow = self._shadow and routes.candidate_weight == 0
        return Traffic(stable, living[routes.candidate], routes.candidate_weight, shadow=shadow)

    # ---------------------------------------------------------------- life

    @property
    def logs(self) -> Path:
        """Where the servers' logs are."""
        return self._serving.logs

    def failures(self) -> dict[str, Failures]:
        """Return the failures of the versions that are wanted."""
        return {v: s.failures for v, s in self._servers.items() if s.failures is not None}

    def processes(self) -> dict[str, SeldonProcess]:
        """Return the model servers that were started, by version."""
        return {v: s.process for v, s in self._servers.items() if s.process is not None}

    def close(self) -> None:
        """End the router, then the model servers, then remove their temporary files.

        Takes some 20 seconds at most: the servers end side by side.
        """
        try:
            self.router.stop()
        finally:
            self._end_all_but([])
            while not self._leaving.clear_away(self._clock()):
                time.sleep(_LEAVE_POLL_S)
            self._scratch.remove()

    # ---------------------------------------------------------------- one server

    def _folder(self, version: str) -> ModelFolder:
        if not _VERSION.fullmatch(version):
            raise PermanentBackendError(
                f"model version {version[:80]!r} cannot be served: use letters, digits, . _ and -, "
                "at most 63 of them"
            )
        try:
            return self._models(version)
        except KeyError as error:
            raise PermanentBackendError(
                f"model version {version!r} is not known here: its folder was removed, or the "
                "traffic asks for a version of another state"
            ) from error

    def _target(self, version: str, folders: dict[str, ModelFolder]) -> Target:
        """Return a server that answers.

        Raises:
            TransientBackendError: It does not answer yet.
        """
        server = self._servers.setdefault(version, _Server())
        if server.process is None or not self._lives(version, server):
            self._start(version, server, folders[version])
        process = server.process
        if process is not None and not server.answered:
            self._look_at_start(version, server, process)
        if process is None or not server.answered:
            raise TransientBackendError(
                f"the server of {version} is starting", retry_in_s=STARTING_POLL_S
            )
        return Target(version, process.port)

    def _start(self, version: str, server: _Server, folder: ModelFolder) -> None:
        now_s = self._clock()
        if server.failures is not None and now_s < server.not_before_s:
            raise TransientBackendError(
                _told(version, server.failures), retry_in_s=server.not_before_s - now_s
            )
        try:
            server.process = SeldonProcess(version, folder, self._options, server.port)
        except OSError as error:
            self._failed(version, server, f"it cannot be started: {error}")
            raise TransientBackendError(str(error), retry_in_s=_LONGEST_WAIT_S) from error
        server.started_s, server.answered = now_s, False

    def _look_at_start(self, version: str, server: _Server, process: SeldonProcess) -> None:
        now_s, longest_s = self._clock(), self._serving.start_s
        if process.ready():
            server.answered, server.looked_s, server.port = True, now_s, process.port
        elif now_s - server.started_s > longest_s:
            reason = f"it did not answer within {longest_s:g} s: {process.log_tail()}"
            raise self._failed(version, server, reason)

    def _lives(self, version: str, server: _Server) -> bool:
        """Whether a server still runs; one that has ended or fallen silent is cleared away."""
        process, now_s = server.process, self._clock()
        if process is None:
            return False
        if not process.alive:
            self._failed(version, server, process.why_it_ended())
            return False
        if server.answered and now_s - server.looked_s >= _HEALTH_EVERY_S:
            server.looked_s = now_s
            if process.ready():
                if now_s - server.started_s >= _FORGIVEN_S:
                    server.failures = None
            elif process.silent_for() > _SILENT_S:
                self._failed(version, server, f"it has not answered for {_SILENT_S:g} s")
                return False
        return True

    def _failed(self, version: str, server: _Server, reason: str) -> TransientBackendError:
        if server.process is not None:
            server.process.kill()
            # Requests that wait for its return ask at the port they know. One that did not come up
            # may have lost its port to another process.
            server.port = server.process.port if server.answered else None
            server.process = None
        count = 1 + (server.failures.count if server.failures else 0)
        server.failures = Failures(count, reason)
        wait_s = min(_FIRST_WAIT_S * 2.0 ** (count - 1), _LONGEST_WAIT_S)
        server.not_before_s = self._clock() + wait_s
        return TransientBackendError(_told(version, server.failures), retry_in_s=wait_s)

    def _end_all_but(self, wanted: list[str]) -> None:
        for version in [v for v in self._servers if v not in wanted]:
            process = self._servers.pop(version).process
            if process is not None:
                self._leaving.add(process, self._clock())


def _told(version: str, failures: Failures) -> str:
    return f"the server of {version} has failed {failures.count} times; last: {failures.reason}"
