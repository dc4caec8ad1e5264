"""What is watched, and which signals start an episode."""

from pydantic import Field

from pipeline.settings_section import Section


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
