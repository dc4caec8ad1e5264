"""`metadrift serve`: a model folder, or the champion of a state folder, over HTTP."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core_state import Core
from pipeline.fold import shelf_of
from tests.deploy.served_models import ROW, make_model, probabilities, request, save
from tests.pipeline.live_daemon import wait_until
from tests.pipeline.made_state import core_in_canary, write_config, write_state
from tests.servers.haproxy import make_sure_of_haproxy
from tests.servers.serving import CACHE, serving_python_for_tests

PATIENCE_S = 240.0


def refused(*args: str | Path, code: int) -> str:
    found = CliRunner().invoke(app, ["serve", *(str(a) for a in args)])
    assert found.exit_code == code, found.output
    return found.stderr


def test_a_missing_environment_is_asked_for_by_its_command(tmp_path: Path) -> None:
    said = refused("--model", tmp_path, "--environment", tmp_path / "none", code=2)
    assert "`metadrift serve --make-environment`" in said


@pytest.mark.integration
def test_what_is_missing_is_named(tmp_path: Path) -> None:
    serving_python_for_tests()
    here = ("--environment", CACHE)
    assert "name a model folder" in refused("--model", tmp_path / "none", *here, code=3)
    said = refused("-c", write_config(tmp_path), *here, code=4)
    assert "metadrift model import DIR" in said


@contextmanager
def serving(*args: str | Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run the command; yield it and what it told once it served."""
    make_sure_of_haproxy()
    serving_python_for_tests()
    words = ["serve", "--json", "--environment", str(CACHE), *map(str, args)]
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *words]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:
        patience = Timer(PATIENCE_S, process.kill)
        patience.start()
        try:
            told = next_told(process)
            patience.cancel()
            yield process, told
        finally:
            patience.cancel()
            process.kill()


def next_told(process: subprocess.Popen[str]) -> Any:
    """Read what the command tells when another version serves."""
    assert process.stdout is not None
    text = ""
    while not text.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, "the command ended before it served"
        text += line
    return json.loads(text)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    assert len(found) >= 4  # two leashes, a router, a model server
    return found


def gone(processes: list[psutil.Process]) -> bool:
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_model_folder_is_served_until_sigterm(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", make_model())
    with serving("--model", folder.folder) as (process, told):
        assert told["digest"] == folder.digest
        answer = httpx.post(told["predictions"], json=request(ROW), timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        (wanted,) = probabilities(folder, ROW)
        assert answer.json()["data"]["ndarray"] == [pytest.approx(wanted, abs=1e-6)]
        assert answer.json()["meta"]["tags"]["model_version"] == told["model_version"]
        feedback = {"response": answer.json(), "reward": 0}
        sent = httpx.post(told["feedback"], json=feedback, timeout=60, trust_env=False)
        assert sent.status_code == 200, sent.text
        metrics = httpx.get(told["metrics"], timeout=60, trust_env=False).text
        assert "metadrift_serving_feedback_total{" in metrics
        started = descendants(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert gone(started)


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_the_champion_is_served_and_a_kill_leaves_no_orphan(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    folder = save(tmp_path / "model", make_model())
    imported = CliRunner().invoke(app, ["model", "import", str(folder.folder), "-c", str(config)])
    assert imported.exit_code == 0, imported.output
    with serving("-c", config) as (process, told):
        assert told["digest"] == folder.digest
        assert told["model_version"] == f"1-{folder.digest[7:15]}"
        health = httpx.get(told["health"], timeout=60, trust_env=False).json()
        assert health["model_version"] == told["model_version"]
        started = descendants(process)
        process.kill()
        process.wait(60)
        wait_until(lambda: gone(started), "the end of what it had started")


def core_with(digests: list[str], champion: int) -> Core:
    core = core_in_canary()
    route = core.routes["*"]
    route.champion, route.rollout, route.rollout_candidate = champion, None, 0
    for number, digest in enumerate(digests, start=1):
        version = core.versions[number]
        version.digest, version.name = digest, f"{number}-{digest[7:15]}"
    return core


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_it_follows_a_promotion_and_loses_no_request(tmp_path: Path) -> None:
    config, state_dir = write_config(tmp_path), tmp_path / "state"
    shelf = shelf_of(state_dir)
    digests = [shelf.put_model(make_model(seed)) for seed in (1, 2)]
    write_state(state_dir, core_with(digests, 1), [])
    with (
        serving("-c", config) as (process, told),
        httpx.Client(timeout=60, trust_env=False) as client,
    ):
        assert told["digest"] == digests[0]

        def ask() -> str:
            answer = client.post(told["predictions"], json=request(ROW)).raise_for_status()
            digest: str = answer.json()["meta"]["tags"]["model_digest"]
            return digest

        assert {ask() for _ in range(5)} == {digests[0]}
        write_state(state_dir, core_with(digests, 2), [])
        wait_until(lambda: ask() == digests[1], "the new champion's answers")
        assert {ask() for _ in range(5)} == {digests[1]}
        then = next_told(process)
        assert (then["digest"], then["predictions"]) == (digests[1], told["predictions"])
