"""``metadrift run``: the daemon."""

import signal
import sqlite3
import threading
from typing import Annotated

import typer

from pipeline.commands.common import (
    CONFIG,
    DEFAULT_CONFIG,
    EXIT_BROKER,
    EXIT_CONFIG,
    EXIT_NO_CHAMPION,
    EXIT_TAKEN_OVER,
    fail,
    settings_from,
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", help=HELP)(run)


HELP = """Keep the model right: read events and labels, watch, adapt, roll out.

Runs until SIGTERM or SIGINT, then drains within 5 seconds.

Example: metadrift run -c metadrift.yaml

Exit codes: 0 stopped, 2 configuration, 4 no champion, 5 topics, 6 another process took over,
70 the poll loop hung.
"""


def run(
    config: CONFIG = DEFAULT_CONFIG,
    accept_lost: Annotated[
        bool,
        typer.Option(help="Go on where the broker begins when it lost the next record."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Log JSON lines, whatever log.format says.")
    ] = False,
) -> None:
    """Own the model and work until told to stop."""
    settings = settings_from(config)
    import torch

    from adapters.model_file import ModelFileError
    from pipeline.config_checks import (
        check_detectors,
        check_labels,
        check_rollout,
        check_serving,
    )
    from pipeline.core_state import Core
    from pipeline.daemon import Daemon, NoChampionError
    from pipeline.http_server import HttpAddressError
    from pipeline.kafka_sink import FencedError
    from pipeline.kafka_source import SourceError
    from pipeline.logs import set_up_logs
    from pipeline.serving_backends import ServingError
    from pipeline.state_file import NotOwnerError, StateError

    torch.set_num_threads(1)
    log = settings.log.model_copy(update={"format": "json"}) if as_json else settings.log
    set_up_logs(log)
    checks = (
        *(*check_detectors(settings), *check_labels(settings)),
        *(*check_rollout(settings, Core()), *check_serving(settings)),
    )
    wrong = [f"{c.about}: {c.says}" for c in checks if c.level == "error"]
    if wrong:
        fail("\n".join(wrong), EXIT_CONFIG)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        Daemon(settings, stop).run(accept_lost=accept_lost)
    except NoChampionError as error:
        fail(str(error), EXIT_NO_CHAMPION)
    except SourceError as error:
        fail(str(error), EXIT_BROKER)
    except (NotOwnerError, FencedError) as error:
        fail(str(error), EXIT_TAKEN_OVER)
    except (StateError, HttpAddressError, ServingError) as error:
        fail(str(error), EXIT_CONFIG)
    except ModelFileError as error:
        fail(
            f"state_dir: {settings.state_dir}: a model that the state names: {error}; bring shelf/ "
            "back from the backup of state.sqlite, or start anew under another state_dir",
            EXIT_CONFIG,
        )
    except sqlite3.Error as error:
        fail(
            f"state_dir: {settings.state_dir}: {error}: nothing half-written is left; make room "
            "or make the folder writable, and start again",
            EXIT_CONFIG,
        )
