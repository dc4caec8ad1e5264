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
    ],
)
def test_what_does_not_fit_together_is_refused(kubernetes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        on_cluster(**kubernetes)


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
