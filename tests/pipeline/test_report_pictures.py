import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from pipeline.report.assemble import assemble
from pipeline.report.measures import StreamLosses
from pipeline.report.report_schema import Claim
from pipeline.report.table import report_tables
from pipeline.report.timeline import Words, draw_timeline
from pipeline.report.timeline_look import BLUE, GREEN, ORANGE
from tests.pipeline.sample_run import (
    BOUNDARIES,
    sample_decisions,
    sample_facts,
    sample_losses,
    sample_report,
)


def colours(path: Path) -> set[str]:
    pixels = (np.asarray(imread(path))[..., :3] * 255).round().astype(int).reshape(-1, 3)
    return {f"#{r:02X}{g:02X}{b:02X}" for r, g, b in np.unique(pixels, axis=0)}


def test_the_timeline_shows_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    draw_timeline(path, sample_report(), sample_losses(), Words("a title", "a subtitle"))
    assert np.asarray(imread(path)).shape[:2] == (900, 1600)
    assert {BLUE, ORANGE, GREEN} <= colours(path)
    quiet = assemble(sample_facts(), sample_losses(), [])
    draw_timeline(path, quiet, sample_losses(), Words("nothing happened"))
    assert BLUE in colours(path)
    assert not {ORANGE, GREEN} & colours(path)


def test_a_picture_is_the_same_twice(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_timeline(tmp_path / name, sample_report(), sample_losses(), Words("t"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("n", [1, 2, 60])
def test_short_and_sparse_streams_are_drawn(tmp_path: Path, n: int) -> None:
    sparse = StreamLosses(np.arange(n, dtype=np.int64) * 50, np.zeros(n), np.ones(n))
    report = assemble(sample_facts(task_type="regression"), sparse, sample_decisions(), BOUNDARIES)
    draw_timeline(tmp_path / "t.png", report, sparse, Words("t"))
    none = StreamLosses(np.empty(0, np.int64), np.empty(0), np.empty(0))
    with pytest.raises(ValueError, match="give a file with labels"):
        draw_timeline(tmp_path / "t.png", report, none, Words("t"))


def printed(*claims: Claim, width: int = 170) -> str:
    report = assemble(
        sample_facts(), sample_losses(), sample_decisions(), BOUNDARIES, claims or None
    )
    out = io.StringIO()
    Console(file=out, width=width).print(report_tables(report))
    return out.getvalue()


def test_the_table_says_the_numbers() -> None:
    text = printed()
    report = sample_report()
    served = report.overall.whole.served.accuracy
    assert served is not None
    assert f"{100 * served:.1f} %" in text
    for words in ("promoted 2-bbbb", "frozen wins", "recalled:1 0.05", "rejected", "3750 events"):
        assert words in text
    assert "claim" not in text


def test_a_terminal_of_80_columns_shows_every_word_and_number() -> None:
    narrow = printed(width=80)
    assert "…" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80
    report = sample_report()
    for row in report.boundaries:
        assert f"│ {row.name} " in narrow
    for rollout in report.rollouts:
        said = " ".join(narrow.split())
        assert f"rollout {rollout.number}: {rollout.reason}" in said


def test_a_failed_claim_stands_out() -> None:
    text = printed(
        Claim(claim="steady", held=True, evidence="none promoted"),
        Claim(claim="detected", held=False, evidence="no alarm"),
    )
    assert "FAILED" in text and "held" in text and "no alarm" in text
