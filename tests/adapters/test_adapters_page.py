"""The page's Python runs, from top to bottom."""

import re
from pathlib import Path

import torch

from adapters.meta_init import ALGORITHMS

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"


def test_the_examples_run() -> None:
    torch.set_num_threads(1)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        names: dict[str, object] = {}
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    assert names["steps"] == 3


def test_the_page_lists_every_algorithm() -> None:
    assert set(re.findall(r"^\| `\w+`, `([\w-]+)` \|", PAGE.read_text(), re.MULTILINE)) == set(
        ALGORITHMS
    )
