from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, Field

from pipeline.config_template import ConfigTemplateError, render_config
from pipeline.settings import Settings, load_settings

LANES = {"model.name": "lanes"}


def test_the_file_reads_back_as_answers_and_defaults(tmp_path: Path) -> None:
    answers = {
        **LANES,
        "rollout.steps": (5, 50),
        "state_dir": Path("/var/lib/metadrift"),
        "detect.error": {"name": "ADWIN", "params": {"clock": 1, "delta": 0.01}},
        "kafka.topics.events": "no: 1 # {odd}",
    }
    path = tmp_path / "metadrift.yaml"
    path.write_text(render_config(Settings, answers))
    assert load_settings(path) == Settings.model_validate(
        {
            "model": {"name": "lanes"},
            "rollout": {"steps": (5, 50)},
            "state_dir": Path("/var/lib/metadrift"),
            "detect": {"error": {"name": "ADWIN", "params": {"clock": 1, "delta": 0.01}}},
            "kafka": {"topics": {"events": "no: 1 # {odd}"}},
        }
    )


def test_every_field_is_there_with_its_description() -> None:
    text = render_config(Settings, LANES)
    assert text.splitlines()[:3] == [
        "# The model that this daemon keeps right.",
        "model:",
        "  # Keys state, consumer group, metrics and the registered model in MLflow.",
    ]
    plain = " ".join(text.replace("#", " ").split())

    def look(model: type[BaseModel]) -> int:
        seen = 0
        for name, field in model.model_fields.items():
            assert f"{name}:" in text
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                seen += look(kind)
            else:
                assert field.description, f"{model.__name__}.{name} has no docstring"
                assert " ".join(field.description.replace("`", "").split()) in plain
                seen += 1
        return seen

    assert look(Settings) > 40
    assert max(map(len, text.splitlines())) <= 100


def test_secrets_are_never_written() -> None:
    content = yaml.safe_load(render_config(Settings, LANES))
    assert "sasl_password" not in content["kafka"]


def test_wrong_answers_are_named() -> None:
    with pytest.raises(ConfigTemplateError, match=r"\['model\.nmae'\]: no such key; .*model\.name"):
        render_config(Settings, {**LANES, "model.nmae": "x"})
    with pytest.raises(ConfigTemplateError, match=r"model\.name: has no default; answer it"):
        render_config(Settings, {})


def test_default_factories_are_called() -> None:
    class Small(BaseModel):
        names: list[str] = Field(default_factory=lambda: ["a", "b"], description="Names.")

    assert render_config(Small, {}) == "# Names.\nnames: [a, b]\n"
