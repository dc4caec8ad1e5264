"""Every setting, typed and documented; read once, when a command starts.

One YAML file, overridden by environment variables (``METADRIFT_KAFKA__BOOTSTRAP_SERVERS``), with
secrets from the environment or from files only.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipeline.keep_settings import KeepSettings
from pipeline.rollout_settings import RolloutSettings
from pipeline.serving_settings import ServingSettings
from pipeline.settings_section import Section, changed


class ModelSettings(Section):
    """The model that this daemon keeps right."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Keys state, consumer group, metrics and the registered model in MLflow."""
    task_type: Literal["classification", "regression"] = "classification"
    """Whether labels are classes or numbers."""
    route_by: Literal["task"] | None = None
    """task: each task may have its own adapted weights; null: one model for all."""


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


class JoinSettings(Section):
    """How long an event's features wait for its label."""

    window_events: int = Field(50_000, ge=1000)
    """Events remembered; the oldest go first. Within the window repeated ids are recognised."""
    window_s: float | None = Field(None, gt=0)
    """Engine seconds an event is remembered; null: only the count bounds."""
    early_labels: int = Field(10_000, ge=0)
    """Labels that may wait for their event."""


class DetectorSettings(Section):
    """A detector of the catalog; `metadrift check` lists names and parameters."""

    name: str
    """Its name, as River spells it."""
    params: dict[str, float | int | bool | str] = Field({})
    """Its parameters by name."""


class DetectSettings(Section):
    """What is watched."""

    error: DetectorSettings | None = None
    """Watches the champion's loss; null: HDDMA for classification, ADWIN (clock=1) else."""
    also: tuple[DetectorSettings, ...] = ()
    """More detectors on the same loss stream; any of them may signal."""
    confidence: bool = True
    """Watch the champion's confidence (classification only)."""
    features: bool = True
    """Watch the inputs' distance from those the champion knows."""
    calibration_events: int = Field(200, ge=60)
    """Events that the label-free monitors learn their reference from."""
    new_class_after: int = Field(3, ge=1)
    """Sightings of an unseen class before it is signalled."""


class TriggerSettings(Section):
    """Which signals start an episode."""

    warm_up_labels: int = Field(30, ge=0)
    """Labels under a champion before anything may trigger."""
    cool_down_labels: int = Field(50, ge=0)
    """Labels after the end of an episode or rollout before the next may start."""
    cool_down_s: float = Field(0.0, ge=0)
    """Engine seconds after the end of an episode or rollout before the next may start."""
    least_labels: int = Field(0, ge=0)
    """Labels after the change point that a signal needs before its episode opens."""
    actions_per_day: float = Field(24.0, ge=1)
    """Budget of episodes per engine day; unused ones are kept for one day."""


USUAL_RECIPES = ("frozen", "recalled", "reptile", "maml", "fine_tune", "scratch")
META_RECIPES = ("reptile", "maml", "fomaml", "anil", "meta-sgd", "joint")
RECIPES = (*USUAL_RECIPES, *(name for name in META_RECIPES if name not in USUAL_RECIPES))


class EpisodeSettings(Section):
    """How a candidate is made."""

    support: int = Field(40, ge=1)
    """Labelled examples to adapt on."""
    most_support: int = Field(400, ge=1)
    """Most of them; the newest are taken."""
    query: int = Field(20, ge=1)
    """Labelled examples that choose the recipe."""
    holdout: int = Field(20, ge=1)
    """Labelled examples that gate the winner."""
    least_support: int = Field(10, ge=1)
    """At the deadline: fewest support examples to go on with."""
    new_class_support: int = Field(20, ge=2)
    """Most labels of a new class to adapt on; its episode opens at twice as many."""
    announced_holdout_share: float = Field(0.25, ge=0.1, le=0.5)
    """Share of an announced task's examples kept back for the gate."""
    deadline_labels: int | None = Field(400, ge=1)
    """Labels after the opening until the episode decides with what it has; null: off."""
    deadline_s: float | None = Field(7 * 86_400.0, gt=0)
    """Engine seconds after the opening until the episode decides with what it has; null: off."""
    recipes: tuple[str, ...] = USUAL_RECIPES
    """The bake-off; `frozen` always takes part."""
    timeout_s: float = Field(120.0, gt=0)
    """The worker is killed when one bake-off takes longer."""
    buffer_examples: int = Field(2000, ge=50)
    """Recent labelled examples kept."""
    seed: int = 0
    """Seeds every recipe, together with the episode's number."""

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, values: Any) -> Any:
        if isinstance(values, dict) and "earlier_champions" in values:
            raise ValueError(
                "earlier_champions is no key any more: confirmed tasks take part instead; "
                f"remove it and set memory.tasks: {values['earlier_champions']}"
            )
        return values

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = sorted(set(self.recipes) - set(RECIPES))
        if unknown:
            raise ValueError(f"recipes: {unknown} unknown; choose from {list(RECIPES)}")
        if "frozen" not in self.recipes:
            raise ValueError("recipes: 'frozen' must take part; add it")
        if self.most_support < self.support:
            raise ValueError(
                f"most_support ({self.most_support}) is below support ({self.support}); raise it"
            )
        if self.support + self.query + self.holdout > self.buffer_examples:
            raise ValueError(
                f"buffer_examples ({self.buffer_examples}) is smaller than support + query + "
                f"holdout ({self.support + self.query + self.holdout}); raise it"
            )
        return self


class MemorySettings(Section):
    """Which tasks are remembered, and how it is decided whether one of them is back."""

    tasks: int = Field(8, ge=0, le=64)
    """Confirmed tasks whose models take part as they are; the least recently used goes first."""
    keep: tuple[str, ...] = ()
    """Names of versions that are never forgotten; the first champion never is."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """Bound on the chance that a decision noise, recurring, drifted or new is wrong."""
    recurring_within: float = Field(0.2, gt=0, lt=1)
    """A task is back when a rise of its model's mean loss by this much is excluded."""
    noise_within: float = Field(0.1, gt=0, lt=1)
    """An alarm is noise when a rise of the champion's mean loss by this much is excluded."""
    examples: int = Field(200, ge=0, le=2000)
    """Labelled examples kept of each task, for `meta-train --from-memory`."""


class RoutesSettings(Section):
    """Own weights for tasks, with `model.route_by: task`."""

    most: int = Field(10_000, ge=1, le=1_000_000)
    """Tasks that may have a route; later ones are counted and served by the fall-back."""
    in_memory: int = Field(256, ge=1)
    """Routes kept in memory; the least recently used ones are only on disk."""
    support: int = Field(20, ge=1)
    """Fewest labels of a task to adapt on."""
    holdout: int = Field(10, ge=3)
    """Labels of a task, the newest, that say whether its own weights are better."""
    examples: int = Field(120, ge=4, le=2000)
    """Recent labelled examples kept of each task."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.support + self.holdout > self.examples:
            raise ValueError(
                f"examples ({self.examples}) is smaller than support + holdout "
                f"({self.support + self.holdout}); raise it"
            )
        return self


class GateSettings(Section):
    """What the holdout must show before a candidate may serve anything."""

    target_from: float = Field(0.30, gt=0, lt=1)
    """The champion's loss in the case worth acting on."""
    target_to: float = Field(0.10, ge=0, lt=1)
    """The candidate's loss in that case."""
    risk: float = Field(0.05, gt=0, lt=0.5)
    """Chance that an equal candidate passes."""
    power: float = Field(0.8, gt=0, lt=1)
    """Chance that the target case passes; with risk it gives the least holdout."""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.target_to >= self.target_from:
            raise ValueError(
                f"target_to ({self.target_to}) must be below target_from ({self.target_from})"
            )
        return self


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
        if wanted and not self.reads_servers:
            raise ValueError(
                f"rollout.{wanted[0]} guards model servers of serving.backend local, but it is "
                f"{self.serving.backend}: set it to null"
            )
        return self

    @property
    def reads_servers(self) -> bool:
        """Whether errors and latency of the model servers are read."""
        return self.serving.backend == "local"

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
        raise ConfigError(f"{path} is no YAML: {error}") from error
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
