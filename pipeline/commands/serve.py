"""``metadrift serve``: one model behind a router, on this machine, without the daemon."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import (
    CONFIG,
    DEFAULT_CONFIG,
    EXIT_CONFIG,
    EXIT_DATA,
    EXIT_NO_CHAMPION,
    JSON,
    fail,
    print_json,
    settings_from,
)

if TYPE_CHECKING:
    from deploy.seldon_local import LocalBackend, LocalServing
    from pipeline.settings import Settings

HELP = """Serve a model over HTTP on loopback: Seldon's model server behind HAProxy.

The model is the champion of the state folder, and after a promotion or an undo the next one: the
command follows, and loses no request over it. Or it is the one in a folder of its own
(--model DIR). It needs Debian's HAProxy, and once its own environment with seldon-core 1.17.1 on
Python 3.11: some gigabytes in the user's cache folder, made by --make-environment.

\b
POST features by name to /api/v1.0/predictions:
  {"data": {"names": ["age", "plan"], "ndarray": [[30, "a"], [50, "b"]]}}
and what an answer was worth, with the answer as "response", to /api/v1.0/feedback.

Runs until SIGTERM or SIGINT, and ends everything that it started.

Example: metadrift serve -c metadrift.yaml

Exit codes: 0 stopped, 2 configuration or a missing program, 3 the model folder, 4 no champion.
"""

_TURN_S = 0.5
_FOLLOW_S = 2.0
_MOST_FAILURES = 5


@dataclass(frozen=True, slots=True)
class _Served:
    """A model version, and where it lies."""

    version: str
    folder: Path
    digest: str


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", help=HELP)(serve)


def serve(
    config: CONFIG = DEFAULT_CONFIG,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A model folder, in place of the champion.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the router; 0 takes a free one.")
    ] = 0,
    threads: Annotated[
        int, typer.Option(min=1, max=64, help="Requests that the model server answers at a time.")
    ] = 4,
    python_path: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with the modules of your own architecture; may be repeated."),
    ] = None,
    environment: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Cache folder of the model server's environment."),
    ] = None,
    make_environment: Annotated[
        bool, typer.Option("--make-environment", help="Make that environment, and end.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Start, say where, keep it running, end it."""
    from deploy import serving_environment

    cache = environment or serving_environment.cache_folder(os.environ)
    try:
        if make_environment:
            made = serving_environment.make_environment(cache)
            if as_json:
                print_json({"python": made})
            else:
                typer.echo(f"the model server's environment: {made}")
            return
        python = serving_environment.serving_python(cache)
    except (serving_environment.ServingEnvironmentError, OSError) as error:
        fail(str(error), EXIT_CONFIG)
    from deploy.seldon_local import LocalServing

    wanted: Callable[[], _Served]
    if model:
        own, logs = _own_model(model)

        def wanted() -> _Served:
            return own
    else:
        settings = settings_from(config)
        wanted, logs = _Follower(settings, _champion(settings)), settings.state_dir / "serving"
    serving = LocalServing(
        python=python, logs=logs, port=port, threads=threads, python_path=tuple(python_path or ())
    )
    _serve(serving, wanted, as_json=as_json)


def _own_model(model: Path) -> tuple[_Served, Path]:
    """Return a model folder as a version, and the log folder."""
    import hashlib
    import tempfile

    from adapters.model_file import MANIFEST

    try:
        digest = hashlib.sha256((model / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        fail(f"--model: {model}: {error.strerror}; name a model folder", EXIT_DATA)
    logs = Path(tempfile.gettempdir()) / f"metadrift-serve-{digest[:8]}"
    return _Served(f"0-{digest[:8]}", model, f"sha256:{digest}"), logs


def _champion(settings: "Settings") -> _Served:
    """Return the champion; without one the command ends."""
    from pipeline.state_file import StateError

    try:
        served = _champion_now(settings)
    except (StateError, sqlite3.Error) as error:
        fail(f"state_dir: {settings.state_dir}: {error}", EXIT_CONFIG)
    if served is None:
        fail(
            f"there is no champion in {settings.state_dir}: make one with "
            "`metadrift meta-train FILE --label COLUMN` or bring one with "
            "`metadrift model import DIR`",
            EXIT_NO_CHAMPION,
        )
    return served


def _champion_now(settings: "Settings") -> _Served | None:
    from pipeline import arrivals
    from pipeline.commands.state_view import state_file
    from pipeline.core_state import ONE_ROUTE
    from pipeline.fold import shelf_of
    from pipeline.state_glimpse import glimpse
    from pipeline.status import core_of
    from pipeline.turn import version_name

    path = state_file(settings.state_dir)
    core = core_of(settings, glimpse(path, 0)) if path.exists() else None
    if core is not None and core.versions:
        version = core.versions[core.routes[ONE_ROUTE].champion]
        name, digest = version.name, version.digest
    else:
        digest = arrivals.read(settings.state_dir).champion
        if not digest:
            return None
        name = version_name(1, digest)
    return _Served(name, shelf_of(settings.state_dir).model_folder(digest), digest)


class _Follower:
    """Says what the champion is now: looks again every two seconds."""

    def __init__(self, settings: "Settings", served: _Served) -> None:
        self._settings, self._served = settings, served
        self._next_s, self._wrong = 0.0, ""

    def __call__(self) -> _Served:
        from pipeline.state_file import StateError

        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _FOLLOW_S
            try:
                self._served = _champion_now(self._settings) or self._served
                self._wrong = ""
            except (StateError, sqlite3.Error, OSError) as error:
                # What is served goes on; a state that cannot be read is no reason to stop.
                if str(error) != self._wrong:
                    self._wrong = str(error)
                    typer.echo(f"the champion cannot be read: {error}", err=True)
        return self._served


def _serve(serving: "LocalServing", wanted: Callable[[], _Served], *, as_json: bool) -> None:
    from deploy.controller import BackendError, reconcile
    from deploy.rollout_plan import Traffic
    from deploy.seldon_local import LocalBackend
    from deploy.seldon_process import ModelFolder

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    known: dict[str, ModelFolder] = {}
    try:
        backend = LocalBackend(serving, known.__getitem__)
    except BackendError as error:
        fail(str(error), EXIT_CONFIG)
    told: _Served | None = None
    wrong = ""
    try:
        while not stop.is_set():
            served = wanted()
            known[served.version] = ModelFolder(served.folder, served.digest)
            seen = reconcile(Traffic(served.version), backend)
            failures = backend.failures().get(served.version)
            if seen.live and told != served:
                told = served
                _tell(backend, served, as_json=as_json)
            if not seen.live and seen.error and seen.error != wrong:
                wrong = seen.error
                typer.echo(wrong, err=True)
            if failures is not None and failures.count >= _MOST_FAILURES and told is None:
                fail(f"the model cannot be served: {failures.reason}", EXIT_DATA)
            if told is None and failures is None and seen.error and seen.retry_in_s is None:
                fail(seen.error, EXIT_CONFIG)
            stop.wait(min(seen.retry_in_s or _TURN_S, _TURN_S))
    finally:
        backend.close()


def _tell(backend: "LocalBackend", served: _Served, *, as_json: bool) -> None:
    url = backend.router.url
    metrics = f"http://127.0.0.1:{backend.processes()[served.version].metrics_port}/metrics"
    facts = {
        "model_version": served.version,
        "digest": served.digest,
        "predictions": f"{url}/api/v1.0/predictions",
        "feedback": f"{url}/api/v1.0/feedback",
        "health": f"{url}/health/status",
        "metrics": metrics,
        "logs": str(backend.logs),
    }
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' '):<14}{value}")
