"""Drains the registry's part of the outbox, oldest first, one effect at a time."""

from collections.abc import Callable

import structlog

from pipeline.engine_state import EngineState
from pipeline.model_shelf import ModelShelf
from pipeline.records import RegistryNews
from pipeline.registry_process import JobDone, JobFailed, RegistryJob, RegistryProcess, Watch
from pipeline.state_file import QueuedEffect, StateFile

KINDS = ("episode", "version", "alias", "rollout", "review-answer")


class RegistryOutbox:
    """Between the state file and the registry's process.

    Args:
        file: Holds the outbox.
        shelf: Where model folders lie.
        process: Carries effects out.
        dropped: Called for each effect that is given up.
    """

    def __init__(
        self,
        file: StateFile,
        shelf: ModelShelf,
        process: RegistryProcess,
        dropped: Callable[[], None],
    ) -> None:
        self._file, self._shelf, self._process, self._dropped = file, shelf, process, dropped
        self._log = structlog.get_logger("registry")
        self._current: QueuedEffect | None = None
        self._carried_out: list[QueuedEffect] = []

    @property
    def away(self) -> str:
        """Why the registry cannot be reached; empty while it can."""
        return self._process.away

    def turn(self, state: EngineState) -> list[RegistryNews]:
        """Take what has come back, send the next effect; return news for the engine.

        An effect leaves the outbox one turn after its news was handed over, so that a crash in
        between repeats it (its key makes that harmless) instead of losing the news.
        """
        if self._carried_out:
            self._file.done(self._carried_out)
            self._carried_out = []
        news: list[RegistryNews] = []
        for reply in self._process.collect():
            match reply:
                case RegistryNews():
                    news.append(reply)
                case JobDone():
                    news += self._done(reply)
                case JobFailed():
                    self._failed(reply)
        if news or self._carried_out:
            return news
        if self._current is None and self._process.ready:
            waiting = self._file.pending(KINDS, limit=1)
            self._process.watch(_watch(state, settled=not waiting))
            if waiting:
                self._send(waiting[0], state)
        return news

    def _send(self, queued: QueuedEffect, state: EngineState) -> None:
        effect, versions = queued.effect, state.core.versions
        payload = dict(effect.payload)
        number = int(str(payload.get("number", 0)))
        version = versions.get(number)
        match effect.kind:
            case "version" if version is not None:
                payload["folder"] = str(self._shelf.model_folder(version.digest))
            case "alias":
                if number and (version is None or not version.registered):
                    self._drop(queued, f"version {number} was never registered")
                    return
                payload["registered"] = version.registered if version else ""
            case "rollout":
                record = payload["record"]
                if version is None or not version.registered or not isinstance(record, dict):
                    self._drop(queued, f"version {number} was never registered")
                    return
                payload["record"] = {**record, "version": version.registered}
            case "review-answer":
                payload["packet"] = next(
                    (d for v, d in _reviews(state) if version and v == version.registered), ""
                )
            case _:
                pass
        self._current = queued
        self._process.submit(RegistryJob(queued.number, effect.kind, payload))

    def _done(self, done: JobDone) -> list[RegistryNews]:
        current, self._current = self._current, None
        if current is None or current.number != done.number:
            return []
        self._carried_out.append(current)
        if current.effect.kind != "version":
            return []
        number = int(str(current.effect.payload["number"]))
        return [RegistryNews("registered", number, done.registered)]

    def _failed(self, failed: JobFailed) -> None:
        current, self._current = self._current, None
        if current is None:
            return
        if failed.retry_in_s is None:
            self._drop(current, failed.error)
        else:
            self._log.warning("registry away", error=failed.error, retry_in_s=failed.retry_in_s)

    def _drop(self, queued: QueuedEffect, why: str) -> None:
        """Give an effect up that can never succeed; it is logged and counted."""
        self._dropped()
        self._log.error("registry effect dropped", key=queued.effect.key, error=why)
        self._file.done([queued])

    def close(self) -> None:
        """End the process; what is queued stays queued."""
        self._process.close()


def _watch(state: EngineState, *, settled: bool) -> Watch:
    """Return what to look for; the alias is only judged once nothing waits to change it."""
    core = state.core
    numbers = {v.registered: v.number for v in core.versions.values() if v.registered}
    champion = core.versions.get(core.routes["*"].champion)
    return Watch(champion.registered if champion and settled else "", _reviews(state), numbers)


def _reviews(state: EngineState) -> list[tuple[str, str]]:
    core, route = state.core, state.core.routes["*"]
    if route.rollout is None:
        return []
    candidate = core.versions[route.rollout_candidate]
    digest = core.packets.get(candidate.episode or 0)
    return [(candidate.registered, digest)] if candidate.registered and digest else []
