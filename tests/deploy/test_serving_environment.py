"""The model server's environment: where it is, how it is asked for, what is in it."""

import subprocess
from pathlib import Path

import pytest

from deploy import serving_environment
from deploy.haproxy_router import RouterError, find_haproxy
from deploy.serving_environment import (
    ServingEnvironmentError,
    cache_folder,
    environment_folder,
    find_python,
    make_environment,
    serving_python,
)
from tests.servers.serving import CACHE, serving_python_for_tests

SERVING = Path(serving_environment.__file__).with_name("serving")


def test_it_is_named_by_what_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment_folder(tmp_path)
    assert before.parent == tmp_path
    pins = tmp_path / "requirements.txt"
    pins.write_text("seldon-core==1.17.1\n")
    monkeypatch.setattr(serving_environment, "_PINS", (pins,))
    assert environment_folder(tmp_path) != before


def test_one_that_was_not_finished_is_not_used(tmp_path: Path) -> None:
    folder = environment_folder(tmp_path)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    with pytest.raises(ServingEnvironmentError, match="metadrift serve --make-environment"):
        serving_python(tmp_path)


def test_a_missing_python_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        serving_environment.platform, "python_version_tuple", lambda: ("3", "13", "0")
    )
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServingEnvironmentError, match=r"needs Python 3.11 .* install it: "):
        find_python()


def test_a_missing_haproxy_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("deploy.haproxy_router._SYSTEM_FOLDERS", "")
    with pytest.raises(RouterError, match=r"needs HAProxy 2\.6 or newer; install it: "):
        find_haproxy()


def test_what_fails_is_told_with_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text("this is no requirement ===\n")
    monkeypatch.setattr(serving_environment, "_PINS", (pins,))
    with pytest.raises(ServingEnvironmentError, match="environment failed at"):
        make_environment(tmp_path / "cache")
    with pytest.raises(ServingEnvironmentError):
        serving_python(tmp_path / "cache")


def test_the_users_cache_is_the_default() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/metadrift")
    assert cache_folder({}) == Path.home() / ".cache" / "metadrift"


def test_pins_name_no_address() -> None:
    for name in ("requirements.txt", "constraints.txt"):
        lines = (SERVING / name).read_text().splitlines()
        kept = [line for line in lines if line and not line.startswith(("#", "-c "))]
        assert kept
        assert not [line for line in kept if "@" in line or "/" in line or "--" in line]


@pytest.mark.integration
def test_it_holds_seldon_and_not_our_libraries() -> None:
    python = serving_python_for_tests()
    assert serving_python(CACHE) == python
    asked = (
        "import importlib.metadata as m, importlib.util as u\n"
        "print(m.version('seldon-core'), m.version('torch') > '2', u.find_spec('river'))"
    )
    told = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["1.17.1", "True", "None"]
