"""A made-up workplace: which of six measurements decides depends on the shift's rule."""

import csv
import random
from pathlib import Path

COLUMNS = ["id", "shift", "colour", *[f"x.{i}" for i in range(6)], "label"]


def write_shifts(path: Path, shifts: list[tuple[str, int, int]], seed: int) -> Path:
    """Write a CSV of shifts (name, deciding measurement, rows); ids begin with the file's stem."""
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        n = 0
        for name, decides, count in shifts:
            for _ in range(count):
                x = [draw.gauss(0, 1) for _ in range(6)]
                label = "yes" if x[decides] > 0 else "no"
                colour = draw.choice(["red", "blue"])
                rows.writerow([f"{path.stem}-{n}", name, colour, *[f"{v:.4f}" for v in x], label])
                n += 1
    return path


def history(path: Path, tasks: int = 30, rows: int = 80) -> Path:
    """Write past shifts; in about three of five the first measurement decides."""
    draw = random.Random(5)
    rules = [0 if draw.random() < 0.6 else draw.randrange(1, 6) for _ in range(tasks)]
    return write_shifts(path, [(f"t{i}", rule, rows) for i, rule in enumerate(rules)], seed=1)


def live(path: Path) -> Path:
    """Write a stream in which the first measurement decides, then, unannounced, the fourth."""
    return write_shifts(path, [("day", 0, 250), ("day", 3, 12_000)], seed=2)
