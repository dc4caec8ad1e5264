"""Writes docs/configuration.md from the settings classes, so that page and code cannot disagree.

    python -m pipeline.config_reference docs/configuration.md

>>> "`rollout.least_gain`" in config_reference()
True
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from deploy.gate import least_holdout
from detectors.river_catalog import default_params, detector_names
from pipeline.settings import STATE_SECTIONS, Settings

Schema: TypeAlias = dict[str, Any]
"""A JSON Schema, or a part of one."""

HEAD = """\
# Configuration

<!-- Written by `python -m pipeline.config_reference docs/configuration.md`; do not edit. -->

One YAML file, read once when a command starts; `metadrift.yaml` unless `-c` names another.
`metadrift init` writes one with every key, its default and its meaning. Only `model.name` is
required. An unknown key, a wrong type or a value out of range ends the command with the key, the
value and the fix.

**Environment.** Every key can be overridden by a variable: `METADRIFT_`, then the key in capitals
with `__` for the dots, as `METADRIFT_KAFKA__BOOTSTRAP_SERVERS`. Lists and mappings are written as
JSON, as `METADRIFT_ROLLOUT__STEPS='[5, 25, 50]'`. The one secret, `kafka.sasl_password`, is refused
in the file. MLflow's credentials are MLflow's own variables (`MLFLOW_TRACKING_USERNAME`,
`MLFLOW_TRACKING_PASSWORD`, `MLFLOW_TRACKING_TOKEN`).

**Units.** `_s` is seconds, `_ms` milliseconds, `_labels` joined labels, `_events` scored events.
Seconds of a decision are seconds of *engine time* (the running maximum of record timestamps).
Seconds of `kafka`, `registry` and `episode.timeout_s` are the host's.

**Changing a setting of a running model.** Stop the daemon, edit, start. Keys of {state}
shape the state: `run` logs each one that differs from the last start, with both values.
`model.task_type` cannot change in a state folder. Another detector starts anew, primed with the
champion's holdout losses. A rollout in progress keeps the plan and the risk with which it began.
"""

DETECTORS = """\
## Detectors

For `detect.error` and `detect.also`: any of these by name, with changes to its parameters under
`params`. All but ShiryaevRoberts are River's. Each takes the champion's loss, one per label.

```yaml
detect:
  error: {name: ADWIN, params: {delta: 0.01}}
  also: [{name: PageHinkley, params: {threshold: 20.0}}]
```

| name | parameters and their defaults |
|---|---|
"""

TAIL = """\

## What some settings imply

- The gate needs `n_min` holdout labels for a verdict; `gate` alone decides how many. The defaults
  (a fall of the loss from 0.30 to 0.10, risk 0.05, power 0.8) need {n_min}. `episode.holdout` says
  when the bake-off may begin, not when the gate decides: with fewer labels than `n_min` the episode
  waits for more, until its deadline.
- `episode.deadline_labels` counts from the opening. It should leave room for support, query and
  `n_min` labels, else every gate ends inconclusive.
- `rollout.wrong_promotions_per_30_days` and `rollout.risk_per_rollout` together give each rollout
  its risk: a tenth of what is left of the budget, at most `risk_per_rollout`. A smaller risk needs
  more labels. `metadrift status` shows what is left.
- `rollout.acceptable_harm` bounds what a step may cost. A smaller one makes every step wait for
  more labels.
- `rollout.evidence: unpaired` needs a router that sees both versions, and more labels than pairs.
- `rollout.mode: shadow` never promotes: the rollout ends with what it would have done.
"""

WORDS = {
    ("string", "password"): "secret",
    ("string", "path"): "path",
    ("string", ""): "text",
    ("boolean", ""): "true or false",
    ("object", ""): "mapping",
    ("null", ""): "null",
}


def config_reference() -> str:
    """Return the page."""
    schema = Settings.model_json_schema()
    names = ", ".join(f"`{name}`" for name in STATE_SECTIONS)
    lines = [HEAD.replace("{state}", names)]
    alone = [k for k, v in schema["properties"].items() if not _is_section(_target(schema, v))]
    lines += ["## Top level\n", *_table(schema, "", {k: schema["properties"][k] for k in alone})]
    for name, entry in schema["properties"].items():
        if name not in alone:
            lines += _section(schema, name, _target(schema, entry))
    lines.append(DETECTORS + "\n".join(_detectors()))
    gate = Settings.model_fields["gate"].default
    n_min = least_holdout(gate.target_from, gate.target_to, gate.risk, gate.power)
    return "\n".join([*lines, TAIL.replace("{n_min}", str(n_min))])


def _detectors() -> Iterator[str]:
    for name in detector_names():
        params = ", ".join(f"`{k}: {_yaml(v)}`" for k, v in sorted(default_params(name).items()))
        yield f"| `{name}` | {params or 'none'} |"


def _section(root: Schema, key: str, section: Schema) -> Iterator[str]:
    inner = {n: _target(root, e) for n, e in section["properties"].items()}
    own = {n: e for n, e in section["properties"].items() if not _is_section(inner[n])}
    yield f"## {key}\n"
    yield f"{section.get('description', '')}\n"
    yield from _table(root, f"{key}.", own, set(section.get("required", ())))
    for name, target in inner.items():
        if name not in own:
            yield from _section(root, f"{key}.{name}", target)


def _table(
    root: Schema, prefix: str, entries: Mapping[str, Schema], required: set[str] | None = None
) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for name, entry in entries.items():
        default = "required" if name in (required or ()) else f"`{_yaml(entry.get('default'))}`"
        about = " ".join(entry.get("description", "").split())
        cells = (f"`{prefix}{name}`", _kind(root, entry), default, about)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _target(root: Schema, entry: Schema) -> Schema:
    """Return what an entry refers to."""
    found: Schema = entry
    if "$ref" in entry:
        found = root["$defs"][entry["$ref"].rpartition("/")[2]]
    return found


def _is_section(target: Schema) -> bool:
    return "properties" in target


def _kind(root: Schema, entry: Schema) -> str:
    """Return what a value may be, in words."""
    target = _target(root, entry)
    if "anyOf" in target:
        return " or ".join(dict.fromkeys(_kind(root, option) for option in target["anyOf"]))
    if "enum" in target:
        return ", ".join(f"`{choice}`" for choice in target["enum"])
    if _is_section(target):
        return "mapping of " + ", ".join(f"`{name}`" for name in target["properties"])
    kind = target["type"]
    if kind == "array":
        return f"list of {_kind(root, target['items'])}"
    if "pattern" in target:
        return f"text like `{target['pattern']}`"
    return WORDS.get((kind, target.get("format", ""))) or f"{kind}{_range(target)}"


def _range(target: Schema) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{words[key]} {target[key]:g}" for key in words if key in target]
    return f", {', '.join(limits)}" if limits else ""


def _yaml(value: object) -> str:
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=100_000)
    return text.strip()[1:-1]


def main(path: str) -> None:
    """Write the page."""
    Path(path).write_text(config_reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
