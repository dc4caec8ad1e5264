"""The servers that answer beside the daemon, as the settings choose them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deploy.controller import BackendError, ServingBackend
from deploy.guards import GuardReading
from deploy.local_readings import LocalReadings
from deploy.rollout_plan import Traffic
from deploy.seldon_local import Failures, LocalBackend, LocalServing
from deploy.seldon_process import ModelFolder
from deploy.serving_environment import ServingEnvironmentError, cache_folder, serving_python
from pipeline.model_shelf import ModelShelf
from pipeline.records import ServerFailures
from pipeline.settings import Settings

LONGEST_REASON = 400


class ServingError(Exception):
    """The servers cannot be set up; says what is missing."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A backend with what the protocol leaves out.

    Attributes:
        backend: Split and observed.
        failures: Of the versions that are wanted.
        close: Ends it; called once.
        port: Where the router listens on loopback; None: it is not on this machine.
        may_act: Asked before every look: None, or why nothing may be changed now.
        waits: What an unfinished split still waits for, in words; "" where it does not say.
        turn_s: Longest time between two looks, seconds; None: the keeper's own.
        readings: Errors and latency by version; empty where they are not read.
        new_target: Told, before the look, what is wanted, when that is another than at the last.
    """

    backend: ServingBackend
    failures: Callable[[], dict[str, ServerFailures]]
    close: Callable[[], None]
    port: int | None = None
    may_act: Callable[[], str | None] = lambda: None
    waits: Callable[[], str] = lambda: ""
    turn_s: float | None = None
    readings: Callable[[], dict[str, GuardReading]] = dict
    new_target: Callable[[Traffic], None] = lambda wanted: None


def open_backend(
    settings: Settings,
    shelf: ModelShelf,
    digests: Mapping[str, str],
    owner_epoch: int,
    failures: Mapping[str, ServerFailures] | None = None,
) -> Kept | None:
    """Return the backend that the settings name; None: the daemon answers alone.

    Args:
        settings: The configuration.
        shelf: Where the models lie.
        digests: Of the versions by name; looked at when a version is to be served.
        owner_epoch: Of this owner of the state file.
        failures: That were seen before a restart; local servers count on from there.

    Raises:
        ServingError: Something that it needs is missing.
    """
    serving = settings.serving
    match serving.backend:
        case "embedded":
            return None
        case "local":
            return _local(settings, shelf, digests, failures or {})
        case "kubernetes":
            # Its client takes a second to import.
            from pipeline.kubernetes_serving import open_kubernetes

            return open_kubernetes(settings, shelf, digests, owner_epoch)


def _local(
    settings: Settings,
    shelf: ModelShelf,
    digests: Mapping[str, str],
    known: Mapping[str, ServerFailures],
) -> Kept:
    serving = settings.serving

    def folder(version: str) -> ModelFolder:
        return ModelFolder(shelf.model_folder(digests[version]), digests[version])

    try:
        options = LocalServing(
            python=serving_python(serving.environment or cache_folder(os.environ)),
            logs=settings.state_dir / "serving",
            port=serving.port,
            threads=serving.threads,
            start_s=serving.start_s,
            python_path=serving.python_path,
            router_note=settings.state_dir / "serving" / "router",
        )
        before = {version: Failures(f.count, f.reason) for version, f in known.items()}
        backend = LocalBackend(options, folder, failures=before)
    except (ServingEnvironmentError, BackendError) as error:
        raise ServingError(f"serving.backend local: {error}") from error

    def failures() -> dict[str, ServerFailures]:
        return {
            version: ServerFailures(f.count, f.reason[:LONGEST_REASON])
            for version, f in backend.failures().items()
        }

    readings = LocalReadings(backend, settings.rollout.guard_window_s)
    return Kept(backend, failures, backend.close, backend.router.port, readings=readings)
