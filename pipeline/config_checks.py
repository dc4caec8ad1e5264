"""What a configuration implies, beyond being well-formed: findings, without touching a server."""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Literal

from deploy.gate import gate_power, least_holdout
from deploy.haproxy_router import RouterError, find_haproxy
from deploy.serving_environment import ServingEnvironmentError, cache_folder, serving_python
from detectors.detector_errors import DetectorError
from detectors.error_monitor import ErrorMonitor
from pipeline.core_state import Core
from pipeline.detect_settings import DetectorSettings
from pipeline.episode_settings import META_RECIPES
from pipeline.records import ModelsFound
from pipeline.rollouts import plan_of
from pipeline.serving_settings import KubernetesSettings
from pipeline.settings import Settings
from pipeline.status import risk_status

Level = Literal["ok", "note", "warning", "error"]

PACKAGES = ("pipeline", "detectors", "adapters", "deploy")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``error``: it will not work; ``warning``: probably not as meant; ``note``: what
            follows from the settings; ``ok``: in order.
        about: The key, or what was looked at.
        says: What was found; for warnings and errors with the fix.
    """

    level: Level
    about: str
    says: str


def check_packages(
    distributions: Callable[[], Mapping[str, Sequence[str]]] = packages_distributions,
) -> list[Finding]:
    """Look whether the four package names are metadrift's own."""
    found: list[Finding] = []
    owners = distributions()
    ours = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        others = sorted({d for d in owners.get(name, ()) if d.lower() != "metadrift"})
        if others:
            found.append(
                Finding(
                    "error",
                    f"package {name}",
                    f"the distribution {', '.join(others)} installs a package of this name too: "
                    "uninstall it, or install metadrift into an environment of its own",
                )
            )
            continue
        spec = importlib.util.find_spec(name)
        places = [Path(p).resolve() for p in (spec and spec.submodule_search_locations) or ()]
        if ours / name not in places:
            where = ", ".join(map(str, places)) or "nowhere"
            found.append(
                Finding(
                    "error",
                    f"package {name}",
                    f"resolves to {where}, not to {ours / name}: rename the other one, or run from "
                    "another folder",
                )
            )
    return found or [Finding("ok", "packages", f"{', '.join(PACKAGES)} are metadrift's own")]


def check_detectors(settings: Settings) -> list[Finding]:
    """Look whether every detector exists and takes its parameters."""
    task_type, found = settings.model.task_type, list[Finding]()
    chosen: list[tuple[str, DetectorSettings | None]] = [("detect.error", settings.detect.error)]
    chosen += [(f"detect.also.{i}", d) for i, d in enumerate(settings.detect.also)]
    for key, detector in chosen:
        try:
            monitor = ErrorMonitor(
                detector.name if detector else None,
                detector.params if detector else None,
                task_type,
            )
        except DetectorError as error:
            found.append(Finding("error", key, str(error)))
            continue
        params = ", ".join(f"{k}={v}" for k, v in monitor.detector_params.items())
        default = "" if detector else " (the default)"
        found.append(Finding("ok", key, f"{monitor.detector_name}({params}){default}"))
    return found


def check_labels(settings: Settings) -> list[Finding]:
    """Say how many labels an episode, its gate and its rollout need."""
    gate, episode = settings.gate, settings.episode
    try:
        n_min = least_holdout(gate.target_from, gate.target_to, gate.risk, gate.power)
    except ValueError as error:
        return [Finding("error", "gate", str(error))]
    found = [
        Finding(
            "note",
            "gate",
            f"decides on its own from {n_min} holdout labels on: a fall of the loss from "
            f"{gate.target_from:g} to {gate.target_to:g} then passes with chance {gate.power:g} "
            f"at risk {gate.risk:g}",
        )
    ]
    if episode.holdout < n_min:
        power = gate_power(episode.holdout, gate.target_from, gate.target_to, gate.risk)
        found.append(
            Finding(
                "note",
                "episode.holdout",
                f"{episode.holdout} labels would show that fall with chance {power:.2f}; the gate "
                f"waits for {n_min - episode.holdout} more, or for the deadline, and then lets a "
                "candidate that did no worse into the first step",
            )
        )
    adapt = episode.support + episode.query + episode.holdout
    whole = episode.support + episode.query + max(episode.holdout, n_min)
    found.append(
        Finding(
            "note",
            "episode",
            f"needs {adapt} labels after the change to adapt ({episode.support} support, "
            f"{episode.query} query, {episode.holdout} holdout), {whole} for the gate's verdict",
        )
    )
    deadline = episode.deadline_labels
    if deadline is not None and deadline < adapt:
        found.append(
            Finding(
                "warning",
                "episode.deadline_labels",
                f"{deadline} is below the {adapt} labels that an episode needs, so every one ends "
                "with what it has: raise it, or lower support, query or holdout",
            )
        )
    if whole > episode.buffer_examples:
        found.append(
            Finding(
                "error",
                "episode.buffer_examples",
                f"{episode.buffer_examples} examples are kept, the gate needs {whole}: raise it",
            )
        )
    return found


def check_rollout(settings: Settings, core: Core) -> list[Finding]:
    """Say what the next rollout may risk, and whether its plan can work."""
    risk = risk_status(settings, core)
    rollout = settings.rollout
    if risk.next_rollout <= 0:
        return [
            Finding(
                "warning",
                "rollout.wrong_promotions_per_30_days",
                f"all of {risk.per_30_days:g} is spent: no candidate can pass until some comes "
                "back; raise it, or wait",
            )
        ]
    try:
        plan_of(rollout, risk.next_rollout, guards=settings.reads_servers)
    except ValueError as error:
        return [Finding("error", "rollout", str(error))]
    found = [
        Finding(
            "note",
            "rollout",
            f"the next candidate is promoted by mistake with chance at most "
            f"{risk.next_rollout:.3g} (evidence of {1 / risk.next_rollout:.0f}); "
            f"{risk.left:.3g} of {risk.per_30_days:g} wrong promotions in 30 days are left",
        )
    ]
    if rollout.mode != "auto":
        what = {"shadow": "is never served or promoted", "recommend": "waits for approval"}
        found.append(
            Finding("note", "rollout.mode", f"{rollout.mode}: a candidate {what[rollout.mode]}")
        )
    return found


def check_models(settings: Settings, core: Core, waiting: ModelsFound) -> list[Finding]:
    """Look whether there is a champion, and a meta-init for the recipes that start from one."""
    found: list[Finding] = []
    if core.versions:
        found.append(Finding("ok", "champion", core.versions[core.routes["*"].champion].name))
    elif waiting.champion:
        found.append(Finding("ok", "champion", f"{waiting.champion[:15]} waits for the next start"))
    else:
        found.append(
            Finding(
                "warning",
                "champion",
                "none yet, so `run` would stop: `metadrift meta-train FILE` makes one, "
                "`metadrift model import DIR` brings one",
            )
        )
    digest = waiting.meta_init or core.meta_init
    wanted = [r for r in settings.episode.recipes if r in META_RECIPES]
    if digest:
        found.append(Finding("ok", "meta-init", digest[:15]))
    elif wanted:
        found.append(
            Finding(
                "warning",
                "episode.recipes",
                f"{' and '.join(wanted)} need a meta-init and there is none: run `metadrift "
                "meta-train FILE`, or remove them",
            )
        )
    return found


def check_serving(settings: Settings) -> list[Finding]:
    """Look whether what serves beside the daemon is installed."""
    serving = settings.serving
    if serving.backend == "embedded":
        return []
    if serving.backend == "kubernetes":
        return _check_kubernetes(serving.kubernetes)
    found: list[Finding] = []
    try:
        found.append(Finding("ok", "serving.backend", f"local, behind {find_haproxy()}"))
    except RouterError as error:
        found.append(Finding("error", "serving.backend", str(error)))
    try:
        cache = serving.environment or cache_folder(os.environ)
        found.append(Finding("ok", "serving.environment", str(serving_python(cache))))
    except ServingEnvironmentError as error:
        found.append(Finding("error", "serving.environment", str(error)))
    missing = [str(folder) for folder in serving.python_path if not folder.is_dir()]
    if missing:
        wrong = f"{', '.join(missing)}: no such folder; correct it"
        found.append(Finding("error", "serving.python_path", wrong))
    return found


def _check_kubernetes(chosen: KubernetesSettings) -> list[Finding]:
    if chosen.models is not None:
        says = (
            f"each version is fetched from {chosen.models}/FOLDER: metadrift copies nothing there; "
            "keep it equal to state_dir/shelf/models"
        )
        return [Finding("note", "serving.kubernetes.models", says)]
    if "{version}" in str(chosen.image):
        return []
    says = (
        "every version runs the same image and nothing is fetched: unless the server finds its "
        "model by the parameter version, both arms answer alike; put {version} into it, or set "
        "models and implementation"
    )
    return [Finding("warning", "serving.kubernetes.image", says)]


def check_surface(settings: Settings) -> list[Finding]:
    """Look at what the daemon opens to others."""
    host = settings.http.host
    if host in ("127.0.0.1", "::1", "localhost"):
        return []
    return [
        Finding(
            "warning",
            "http.host",
            f"{host}: /metrics and /healthz answer without authentication beyond this machine; use "
            "127.0.0.1, or guard the port",
        )
    ]
