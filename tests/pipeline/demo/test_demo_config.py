from pathlib import Path

import pytest
import yaml

from deploy.gate import least_holdout
from pipeline.demo.config import MODEL, demo_config
from pipeline.demo.folder import DemoFolder, FolderError
from pipeline.settings import load_settings


def test_the_config_loads_and_keeps_the_storys_rules(tmp_path: Path) -> None:
    path = tmp_path / "metadrift.yaml"
    path.write_text(yaml.safe_dump(demo_config(tmp_path / "state", "127.0.0.1:9092")))
    s = load_settings(path)
    assert s.model.name == MODEL
    assert s.episode.support >= 40
    gate = s.gate
    n_min = least_holdout(gate.target_from, gate.target_to, gate.risk, gate.power)
    # The recalled champion is judged on the holdout alone, less what the one in force learned from.
    assert s.episode.holdout >= n_min + 2
    stated = {"risk_per_rollout", "wrong_promotions_per_30_days", "probation_labels"}
    assert stated <= s.rollout.model_fields_set
    assert "actions_per_day" in s.trigger.model_fields_set


def test_topics_of_two_demos_on_one_broker_differ(tmp_path: Path) -> None:
    one, two = (demo_config(tmp_path, "b:1", prefix)["kafka"] for prefix in ("a", "b"))
    assert isinstance(one, dict) and isinstance(two, dict)
    assert not set(one["topics"].values()) & set(two["topics"].values())


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FolderError, match="--out"):
        DemoFolder(tmp_path).prepare()
    assert (tmp_path / "thesis.txt").exists()


def test_an_earlier_demo_is_cleared_away(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path / "out")
    folder.prepare()
    folder.config.write_text("model: {}")
    folder.state.mkdir()
    folder.summary.write_text("{}")
    folder.prepare()
    assert not folder.state.exists()
    assert not folder.summary.exists()
