"""What all blocks of the configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One block of the configuration file; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def changed(section: Section, key: str) -> bool:
    """Whether a key differs from its default; a file may hold every key (`metadrift init`)."""
    return bool(getattr(section, key) != type(section).model_fields[key].default)
