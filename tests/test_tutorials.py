"""The tutorials' examples run as they are printed."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)


def test_is_it_worth_it(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = python_blocks("is-it-worth-it.md")
    exec(compile(example, "is-it-worth-it.md", "exec"), {"__name__": "example"})  # noqa: S102
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("with 2 labels per class: yes. maml reaches 0.")
    assert last == "yes: meta-learning is worth it here; use maml"
