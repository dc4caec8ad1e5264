"""The model server's image, as far as that goes without an engine: its files, user and start.

What the Dockerfile copies is laid out in a folder and started as the operator starts a container:
no arguments of its own, everything in the environment.
"""

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest

import deploy.serving
from deploy.server_process import ServerProcess
from tests.deploy.served_models import ROW, make_model, probabilities, request, save
from tests.deploy.test_server_process import wait_for
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.serving import serving_python_for_tests

ROOT = Path(deploy.serving.__file__).parents[2]
FOLDER = ROOT / "deploy/serving"
STAGES = re.sub(r"\\\n\s*", " ", (FOLDER / "Dockerfile").read_text()).split("\nFROM ")[1:]
BUILD, FINAL = ([line.split() for line in stage.splitlines() if line] for stage in STAGES)


def copied(stage: list[list[str]]) -> list[tuple[Path, str]]:
    """Return each file that a stage takes from the repository, and where to."""
    found = []
    for words in stage:
        if words[0] == "COPY" and "--from" not in words[1]:
            *names, target = words[1:]
            found += [(path, target) for name in names for path in sorted(ROOT.glob(name))]
            assert all([*ROOT.glob(name)] for name in names), words
    return found


def test_every_file_that_is_copied_is_there_and_sent_to_the_engine() -> None:
    sent = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    assert sent[0] == "*"
    for path, _ in [*copied(BUILD), *copied(FINAL)]:
        assert f"!{path.relative_to(ROOT).parts[0]}" in sent, path


def test_it_runs_as_a_numbered_user_on_the_python_of_its_environment() -> None:
    assert [words[1] for words in FINAL if words[0] == "USER"] == ["10001:10001"]
    assert {stage[0][0] for stage in (BUILD, FINAL)} == {"python:3.11-slim-bookworm"}
    assert "requirements.txt" in {path.name for path, _ in copied(BUILD)}


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_its_files_alone_answer_as_the_operator_starts_them(tmp_path: Path) -> None:
    for path, target in copied(FINAL):
        folder = tmp_path / target.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    model = save(tmp_path / "mnt", make_model(1))
    (words,) = (words for words in FINAL if words[0] == "ENTRYPOINT")
    program = json.loads(" ".join(words[1:]))
    assert program[0] == "/opt/serving/bin/python" and program[-2:] == ["--host", "0.0.0.0"]  # noqa: S104
    (line,) = (words for words in FINAL if words[0] == "ENV")
    env = dict(word.split("=", 1) for word in line[1:])
    assert env["PYTHONPATH"] == "/app"
    parameters = {"model_dir": str(model.folder), "digest": model.digest, "version": "1-a"}
    http_port, grpc_port, metrics_port = free_ports(3)
    env |= {
        "PYTHONPATH": str(tmp_path / "app"),
        "TMPDIR": str(tmp_path),
        "PREDICTIVE_UNIT_PARAMETERS": json.dumps(
            [{"name": n, "value": v, "type": "STRING"} for n, v in parameters.items()]
        ),
        "PREDICTIVE_UNIT_HTTP_SERVICE_PORT": str(http_port),
        "PREDICTIVE_UNIT_GRPC_SERVICE_PORT": str(grpc_port),
        "PREDICTIVE_UNIT_METRICS_SERVICE_PORT": str(metrics_port),
    }
    argv = [str(serving_python_for_tests()), *program[1:-1], LOOPBACK]
    server = ServerProcess(argv, log=tmp_path / "log", env=env)
    url = f"http://{LOOPBACK}:{http_port}"
    try:
        with httpx.Client(timeout=60, trust_env=False) as client:

            def ready() -> bool:
                assert server.exit_code is None, server.log_tail()
                try:
                    return client.get(f"{url}/health/status").status_code == 200
                except httpx.TransportError:
                    return False

            wait_for(ready)
            answer = client.post(f"{url}/api/v1.0/predictions", json=request(ROW)).json()
    finally:
        server.kill()
    assert answer["meta"]["tags"]["model_version"] == "1-a"
    assert answer["data"]["ndarray"] == [pytest.approx(probabilities(model, ROW)[0], abs=1e-6)]
