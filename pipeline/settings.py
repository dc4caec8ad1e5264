"""Every setting, typed and documented; read once, when a command starts.

One YAML file, overridden by environment variables (``METADRIFT_KAFKA__BOOTSTRAP_SERVERS``), with
secrets from the environment or from files only.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipeline.detect_settings import DetectSettings, TriggerSettings
from pipeline.episode_settings import EpisodeSettings, GateSettings
from pipeline.kafka_settings import KafkaSettings
from pipeline.keep_settings import KeepSettings
from pipeline.rollout_settings import RolloutSettings
from pipeline.serving_settings import ServingSettings
from pipeline.settings_section import Section, changed
from pipeline.task_settings import MemorySettings, RoutesSettings


class ModelSettings(Section):
    """The model that this daemon keeps right."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Keys state, consumer group, metrics and the registered model in MLflow."""
    task_type: Literal["classification", "regression"] = "classification"
    """Whether labels are classes or numbers."""
    route_by: Literal["task"] | None = None
    """task: each task may have its own adapted weights; null: one model for all."""


class JoinSettings(Section):
    """How long an event's features wait for its label."""

    window_events: int = Field(50_000, ge=1000)
    """Events remembered; the oldest go first. Within the window repeated ids are recognised."""
    window_s: float | None = Field(None, gt=0)
    """Engine seconds an event is remembered; null: only the count bounds."""
    early_labels: int = Field(10_000, ge=0)
    """Labels that may wait for their event."""


class RegistrySettings(Section):
    """MLflow."""

    tracking_uri: str | None = None
    """Tracking server (http(s)://) or sqlite:/// file; null: a SQLite file in state_dir."""
    poll_s: float = Field(2.0, gt=0)
    """Wall seconds between looks at aliases and review tags."""


class HttpSettings(Section):
    """Health and metrics."""

    host: str = "127.0.0.1"
    """Address to listen on; loopback by default."""
    port: int = Field(8790, ge=0, le=65_535)
    """Port; 0 takes a free one and writes it to state_dir/http.json."""


class LogSettings(Section):
    """Structured logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level."""
    format: Literal["json", "console"] = "json"
    """One JSON object a line, or columns for people."""


class ConfigError(Exception):
    """A wrong configuration; says key, value and fix, one line each."""


class Settings(BaseSettings):
    """The whole configuration of one daemon (one model)."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="METADRIFT_",
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    model: ModelSettings
    state_dir: Path = Path(".metadrift")
    """Folder of the state file, the models and the default MLflow store."""
    kafka: KafkaSettings = KafkaSettings()
    join: JoinSettings = JoinSettings()
    detect: DetectSettings = DetectSettings()
    trigger: TriggerSettings = TriggerSettings()
    episode: EpisodeSettings = EpisodeSettings()
    memory: MemorySettings = MemorySettings()
    routes: RoutesSettings = RoutesSettings()
    gate: GateSettings = GateSettings()
    rollout: RolloutSettings = RolloutSettings()
    serving: ServingSettings = ServingSettings()
    keep: KeepSettings = KeepSettings()
    registry: RegistrySettings = RegistrySettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _task_type(self) -> Self:
        asked = self.detect.confidence and "confidence" in self.detect.model_fields_set
        if self.model.task_type == "regression" and asked:
            raise ValueError(
                "detect.confidence: true makes no sense for task_type regression; remove it"
            )
        return self

    @model_validator(mode="after")
    def _a_router_chooses(self) -> Self:
        if self.rollout.evidence == "unpaired" and self.serving.backend == "embedded":
            raise ValueError(
                "rollout.evidence: unpaired judges by the answers of a router, but serving.backend "
                "is embedded: set it to local or kubernetes, or evidence to paired, which needs "
                "fewer labels wherever the daemon scores the events itself"
            )
        return self

    @model_validator(mode="after")
    def _servers_are_read(self) -> Self:
        given = self.rollout
        of_ours = changed(given, "most_error_rate") and given.most_error_rate is not None
        asked = {"most_error_rate": of_ours, "longest_latency_ms": given.longest_latency_ms}
        wanted = [name for name, value in asked.items() if value]
        off = given.most_error_rate is None and given.longest_latency_ms is None
        if off and self.serving.kubernetes.prometheus is not None:
            raise ValueError(
                "rollout.most_error_rate and longest_latency_ms are null and "
                f"serving.kubernetes.prometheus is {self.serving.kubernetes.prometheus}: nothing "
                "asks it; remove it, or set one of them"
            )
        if not wanted or self.reads_servers:
            return self
        if self.serving.backend == "kubernetes":
            raise ValueError(
                f"rollout.{wanted[0]} is {getattr(given, wanted[0])} and "
                "serving.kubernetes.prometheus is null: name the Prometheus that scrapes the model "
                "servers, or set it to null"
            )
        raise ValueError(
            f"rollout.{wanted[0]} guards model servers beside the daemon, but serving.backend is "
            f"{self.serving.backend}: set it to null"
        )

    @property
    def reads_servers(self) -> bool:
        """Whether errors and latency of the model servers are read."""
        cluster = self.serving.kubernetes
        return self.serving.backend == "local" or cluster.prometheus is not None

    @model_validator(mode="after")
    def _one_route_is_served(self) -> Self:
        if self.model.route_by is not None and self.serving.backend != "embedded":
            raise ValueError(
                f"serving.backend: {self.serving.backend} serves one model, but model.route_by: "
                f"{self.model.route_by} answers tasks with others: set one of them back"
            )
        return self

    def state_facts(self) -> dict[str, object]:
        """Return, by dotted key, what the state depends on (no addresses, ports or logs)."""
        kept = self.model_dump(mode="json", include=set(STATE_SECTIONS))
        del kept["routes"]["in_memory"]  # what is in memory decides nothing
        return {
            f"{section}.{key}": value
            for section, values in kept.items()
            for key, value in values.items()
        }

    def fingerprint(self) -> str:
        """Return the digest of ``state_facts``."""
        text = yaml.safe_dump(self.state_facts(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


STATE_SECTIONS = (
    *("model", "join", "detect", "trigger", "episode", "memory", "routes", "gate", "rollout"),
)


def load_settings(path: Path) -> Settings:
    """Read the YAML file and the environment.

    Raises:
        ConfigError: The file is missing, is no YAML mapping, or a key or value is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; write one with `metadrift init`"
        ) from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {_yaml_fault(error)}; correct it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no mapping; write one with `metadrift init`")
    kafka = content.get("kafka")
    if isinstance(kafka, dict) and "sasl_password" in kafka:
        raise ConfigError(
            "kafka.sasl_password: secrets do not belong in the file; "
            "set METADRIFT_KAFKA__SASL_PASSWORD"
        )
    return parse_settings(content)


def parse_settings(content: dict[str, Any]) -> Settings:
    """Build the settings from a mapping (and the environment).

    Raises:
        ConfigError: A key or value is wrong.
    """
    for variable in os.environ:
        section, *inner = variable.removeprefix("METADRIFT_").lower().split("__")
        known = section in Settings.model_fields
        if variable.startswith("METADRIFT_") and inner and not known:
            raise ConfigError(
                f"the environment variable {variable}: no such section {section!r}; remove it or "
                f"correct its spelling ({', '.join(sorted(Settings.model_fields))})"
            )
    odd = [key for key in content if not isinstance(key, str)]
    if odd:
        raise ConfigError(f"{odd[0]!r}: no such key; remove it or correct its spelling")
    try:
        return Settings(**content)
    except ValidationError as error:
        raise ConfigError("\n".join(_line(e) for e in error.errors())) from error
    except SettingsError as error:
        raise ConfigError(
            f"an environment variable METADRIFT_...: {error}: {error.__cause__}; "
            "write lists and mappings as JSON, as METADRIFT_ROLLOUT__STEPS='[5, 25, 50]'"
        ) from error


def _yaml_fault(error: yaml.YAMLError) -> str:
    """Say in one line what cannot be read, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _line(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "configuration"
    match error["type"]:
        case "missing":
            return f"{key}: missing; add it"
        case "extra_forbidden":
            return f"{key}: {error['input']!r}: no such key; remove it or correct its spelling"
        case "value_error":
            return f"{key}: {error['ctx']['error']}"
        case _:
            said = error["msg"]
            return f"{key}: {error['input']!r}: {said[:1].lower()}{said[1:]}"
