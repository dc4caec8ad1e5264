"""Writes a commented YAML configuration from the settings classes themselves.

Every field comes with its docstring as a comment and its answer or default as the value, so the
file, the reference and the code cannot disagree.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

_WIDTH = 96
_INDENT = "  "


class ConfigTemplateError(ValueError):
    """An answer that no setting takes, or a setting that needs an answer and has none."""


def render_config(settings: type[BaseModel], answers: Mapping[str, object]) -> str:
    """Return the configuration file's text.

    Args:
        settings: The settings class; nested classes are sections.
        answers: Values by dotted key (``{"model.name": "lanes"}``); the rest are defaults.

    Raises:
        ConfigTemplateError: An answer is for no known key, or a key without a default has no
            answer.
    """
    left = dict(answers)
    lines = _section(settings, "", left, depth=0)
    if left:
        keys = ", ".join(_keys(settings, ""))
        raise ConfigTemplateError(f"{sorted(left)}: no such key; the keys are {keys}")
    return "\n".join(lines).rstrip() + "\n"


def _section(
    settings: type[BaseModel], prefix: str, answers: dict[str, object], depth: int
) -> list[str]:
    indent, lines = _INDENT * depth, []
    for name, field in settings.model_fields.items():
        key = f"{prefix}{name}"
        section = _section_class(field)
        if section is not None and key not in answers:
            inner = _section(section, f"{key}.", answers, depth + 1)
            lines += [*_comment(section.__doc__ or "", indent), f"{indent}{name}:", *inner]
            if depth == 0:
                lines.append("")
            continue
        lines += _comment(field.description or "", indent)
        if _is_secret(field):
            lines.append(f"{indent}# {name}: never in this file")
            continue
        lines.append(_entry(name, key, field, answers, indent))
        if depth == 0:
            lines.append("")
    return lines


def _entry(name: str, key: str, field: FieldInfo, answers: dict[str, object], indent: str) -> str:
    if key in answers:
        value = answers.pop(key)
    elif field.is_required():
        raise ConfigTemplateError(f"{key}: has no default; answer it")
    else:
        value = field.get_default(call_default_factory=True)
    # In a list of one, so that YAML quotes the value as part of a line and adds no end mark.
    text = yaml.safe_dump(
        [_plain(value)],
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=100_000,
    )
    return f"{indent}{name}: {text.strip()[1:-1]}"


def _plain(value: object) -> Any:
    """Return what YAML can write."""
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case Path():
            return str(value)
        case tuple() | list() | set() | frozenset():
            return [_plain(v) for v in value]
        case Mapping():
            return {str(k): _plain(v) for k, v in value.items()}
        case _:
            return value


def _comment(text: str, indent: str) -> list[str]:
    plain = " ".join(text.replace("`", "").split())
    return textwrap.wrap(
        plain,
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_on_hyphens=False,
    )


def _section_class(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _is_secret(field: FieldInfo) -> bool:
    kinds = getattr(field.annotation, "__args__", (field.annotation,))
    return SecretStr in kinds


def _keys(settings: type[BaseModel], prefix: str) -> list[str]:
    found: list[str] = []
    for name, field in settings.model_fields.items():
        section = _section_class(field)
        found += _keys(section, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return found
