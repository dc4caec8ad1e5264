"""Made-up gates: the first of six numbers opens them, in some halls the other way round."""

import csv
import random
from pathlib import Path


def write_gates(path: Path, halls: int, rows: int, *, turned: bool, seed: int = 0) -> Path:
    """Write a CSV of halls; where ``turned``, every other hall's answer is turned round."""
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["hall", "at", *[f"x.{i}" for i in range(6)], "gate"])
        for hall in range(halls):
            for row in range(rows):
                x = [draw.gauss(0, 1) for _ in range(6)]
                opens = (x[0] > 0) != (turned and hall % 2 == 1)
                at = f"2026-01-{1 + row // 20:02d}T00:{row % 20:02d}:00Z"
                lines.writerow([f"h{hall}", at, *[f"{v:.4f}" for v in x], "ab"[opens]])
    return path
