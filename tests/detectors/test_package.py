import importlib
import subprocess
import sys

import detectors


def test_all_names_resolve() -> None:
    for name in detectors.__all__:
        home = importlib.import_module(f"detectors.{detectors._HOME_OF[name]}")
        assert getattr(detectors, name) is getattr(home, name)
    assert set(dir(detectors)) == set(detectors.__all__)


def test_the_package_and_the_trigger_import_no_river() -> None:
    code = (
        "import sys, detectors, detectors.trigger, detectors.novelty;"
        "sys.exit(any(m.split('.')[0] in ('river', 'torch', 'mlflow') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
