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


def test_a_new_class_appears(capsys: pytest.CaptureFixture[str]) -> None:
    page = "a-new-class-appears.md"
    (example,) = python_blocks(page)
    exec(compile(example, page, "exec"), {"__name__": "example"})  # noqa: S102
    (printed,) = re.findall(r"^```text\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    number = re.compile(r"0\.\d\d")
    shown = capsys.readouterr().out
    assert number.sub("", shown) == number.sub("", printed)
    # Another processor may round a row's last bits otherwise.
    assert [float(n) for n in number.findall(shown)] == pytest.approx(
        [float(n) for n in number.findall(printed)], abs=0.03
    )


def test_your_machines_as_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    page = "your-machines-as-tasks.md"
    exec(compile("\n".join(python_blocks(page)), page, "exec"), {"__name__": "example"})  # noqa: S102
    tasks, words = capsys.readouterr().out.splitlines()
    assert tasks == "30 tasks, left out: 0"
    assert words.startswith("with 4 labels per class: not shown. maml reaches 0.8")
    assert "these 6 tasks cannot tell that from chance" in words
