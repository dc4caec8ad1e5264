"""The package's front door."""

import subprocess
import sys

import deploy


def test_every_public_name_is_there_and_nothing_else_is():
    for name in deploy.__all__:
        assert getattr(deploy, name) is not None
    assert dir(deploy) == sorted(deploy.__all__) == list(deploy.__all__)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(deploy, "nothing_of_the_kind")


def test_deciding_imports_no_client():
    code = (
        "import sys, deploy, deploy.rollout, deploy.risk_budget, deploy.controller;"
        "import deploy.embedded, deploy.registry;"
        "clients = {'mlflow', 'torch', 'river', 'pandas', 'kubernetes', 'httpx', 'scipy'};"
        "print(*sorted(clients & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == ""
