"""The broker, and the topics' names."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from pipeline.settings_section import Section


class TopicSettings(Section):
    """Topic names. `metadrift init --topics` makes them; they are never auto-created."""

    events: str = "events"
    """In: what to predict."""
    labels: str = "labels"
    """In: the truth, late."""
    control: str = "control"
    """In: commands and new-task signals."""
    predictions: str = "predictions"
    """Out: answers."""
    decisions: str = "decisions"
    """Out: every signal, episode, gate, step, promotion and rollback."""
    dead_letters: str = "dead-letters"
    """Out: what could not be read, with its reason."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = list(self.__class__.model_fields)
        values = [getattr(self, n) for n in names]
        if len(set(values)) != len(values):
            raise ValueError(f"the six topics must have different names, got {values}")
        return self


class KafkaSettings(Section):
    """The broker."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """Comma-separated host:port."""
    topics: TopicSettings = TopicSettings()
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    """Predictions after a crash: published again with the same bytes, or in one transaction."""
    max_poll_records: int = Field(2000, ge=1, le=50_000)
    """Records a poll may return."""
    poll_timeout_ms: int = Field(100, ge=1, le=500)
    """Longest wait of one poll; SIGTERM is noticed between polls."""
    max_message_bytes: int = Field(1_000_000, ge=1_000)
    """A larger message is dead-lettered unread."""
    request_timeout_ms: int = Field(15_000, ge=1_000)
    """Longest wait for the broker's answer to one request."""
    watchdog_s: float = Field(60.0, gt=0)
    """A poll that has not returned for this long ends the process, for its supervisor."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to talk to the broker."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """With a SASL protocol: the mechanism."""
    sasl_username: str | None = None
    """With a SASL protocol: the user."""
    sasl_password: SecretStr | None = None
    """From the environment only: METADRIFT_KAFKA__SASL_PASSWORD."""
    ssl_cafile: Path | None = None
    """Certificate authority, PEM."""
