"""Which servers answer beside the daemon, and how they are reached."""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from deploy.prometheus_api import check_address
from deploy.seldon_objects import ModelArtifact
from pipeline.settings_section import Section, changed

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class KubernetesSettings(Section):
    """With backend kubernetes: what Seldon Core shall serve, and how we reach the cluster."""

    name: str = Field("metadrift-model", pattern=r"^[a-z0-9]+(-+[a-z0-9]+)*$", max_length=40)
    """Of the SeldonDeployment or Experiment; made when missing. The Role names it too."""
    dialect: Literal["v1", "core2"] = "v1"
    """v1: a SeldonDeployment of Seldon Core 1; core2: Model and Experiment of Core 2."""
    models: str | None = None
    """s3://, gs:// or pvc:// copy of state_dir/shelf/models, which you keep; null: in the image."""
    image: str | None = None
    """v1: the model server's image; {version} in it becomes the model version."""
    implementation: str | None = None
    """v1: server in the operator's configuration that fetches from models."""
    container: str = Field("classifier", pattern=r"^[a-z0-9]+(-+[a-z0-9]+)*$")
    """v1: name of the model server's container."""
    replicas: int = Field(1, ge=1)
    """v1: pods per version."""
    resources: dict[str, Any] = Field({})
    """v1: requests and limits of the container."""
    service_account: str | None = None
    """v1: of the model servers' pods, for access to the store; null: the namespace's default."""
    requirements: tuple[str, ...] = ()
    """core2: what the models need of a server, as Model.spec.requirements."""
    kubeconfig: Path | None = None
    """How to reach the cluster; null: as the pod's service account, in its own namespace."""
    context: str | None = None
    """Of the kubeconfig; null: its current one."""
    namespace: str | None = None
    """With kubeconfig: where the objects live."""
    lease: str | None = None
    """Lease without which nothing is changed, for a second replica; null: none is asked for."""
    lease_s: int = Field(15, ge=5)
    """Seconds after which a holder of the lease that is silent has lost it."""

    prometheus: str | None = None
    """Address of the Prometheus that scrapes the model servers, for the guards; null: not read."""
    prometheus_token_file: Path | None = None
    """Holds a bearer token for it, read anew for each question; null: none is sent."""
    prometheus_labels: dict[str, str] = Field({})
    """Further labels of the model servers' series there, such as namespace."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self._can_be_asked()
        if self.models is not None:
            ModelArtifact(f"{self.models}/model", "")
        if self.dialect == "v1":
            self._fits_v1()
        else:
            self._fits_core2()
        if self.kubeconfig is None and (self.context is not None or self.namespace is not None):
            raise ValueError(
                "context and namespace belong to a kubeconfig: name one, or remove them (in a pod "
                "its service account and its own namespace are taken)"
            )
        if self.kubeconfig is not None and self.namespace is None:
            raise ValueError("namespace is null: say in which one of the kubeconfig's cluster")
        if self.lease is None and self.lease_s != 15:
            raise ValueError(f"lease_s is {self.lease_s} and lease is null: name the lease")
        return self

    def _can_be_asked(self) -> None:
        if self.prometheus is not None:
            check_address(self.prometheus, self.prometheus_token_file)
        own = ("prometheus_token_file", "prometheus_labels")
        if self.prometheus is None and (idle := [key for key in own if changed(self, key)]):
            raise ValueError(f"{', '.join(idle)} is set and prometheus is null: set prometheus")
        for name in self.prometheus_labels:
            if not _LABEL.fullmatch(name) or name in ("__name__", "model_version", "outcome", "le"):
                raise ValueError(f"prometheus_labels names {name!r}: use labels that scraping adds")

    def _fits_v1(self) -> None:
        if self.requirements:
            raise ValueError("requirements belong to dialect core2: remove them")
        if (self.models is None) != (self.implementation is None):
            raise ValueError(
                f"models is {self.models!r} and implementation {self.implementation!r}: the "
                "operator fetches models for implementations only; set both, or neither where the "
                "image holds the model"
            )

    def _fits_core2(self) -> None:
        own = ("image", "implementation", "container", "replicas", "resources", "service_account")
        if idle := [key for key in own if changed(self, key)]:
            raise ValueError(f"{', '.join(idle)} belongs to dialect v1: remove it")


class ServingSettings(Section):
    """Model servers that other services ask, beside the daemon's own answers."""

    backend: Literal["embedded", "local", "kubernetes"] = "embedded"
    """embedded: only the daemon; local: Seldon behind HAProxy here; kubernetes: Seldon Core."""
    port: int = Field(0, ge=0, le=65_535)
    """local: the router's port on loopback; 0: a free one (state_dir/serving.json says which)."""
    threads: int = Field(4, ge=1, le=64)
    """local: requests that one model server answers at a time."""
    start_s: float = Field(120.0, gt=0)
    """local: seconds after which a model server that does not answer has failed to start."""
    environment: Path | None = None
    """local: cache folder of the model server's environment; null: the user's."""
    python_path: tuple[Path, ...] = ()
    """local: folders with the modules of your own architectures."""
    kubernetes: KubernetesSettings = KubernetesSettings()

    @model_validator(mode="after")
    def _used(self) -> Self:
        idle = [key for key in type(self).model_fields if changed(self, key)]
        for key in idle:
            home = "kubernetes" if key == "kubernetes" else "local"
            if key != "backend" and self.backend != home:
                raise ValueError(
                    f"{key} says nothing with backend {self.backend}: remove it, or set backend "
                    f"to {home}"
                )
        if self.backend == "kubernetes":
            self._deployable()
        return self

    def _deployable(self) -> None:
        cluster = self.kubernetes
        if cluster.dialect == "v1" and cluster.image is None:
            raise ValueError("kubernetes.image is null: name the model server's image")
        if cluster.dialect == "core2" and (cluster.models is None or not cluster.requirements):
            raise ValueError(
                "kubernetes.models and kubernetes.requirements are needed by dialect core2: say "
                "where it fetches models and what they need of a server"
            )
