"""``metadrift serve``: one model behind a router, on this machine, without the daemon."""

import os
import signal
import threading
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
    from deploy.seldon_process import ModelFolder

HELP = """Serve a model over HTTP on loopback: Seldon's model server behind HAProxy.

The model is the champion of the state folder as it is now, or the one in a folder of its own
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
_MOST_FAILURES = 5


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
    version, folder, logs = _own_model(model) if model else _champion(config)

    from deploy.seldon_local import LocalServing

    serving = LocalServing(
        python=python, logs=logs, port=port, threads=threads, python_path=tuple(python_path or ())
    )
    _serve(serving, version, folder, as_json=as_json)


def _own_model(model: Path) -> tuple[str, "ModelFolder", Path]:
    """Return version, folder and log folder of a model folder."""
    import hashlib
    import tempfile

    from adapters.model_file import MANIFEST
    from deploy.seldon_process import ModelFolder

    try:
        digest = hashlib.sha256((model / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        fail(f"--model: {model}: {error.strerror}; name a model folder", EXIT_DATA)
    logs = Path(tempfile.gettempdir()) / f"metadrift-serve-{digest[:8]}"
    return f"0-{digest[:8]}", ModelFolder(model, f"sha256:{digest}"), logs


def _champion(config: Path) -> tuple[str, "ModelFolder", Path]:
    """Return version, folder and log folder of the champion."""
    from deploy.seldon_process import ModelFolder
    from pipeline import arrivals
    from pipeline.commands.state_view import core_here
    from pipeline.core_state import ONE_ROUTE
    from pipeline.fold import shelf_of
    from pipeline.turn import version_name

    settings = settings_from(config)
    core = core_here(settings)
    if core is not None and core.versions:
        version = core.versions[core.routes[ONE_ROUTE].champion]
        name, digest = version.name, version.digest
    else:
        digest = arrivals.read(settings.state_dir).champion
        if not digest:
            fail(
                f"there is no champion in {settings.state_dir}: make one with "
                "`metadrift meta-train FILE --label COLUMN` or bring one with "
                "`metadrift model import DIR`",
                EXIT_NO_CHAMPION,
            )
        name = version_name(1, digest)
    folder = shelf_of(settings.state_dir).model_folder(digest)
    return name, ModelFolder(folder, digest), settings.state_dir / "serving"


def _serve(serving: "LocalServing", version: str, folder: "ModelFolder", *, as_json: bool) -> None:
    from deploy.controller import BackendError, reconcile
    from deploy.rollout_plan import Traffic
    from deploy.seldon_local import LocalBackend

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        backend = LocalBackend(serving, {version: folder}.__getitem__)
    except BackendError as error:
        fail(str(error), EXIT_CONFIG)
    told, wrong = False, ""
    try:
        while not stop.is_set():
            seen = reconcile(Traffic(version), backend)
            failures = backend.failures().get(version)
            if seen.live and not told:
                told = True
                _tell(backend, version, folder, as_json=as_json)
            if not seen.live and seen.error and seen.error != wrong:
                wrong = seen.error
                typer.echo(wrong, err=True)
            if failures is not None and failures.count >= _MOST_FAILURES and not told:
                fail(f"the model cannot be served: {failures.reason}", EXIT_DATA)
            if not told and failures is None and seen.error and seen.retry_in_s is None:
                fail(seen.error, EXIT_CONFIG)
            stop.wait(min(seen.retry_in_s or _TURN_S, _TURN_S))
    finally:
        backend.close()


def _tell(backend: "LocalBackend", version: str, folder: "ModelFolder", *, as_json: bool) -> None:
    url = backend.router.url
    metrics = f"http://127.0.0.1:{backend.processes()[version].metrics_port}/metrics"
    facts = {
        "model_version": version,
        "digest": folder.digest,
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
