"""Where a benchmark's numbers go, and what every page says of how they were measured."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def options(module: str, description: str | None = None) -> argparse.ArgumentParser:
    """Return the options of ``python -m MODULE``, with that which keeps no results."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    made.add_argument("--print-only", action="store_true", help="write no results")
    return made


def words(machine: Mapping[str, str]) -> str:
    """Return what was measured on, in a line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def measured(found: Mapping[str, Any]) -> str:
    """Return the command, the machine and its load, as the beginning of a sentence."""
    start, end = found["load"]
    return (
        f"`{found['command']}`, {words(found['machine'])}; "
        f"load average at start and end {start:.1f} and {end:.1f}"
    )


def keep(name: str, page: str, numbers: object, indent: int = 2) -> None:
    """Write ``docs/results/NAME.md`` and the numbers behind it, ``NAME.json``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")
    document = json.dumps(numbers, indent=indent)
    (RESULTS / f"{name}.json").write_text(document + "\n", encoding="utf-8")
