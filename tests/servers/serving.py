"""The model server's environment for the tests, in the project's cache folder.

``make test`` makes it ahead of the tests: the first time it fetches some gigabytes.
"""

from pathlib import Path

from deploy.serving_environment import make_environment

CACHE = Path(__file__).parents[2] / ".cache"


def serving_python_for_tests() -> Path:
    """Return the environment's interpreter."""
    return make_environment(CACHE)
