"""The model server without Seldon around it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.model_file import ModelFileError
from deploy.serving.messages import RequestError, WrongVersionError
from deploy.serving.model_server import ModelServer, NotReadyError
from tests.deploy.served_models import OTHER_ROW, ROW, make_model, probabilities, request, save


@pytest.fixture
def server(tmp_path: Path) -> ModelServer:
    """A loaded server."""
    folder = save(tmp_path / "model", make_model())
    made = ModelServer(folder.folder, folder.digest, "3-ab")
    made.load()
    return made


def test_it_answers_as_the_model_does_and_says_who_it_is(tmp_path: Path) -> None:
    folder = save(tmp_path, make_model())
    server = ModelServer(folder.folder, folder.digest, "3-ab")
    server.load()
    answer: Any = server.predict(request(ROW, OTHER_ROW))
    assert answer["data"]["ndarray"] == probabilities(folder, ROW, OTHER_ROW)
    assert answer["meta"]["tags"] == {
        "model_version": "3-ab",
        "model_digest": folder.digest,
        "arm": "stable",
    }
    assert server.counters.value("ok") == 1
    assert server.counters.value("rows") == 2


def test_the_router_says_which_arm_it_is(server: ModelServer) -> None:
    said = [server.predict(request(ROW), arm) for arm in ("candidate", "stable", "other", None)]
    arms = [answer["meta"]["tags"]["arm"] for answer in said]  # type: ignore[index]
    assert arms == ["candidate", "stable", "stable", "stable"]


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, make_model())
    weights = folder.folder / "weights.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(ModelFileError, match="hash"):
        ModelServer(folder.folder, folder.digest, "3-ab").load()
    with pytest.raises(ModelFileError, match="hashes to"):
        ModelServer(save(tmp_path / "b", make_model(1)).folder, folder.digest, "3-ab").load()


def test_it_is_not_ready_before_the_model_is_loaded(tmp_path: Path) -> None:
    folder = save(tmp_path, make_model())
    server = ModelServer(folder.folder, folder.digest, "3-ab")
    with pytest.raises(NotReadyError, match="3-ab is not loaded"):
        server.predict(request(ROW))
    with pytest.raises(NotReadyError):
        server.health()


def test_health_asks_the_model_itself(server: ModelServer) -> None:
    assert server.health()["model_version"] == "3-ab"
    with torch.no_grad():
        for parameter in server.model.module.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(NotReadyError, match="not finite"):
        server.health()
    with pytest.raises(NotReadyError, match="not finite"):
        server.predict(request(ROW))
    assert server.counters.value("failed") == 1


def test_a_model_that_answers_nothing_finite_does_not_load(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.fill_(torch.inf)
    folder = save(tmp_path, model)
    with pytest.raises(NotReadyError, match="not finite"):
        ModelServer(folder.folder, folder.digest, "3-ab").load()


def test_feedback_is_counted_also_when_it_is_worth_nothing(server: ModelServer) -> None:
    answer = {"response": server.predict(request(ROW))}
    for reward in (0.0, 0.0, 1.5, -0.5):
        server.feedback(answer, reward)
    assert (server.counters.value("feedback"), server.counters.value("reward")) == (4, 1.0)
    with pytest.raises(RequestError, match="reward is nan"):
        server.feedback(answer, float("nan"))
    with pytest.raises(WrongVersionError, match="'2-cd', this is '3-ab'"):
        server.feedback({"response": {"meta": {"tags": {"model_version": "2-cd"}}}}, 1.0)
    assert server.counters.value("feedback") == 4


def test_refused_requests_are_counted_apart(server: ModelServer) -> None:
    with pytest.raises(RequestError):
        server.predict({"strData": "x"})
    assert (server.counters.value("ok"), server.counters.value("refused")) == (0, 1)
    assert 'requests_total{outcome="refused",model_version="3-ab"} 1.0' in server.counters.text()


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arm is 'canary'"):
        ModelServer(tmp_path, "sha256:00", "v", "canary")
    with pytest.raises(ValueError, match="digest is empty"):
        ModelServer(tmp_path, "", "v")
