"""Serving's keys: each does something where it stands, or is refused by its name."""

import pytest
import yaml

from pipeline.config_checks import check_serving
from pipeline.config_template import render_config
from pipeline.settings import ConfigError, Settings, parse_settings


def parsed(**serving: object) -> Settings:
    return parse_settings({"model": {"name": "m"}, "serving": serving})


def on_cluster(**kubernetes: object) -> Settings:
    return parsed(backend="kubernetes", kubernetes=kubernetes)


@pytest.mark.parametrize(
    ("serving", "says"),
    [
        ({"port": 1}, "port says nothing with backend embedded"),
        ({"backend": "kubernetes", "threads": 2}, "threads says nothing with backend kubernetes"),
        (
            {"backend": "local", "kubernetes": {"name": "a"}},
            "kubernetes says nothing with backend local",
        ),
        ({"backend": "kubernetes"}, "kubernetes.image is null"),
    ],
)
def test_keys_of_another_backend_are_refused(serving: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parsed(**serving)


@pytest.mark.parametrize(
    ("kubernetes", "says"),
    [
        ({"image": "i", "requirements": ["python"]}, "requirements belong to dialect core2"),
        ({"image": "i", "models": "s3://b/m"}, "set both, or neither"),
        ({"image": "i", "implementation": "METADRIFT"}, "set both, or neither"),
        ({"image": "i", "context": "c"}, "belong to a kubeconfig"),
        ({"image": "i", "kubeconfig": "k"}, "namespace is null"),
        ({"image": "i", "lease_s": 30}, "name the lease"),
        (
            {"image": "i", "models": "models:/m/1", "implementation": "M"},
            "expected s3://, gs:// or pvc://",
        ),
        (
            {"image": "i", "models": "s3://b/m/", "implementation": "M"},
            "expected s3://, gs:// or pvc://",
        ),
        ({"dialect": "core2", "requirements": ["python"]}, "are needed by dialect core2"),
        ({"dialect": "core2", "models": "s3://b"}, "are needed by dialect core2"),
        ({"dialect": "core2", "image": "i", "replicas": 2}, "image, replicas belongs to dialect"),
        ({"image": "i", "name": "Upper"}, "kubernetes.name"),
        ({"image": "i", "prometheus": "p:9090"}, "write http:// or https://"),
        (
            {"image": "i", "prometheus": "http://p:9090", "prometheus_token_file": "t"},
            "in the clear",
        ),
        ({"image": "i", "prometheus_token_file": "t"}, "set prometheus"),
        ({"image": "i", "prometheus_labels": {"job": "m"}}, "set prometheus"),
        (
            {"image": "i", "prometheus": "http://p", "prometheus_labels": {"a-b": "m"}},
            "prometheus_labels names 'a-b'",
        ),
        (
            {"image": "i", "prometheus": "http://p", "prometheus_labels": {"le": "1"}},
            "prometheus_labels names 'le'",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(kubernetes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        on_cluster(**kubernetes)


@pytest.mark.parametrize("guard", [{"most_error_rate": 0.2}, {"longest_latency_ms": 50}])
def test_guards_in_a_cluster_need_a_prometheus(guard: dict[str, float]) -> None:
    (name,) = guard
    cluster = {"backend": "kubernetes", "kubernetes": {"image": "i"}}
    content = {"model": {"name": "m"}, "rollout": guard, "serving": cluster}
    wanted = (
        rf"rollout\.{name} is {guard[name]:g}.* and serving\.kubernetes\.prometheus is null: name"
    )
    with pytest.raises(ConfigError, match=wanted):
        parse_settings(content)
    with pytest.raises(
        ConfigError, match=rf"rollout\.{name} guards .* is embedded: set it to null"
    ):
        parse_settings({**content, "serving": {}})
    cluster["kubernetes"] = {"image": "i", "prometheus": "http://prometheus.monitoring:9090"}
    assert parse_settings(content).reads_servers
    off = {"most_error_rate": None}
    with pytest.raises(ConfigError, match="nothing asks it; remove it"):
        parse_settings({**content, "rollout": off})


def test_without_a_prometheus_a_cluster_is_not_guarded_by_default() -> None:
    assert not on_cluster(image="i").reads_servers
    assert on_cluster(image="i", prometheus="http://p:9090").reads_servers


def test_a_written_out_configuration_is_accepted() -> None:
    answers = {"serving.backend": "kubernetes", "serving.kubernetes.image": "i:{version}"}
    for given in ({}, answers):
        text = render_config(Settings, {"model.name": "m", **given})
        assert parse_settings(yaml.safe_load(text)).serving.backend == given.get(
            "serving.backend", "embedded"
        )


def test_check_says_who_copies_models_and_warns_of_arms_that_are_the_same() -> None:
    (warned,) = check_serving(on_cluster(image="server:1"))
    assert warned.level == "warning" and "both arms answer alike" in warned.says
    assert not check_serving(on_cluster(image="server:{version}"))
    (noted,) = check_serving(on_cluster(image="i", models="gs://b/m", implementation="M"))
    assert "gs://b/m/FOLDER" in noted.says and "state_dir/shelf/models" in noted.says
