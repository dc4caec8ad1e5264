"""The manifests, the Dockerfile and the compose file, held to the API server and to the code."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from pipeline.cli import app
from pipeline.settings import parse_settings
from tests.deploy.seldon_cluster import MANIFESTS, NAME, SeldonWorld, manifest
from tests.servers.kube_admin import KubeAdmin, RefusedError
from tests.servers.kube_api_server import KubeApiServer

ROOT = MANIFESTS.parents[1]
CONTAINER = ROOT / "deploy" / "container"
FILES = sorted(p.relative_to(MANIFESTS) for p in MANIFESTS.rglob("*.yaml"))
RESOURCES = [f for f in FILES if f.name not in {"kustomization.yaml", "metadrift.yaml"}]
NOT_KUBERNETES_OWN = {"ServiceMonitor"}
PLURALS = {"NetworkPolicy": "networkpolicies"}


def kustomizations() -> dict[Path, Any]:
    return {f.parent: manifest(str(f))[0] for f in FILES if f.name == "kustomization.yaml"}


def path_of(document: dict[str, Any], namespace: str) -> str:
    version, kind = document["apiVersion"], document["kind"]
    root = "apis" if "/" in version else "api"
    plural = PLURALS.get(kind, f"{kind.lower()}s")
    return f"/{root}/{version}/namespaces/{namespace}/{plural}"


def test_every_file_is_part_of_a_kustomization_and_every_part_is_a_file() -> None:
    used: set[Path] = set()
    for folder, made in kustomizations().items():
        for resource in (*made.get("resources", []), *made.get("components", [])):
            there = (MANIFESTS / folder / resource).resolve()
            assert there.exists(), f"{folder}: {resource}"
            used.add(there.relative_to(MANIFESTS))
        for generator in made.get("configMapGenerator", []):
            used |= {folder / name for name in generator["files"]}
    assert set(RESOURCES) | {Path("base/metadrift.yaml")} <= used


@pytest.mark.integration
@pytest.mark.parametrize("file", [str(file) for file in RESOURCES])
def test_the_server_takes_every_object_with_every_field(world: SeldonWorld, file: str) -> None:
    for document in manifest(file):
        if document["kind"] in NOT_KUBERNETES_OWN:
            assert document["spec"]["endpoints"]
            continue
        document["metadata"]["name"] += "-again"  # the world has those of the base already
        path = path_of(document, world.namespace) + "?dryRun=All&fieldValidation=Strict"
        for subject in document.get("subjects", []):
            subject["namespace"] = world.namespace
        world.admin.call("POST", path, document)


@pytest.mark.integration
def test_the_daemons_pod_meets_the_restricted_pod_security_standard(
    world: SeldonWorld, seldon_server: KubeApiServer
) -> None:
    (daemon,) = manifest("base/daemon.yaml")
    template = daemon["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {**template["metadata"], "name": "daemon"}
    with KubeAdmin(seldon_server) as admin:
        label = {"pod-security.kubernetes.io/enforce": "restricted"}
        path = f"/api/v1/namespaces/{world.namespace}"
        admin.merge(path, {"metadata": {"labels": label}})
        admin.call("POST", f"{path}/pods?dryRun=All", pod)
        weak = {**pod, "spec": {**pod["spec"], "hostNetwork": True}}
        with pytest.raises(RefusedError, match="violates PodSecurity"):
            admin.call("POST", f"{path}/pods?dryRun=All", weak)


def test_the_daemon_has_one_replica_and_one_volume_at_a_time() -> None:
    (daemon,) = manifest("base/daemon.yaml")
    (volume,) = manifest("base/state.yaml")
    assert daemon["spec"]["replicas"] == 1
    assert daemon["spec"]["strategy"] == {"type": "Recreate"}
    assert volume["spec"]["accessModes"] == ["ReadWriteOncePod"]
    (container,) = daemon["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    settings = parse_settings(yaml.safe_load((MANIFESTS / "base/metadrift.yaml").read_text()))
    assert any(str(settings.state_dir).startswith(folder) for folder in writable)
    (port,) = container["ports"]
    assert port["containerPort"] == settings.http.port
    (service,) = manifest("base/service.yaml")
    assert service["spec"]["ports"][0]["port"] == settings.http.port
    assert settings.http.host == "0.0.0.0"  # noqa: S104 - within a pod


def test_every_name_in_the_roles_is_the_same_one() -> None:
    names = {
        name
        for file in ("base/access.yaml", "core2/access.yaml")
        for document in manifest(file)
        for rule in document.get("rules", [])
        for name in rule.get("resourceNames", [])
    }
    assert names == {NAME, f"{NAME}-http", f"{NAME}-grpc"}


def test_the_image_runs_as_nobody_special_from_files_that_exist() -> None:
    text = (CONTAINER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = [line.split() for line in lines]
    kinds = {w[0] for w in words}
    known = {"FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "VOLUME", "EXPOSE"}
    assert kinds <= known | {"ENTRYPOINT", "CMD"}
    assert all(re.fullmatch(r"python:\d\.\d+-slim", w[1]) for w in words if w[0] == "FROM")
    copied = [name for w in words if w[0] == "COPY" and "--from" not in w[1] for name in w[1:-1]]
    assert {"pyproject.toml", "pipeline", "detectors", "adapters", "deploy"} <= set(copied)
    sent = (CONTAINER / "Dockerfile.dockerignore").read_text().split()
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in sent, name
    (user,) = (w[1] for w in words if w[0] == "USER")
    (daemon,) = manifest("base/daemon.yaml")
    context = daemon["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_the_commands_in_containers_are_ones_that_metadrift_understands() -> None:
    services = yaml.safe_load((CONTAINER / "compose.yaml").read_text())["services"]
    (daemon,) = manifest("base/daemon.yaml")
    (container,) = daemon["spec"]["template"]["spec"]["containers"]
    (last,) = re.findall(r"^CMD (.+)$", (CONTAINER / "Dockerfile").read_text(), re.MULTILINE)
    command: Any = typer.main.get_command(app)
    ours = [services["topics"]["command"], services["daemon"]["command"], container["args"]]
    for verb, *options in (*ours, json.loads(last)):
        chosen = command.commands[verb]
        chosen.make_context(verb, options)  # a UsageError says what is wrong


def test_the_compose_file_publishes_on_loopback_only_and_writes_to_volumes_only() -> None:
    services = yaml.safe_load((CONTAINER / "compose.yaml").read_text())["services"]
    assert set(services) == {"kafka", "mlflow", "topics", "daemon"}
    for name, service in services.items():
        assert all(p.startswith("127.0.0.1:") for p in service.get("ports", [])), name
        if "build" in service:
            assert service["read_only"] is True
            where = CONTAINER / service["build"]["context"]
            assert (where / service["build"]["dockerfile"]).is_file()
        assert set(service.get("depends_on", {})) <= set(services)
    settings = parse_settings(yaml.safe_load((MANIFESTS / "base/metadrift.yaml").read_text()))
    assert services["daemon"]["ports"] == [f"127.0.0.1:{settings.http.port}:{settings.http.port}"]
