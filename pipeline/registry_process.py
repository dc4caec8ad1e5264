"""The process that talks to the registry, so that a slow or dead server never holds up the loop.

The daemon sends one effect at a time from its outbox and takes the answers as they come; a server
that is away is asked again later. Between effects this process looks for reviews and for an alias
that was moved by hand.
"""

import multiprocessing
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import assert_never

import msgspec

from deploy.registry import Registry, RegistryError, ReviewAnswer, ReviewRequest, TransientError
from deploy.registry_records import EpisodeRecord, ModelVersionRecord, RolloutRecord
from pipeline.records import EffectKind, RegistryNews

_SPAWN = multiprocessing.get_context("spawn")

LONGEST_CALL_S = 180.0


@dataclass(frozen=True, slots=True)
class RegistryJob:
    """One effect on its way to the registry.

    Attributes:
        number: Of the effect in the outbox.
        kind: What it is.
        payload: Its facts, with the registry's version numbers and the folder filled in.
    """

    number: int
    kind: EffectKind
    payload: dict[str, object]


@dataclass(frozen=True, slots=True)
class Watch:
    """What to look for between jobs.

    Attributes:
        champion: Registry version that the alias should be on; empty while unknown.
        reviews: (registry version, packet digest) of candidates that a person may answer.
        versions: Our number by registry version.
    """

    champion: str = ""
    reviews: list[tuple[str, str]] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobDone:
    """A job was carried out; ``registered`` is the registry's number of a new version."""

    number: int
    registered: str = ""


@dataclass(frozen=True, slots=True)
class JobFailed:
    """A job was not carried out; without ``retry_in_s`` it never will be."""

    number: int
    error: str
    retry_in_s: float | None


class _Call(msgspec.Struct, tag=True):
    job: RegistryJob | None
    watch: Watch


class _Reply(msgspec.Struct, tag=True):
    done: JobDone | None = None
    failed: JobFailed | None = None
    news: RegistryNews | None = None
    away: str = ""


class RegistryProcess:
    """The daemon's end of it.

    Args:
        uri: Of the tracking store.
        artifacts: Folder for artifacts beside a SQLite store.
        model: Registered model's name.
        poll_s: Seconds between looks for reviews and aliases.
    """

    def __init__(self, uri: str, artifacts: Path, model: str, poll_s: float) -> None:
        self._args = (uri, str(artifacts), model, poll_s)
        self._job: RegistryJob | None = None
        self._deadline_s = self._not_before_s = 0.0
        self._watch = Watch()
        self.away = ""
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=serve, args=(theirs, *self._args), name="metadrift-registry", daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def ready(self) -> bool:
        """Whether a job can be submitted now."""
        return self._job is None and time.monotonic() >= self._not_before_s

    def watch(self, watch: Watch) -> None:
        """Change what is looked for between jobs."""
        if watch != self._watch:
            self._watch = watch
            self._send(None)

    def submit(self, job: RegistryJob) -> None:
        """Start on a job.

        Raises:
            RuntimeError: Another one is in progress.
        """
        if self._job is not None:
            raise RuntimeError(f"the registry process is busy with effect {self._job.number}")
        self._job = job
        self._deadline_s = time.monotonic() + LONGEST_CALL_S
        self._send(job)

    def _send(self, job: RegistryJob | None) -> None:
        try:
            self._pipe.send_bytes(msgspec.msgpack.encode(_Call(job, self._watch)))
        except (BrokenPipeError, OSError):
            self._restart()

    def collect(self) -> list[JobDone | JobFailed | RegistryNews]:
        """Return what has come back."""
        found: list[JobDone | JobFailed | RegistryNews] = []
        try:
            while self._pipe.poll(0):
                reply = msgspec.msgpack.decode(self._pipe.recv_bytes(), type=_Reply)
                self.away = reply.away
                if reply.done is not None:
                    self._job = None
                    found.append(reply.done)
                if reply.failed is not None:
                    self._job = None
                    retry_s = reply.failed.retry_in_s
                    self._not_before_s = time.monotonic() + (retry_s or 0.0)
                    found.append(reply.failed)
                if reply.news is not None:
                    found.append(reply.news)
        except (EOFError, OSError):
            self._lost_process(found, "the registry process ended")
        if self._job is not None and time.monotonic() > self._deadline_s:
            self._lost_process(found, f"no answer within {LONGEST_CALL_S:g} s")
        return found

    def _lost_process(self, found: list[JobDone | JobFailed | RegistryNews], why: str) -> None:
        if self._job is not None:
            found.append(JobFailed(self._job.number, why, 5.0))
            self._job = None
        self._not_before_s = time.monotonic() + 5.0
        self._restart()

    def _restart(self) -> None:
        self._end()
        self._start()
        self._pipe.send_bytes(msgspec.msgpack.encode(_Call(None, self._watch)))

    def _end(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(2)

    def close(self) -> None:
        """End the process; an effect in progress stays in the outbox."""
        self._end()


# ---------------------------------------------------------------- the process itself


def serve(pipe: Connection, uri: str, artifacts: str, model: str, poll_s: float) -> None:
    """Carry out jobs until the parent is gone (the process's main function)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which ends us
    desk = _Desk(uri, Path(artifacts), model)
    watch, next_look_s = Watch(), 0.0
    while True:
        try:
            if pipe.poll(poll_s):
                call = msgspec.msgpack.decode(pipe.recv_bytes(), type=_Call)
                watch = call.watch
                if call.job is not None:
                    pipe.send_bytes(msgspec.msgpack.encode(desk.carry_out(call.job)))
                continue
            if time.monotonic() >= next_look_s:
                next_look_s = time.monotonic() + poll_s
                for reply in desk.look(watch):
                    pipe.send_bytes(msgspec.msgpack.encode(reply))
        except (EOFError, OSError):
            return


class _Desk:
    """Holds the connection, once there is one."""

    def __init__(self, uri: str, artifacts: Path, model: str) -> None:
        self._uri, self._artifacts, self._model = uri, artifacts, model
        self._connected: Registry | None = None
        self._told: set[str] = set()

    def _registry(self) -> Registry:
        if self._connected is not None and self._is_gone():
            raise SystemExit(1)  # its connections hold a deleted file; a new process starts anew
        if self._connected is None:
            from deploy.mlflow_registry import MlflowRegistry

            artifacts = self._artifacts if self._uri.startswith("sqlite:") else None
            self._connected = MlflowRegistry(self._uri, model=self._model, artifacts=artifacts)
        return self._connected

    def _is_gone(self) -> bool:
        path = self._uri.removeprefix("sqlite:///")
        return path != self._uri and not Path(path).exists()

    def carry_out(self, job: RegistryJob) -> _Reply:
        """Do one job; say what came of it."""
        try:
            return _Reply(done=JobDone(job.number, self._do(job)))
        except TransientError as error:
            failed = JobFailed(job.number, str(error), error.retry_in_s)
            return _Reply(failed=failed, away=str(error))
        except (RegistryError, ValueError, OSError) as error:
            return _Reply(failed=JobFailed(job.number, f"{type(error).__name__}: {error}", None))

    def _do(self, job: RegistryJob) -> str:
        registry, payload = self._registry(), job.payload
        match job.kind:
            case "episode":
                registry.record_episode(msgspec.convert(payload["record"], EpisodeRecord))
            case "rollout":
                registry.record_rollout(msgspec.convert(payload["record"], RolloutRecord))
            case "version":
                record = msgspec.convert(payload["record"], ModelVersionRecord)
                return registry.register_version(Path(str(payload["folder"])), record)
            case "alias" if payload["registered"]:
                registry.set_alias(str(payload["alias"]), str(payload["registered"]))
            case "alias":
                registry.clear_alias(str(payload["alias"]))
            case "review-answer":
                news = msgspec.convert(payload["news"], RegistryNews)
                answer = ReviewAnswer(
                    news.registered,
                    news.verb or "reject",
                    news.by,
                    news.reason,
                    str(payload["packet"]),
                    news.tag,
                )
                registry.answer_review(answer, str(payload["outcome"]))
            case "decision":
                raise ValueError("a decision goes to its topic, not to the registry")
            case _:
                assert_never(job.kind)
        return ""

    def look(self, watch: Watch) -> list[_Reply]:
        """Look for reviews and for an alias that somebody has moved."""
        if not watch.champion and not watch.reviews:
            return []
        try:
            registry = self._registry()
            replies = [_Reply()]
            champion = registry.aliases().get("champion", "")
            if (
                champion != watch.champion
                and watch.champion
                and f"alias-{champion}" not in self._told
            ):
                self._told = {f"alias-{champion}"}
                number = watch.versions.get(champion, 0)
                replies.append(_Reply(news=RegistryNews("alias", number, champion)))
            elif champion == watch.champion:
                self._told.discard(f"alias-{champion}")
            requests = [ReviewRequest(v, digest) for v, digest in watch.reviews]
            for answer in registry.poll_reviews(requests) if requests else ():
                key = f"review-{answer.version}-{answer.tag}"
                if key in self._told:
                    continue
                self._told.add(key)
                news = RegistryNews(
                    "review",
                    watch.versions.get(answer.version, 0),
                    answer.version,
                    answer.verdict,
                    answer.by,
                    answer.reason,
                    answer.tag,
                )
                replies.append(_Reply(news=news))
            return replies
        except RegistryError as error:
            return [_Reply(away=str(error))]
