"""The registry: where candidates, versions, aliases and reviews live outside the daemon.

Calls may take seconds and fail for hours, so they belong to the outbox's process, one at a time.
Every method may be repeated: after a lost reply the second call finds what the first one made.

    RegistryError
    ├── TransientError(retry_in_s)    away, overloaded, or waiting for a person to mend it
    └── PermanentError                repeating the call changes nothing
        ├── UnknownVersionError       no such version, or not one of ours
        └── DamagedFolderError        a model folder that does not match its digest
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from deploy.registry_records import (
    EpisodeRecord,
    ModelVersionRecord,
    RolloutRecord,
    TrainingRecord,
)


class RegistryError(Exception):
    """A registry call that did not succeed."""


class TransientError(RegistryError):
    """The same call may succeed later.

    Attributes:
        retry_in_s: Earliest sensible time of the next attempt, in seconds from now.
    """

    def __init__(self, message: str, *, retry_in_s: float) -> None:
        super().__init__(f"{message}; trying again in {retry_in_s:g} s")
        self.retry_in_s = retry_in_s


class PermanentError(RegistryError):
    """The same call can never succeed: the values in it are wrong."""


class UnknownVersionError(PermanentError):
    """The registry holds no such version, or holds it without our marks."""


class DamagedFolderError(PermanentError):
    """A model folder does not have the digest that its record states."""


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """A candidate that waits for a person.

    Attributes:
        version: Of the registered model.
        packet_digest: Of the review packet that the person must have seen, 64 hex digits.
    """

    version: str
    packet_digest: str


@dataclass(frozen=True, slots=True)
class ReviewAnswer:
    """What a person wrote into the registry.

    Attributes:
        version: The version it was written on.
        verdict: ``approve`` or ``reject``.
        by: Who, as claimed; proof needs the server's own authentication.
        reason: The rest of the line.
        packet_digest: The request's, of which the answer named the first 8 digits.
        tag: The answer as written.
    """

    version: str
    verdict: Literal["approve", "reject"]
    by: str
    reason: str
    packet_digest: str
    tag: str


class Registry(Protocol):
    """What metadrift asks of a registry.

    All methods raise ``TransientError`` or ``PermanentError`` and nothing else on purpose.
    """

    def record_episode(self, record: EpisodeRecord) -> str:
        """Write an episode with its recipes and review packet; return the id of its run."""

    def record_training(self, record: TrainingRecord, files: Sequence[Path] = ()) -> str:
        """Write a training run with files as its artifacts; return its id."""

    def record_rollout(self, record: RolloutRecord) -> None:
        """Write how a rollout stands beside its episode and on its version."""

    def register_version(self, folder: Path, record: ModelVersionRecord) -> str:
        """Upload a model folder and register it; return the version."""

    def register_meta_init(self, folder: Path, record: ModelVersionRecord) -> str:
        """Upload a meta-init folder, register it and point ``meta-init`` at it."""

    def fetch_version(self, version: str, folder: Path) -> str:
        """Download a version's model folder to ``folder``; return the digest it must have."""

    def aliases(self) -> Mapping[str, str]:
        """Return the version that each alias points at now, whoever set it."""

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias at a version."""

    def clear_alias(self, alias: str) -> None:
        """Remove an alias; harmless where there is none."""

    def poll_reviews(self, requests: Sequence[ReviewRequest]) -> tuple[ReviewAnswer, ...]:
        """Return the answers that wait for ``answer_review``; refuse malformed and stale ones."""

    def answer_review(self, answer: ReviewAnswer, outcome: str) -> None:
        """Tell the reviewer what became of an answer; it is not returned by a poll again."""
