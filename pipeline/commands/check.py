"""``metadrift check``: whether it would work, and what the settings imply."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import CONFIG, DEFAULT_CONFIG, EXIT_CONFIG, JSON, print_json

if TYPE_CHECKING:
    from pipeline.config_checks import Finding
    from pipeline.core_state import Core
    from pipeline.settings import Settings

HELP = """Lint the configuration, reach broker and MLflow, say what the settings imply.

Looks at keys and values, detectors and their parameters, topics, the MLflow store, the state
folder, champion and meta-init, and whether another distribution's package shadows one of ours.

Example: metadrift check -c metadrift.yaml

Example: metadrift check --offline --json

Exit codes: 0 nothing is wrong (there may be warnings), 2 something is.
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check", help=HELP)(check)


def check(
    offline: Annotated[bool, typer.Option("--offline", help="Reach no server.")] = False,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for each.")] = 5.0,
    config: CONFIG = DEFAULT_CONFIG,
    as_json: JSON = False,
) -> None:
    """Look at everything; say what was found."""
    findings = _look(config, None if offline else timeout)
    wrong = [f for f in findings if f.level == "error"]
    if as_json:
        print_json({"ok": not wrong, "findings": [asdict(f) for f in findings]})
    else:
        for finding in findings:
            typer.echo(f"{finding.level:<8}{finding.about}: {finding.says}")
        typer.echo(f"{len(wrong)} wrong" if wrong else "nothing is wrong")
    if wrong:
        raise typer.Exit(EXIT_CONFIG)


def _look(config: Path, timeout_s: float | None) -> list["Finding"]:
    from pipeline import arrivals
    from pipeline.config_checks import (
        Finding,
        check_detectors,
        check_labels,
        check_models,
        check_packages,
        check_rollout,
        check_serving,
        check_surface,
    )
    from pipeline.core_state import Core
    from pipeline.settings import ConfigError, load_settings

    findings = check_packages()
    try:
        settings = load_settings(config)
    except ConfigError as error:
        for line in str(error).splitlines():
            findings.append(Finding("error", str(config), line))
        return findings
    findings.append(Finding("ok", str(config), "every key and value is known"))
    state = _state(settings)
    if isinstance(state, Finding):
        findings.append(state)
        core = Core()
    else:
        core = state or Core()
        so_far = "no state yet" if state is None else f"{core.next} events so far"
        findings.append(Finding("ok", "state_dir", f"{settings.state_dir}: {so_far}"))
    waiting = arrivals.read(settings.state_dir)
    findings += check_detectors(settings)
    findings += check_labels(settings)
    findings += check_rollout(settings, core)
    findings += check_models(settings, core, waiting)
    findings += check_serving(settings)
    findings += check_surface(settings)
    if timeout_s is not None:
        findings += [_broker(settings, timeout_s), _store(settings, timeout_s)]
        if settings.serving.backend == "kubernetes":
            findings.append(_cluster(settings, timeout_s))
            if settings.serving.kubernetes.prometheus is not None:
                findings.append(_prometheus(settings, timeout_s))
    return findings


def _state(settings: "Settings") -> "Core | Finding | None":
    """Return the state, None before the first start, or what is wrong with its folder."""
    import sqlite3

    from pipeline.commands.state_view import state_file
    from pipeline.config_checks import Finding
    from pipeline.state_file import StateError
    from pipeline.state_glimpse import glimpse
    from pipeline.status import core_of

    folder = settings.state_dir
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return Finding(
            "error", "state_dir", f"{folder} cannot be written: name another, or give it rights"
        )
    path = state_file(folder)
    if not path.exists():
        return None
    try:
        return core_of(settings, glimpse(path, 0))
    except (StateError, sqlite3.Error) as error:
        return Finding("error", "state_dir", f"{folder}: {error}")


def _broker(settings: "Settings", timeout_s: float) -> "Finding":
    from pipeline.config_checks import Finding
    from pipeline.kafka_topics import TopicError, topic_partitions

    try:
        held = topic_partitions(settings.kafka, timeout_s)
    except TopicError as error:
        return Finding("error", "kafka", str(error))
    missing = [name for name, partitions in held.items() if not partitions]
    if missing:
        return Finding(
            "error",
            "kafka.topics",
            f"not on the broker: {', '.join(missing)}; make what is missing with "
            "`metadrift init --topics`, or correct the names",
        )
    shown = ", ".join(f"{name} ({partitions})" for name, partitions in held.items())
    return Finding("ok", "kafka", f"{settings.kafka.bootstrap_servers} answers; topics: {shown}")


def _store(settings: "Settings", timeout_s: float) -> "Finding":
    from pipeline.config_checks import Finding
    from pipeline.tracking_store import StoreError, reach_store, tracking_uri

    try:
        return Finding("ok", "registry", reach_store(tracking_uri(settings), timeout_s))
    except StoreError as error:
        return Finding("error", "registry.tracking_uri", str(error))


def _cluster(settings: "Settings", timeout_s: float) -> "Finding":
    from pipeline.config_checks import Finding
    from pipeline.kubernetes_serving import reach_cluster
    from pipeline.serving_backends import ServingError

    try:
        return Finding("ok", "serving.kubernetes", reach_cluster(settings, timeout_s))
    except ServingError as error:
        return Finding("error", "serving.kubernetes", str(error))


def _prometheus(settings: "Settings", timeout_s: float) -> "Finding":
    from pipeline.config_checks import Finding
    from pipeline.kubernetes_serving import reach_prometheus
    from pipeline.serving_backends import ServingError

    about = "serving.kubernetes.prometheus"
    try:
        servers, warned = reach_prometheus(settings, timeout_s)
    except ServingError as error:
        return Finding("error", about, str(error))
    if warned:
        return Finding("warning", about, f"answers, and warns: {warned}")
    if not servers:
        says = (
            "answers, and shows no model server: none runs yet, or it does not scrape them (port "
            "metrics), or prometheus_labels names what they do not have"
        )
        return Finding("warning", about, says)
    return Finding("ok", about, f"answers, and shows {servers} model servers")
