"""The timeline's lower half: what metadrift did, in lanes over the events."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.report.report_rows import EpisodeRow, RolloutRow, SignalRow
from pipeline.report.report_schema import Report
from pipeline.report.timeline_look import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    SKY,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_LETTERS = 215
"""Letters of a note that fit across the picture."""
_LANES = ("signals", "episodes", "canary %", "champion")
_SIGNALS = {
    "error": ("v", RED, "alarm: error"),
    "confidence": ("^", PURPLE, "alarm: confidence"),
    "features": ("D", SKY, "alarm: features"),
}
_OTHER_SIGNAL = ("s", INK, "announced or new class")


def legend_handles(report: Report) -> "list[Artist]":
    """Return what the legend explains: only what is in the picture."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = [
        Line2D([], [], color=BLUE, linewidth=2.6, label="served by metadrift"),
        Line2D([], [], color=GREY, linewidth=1.8, linestyle=(0, (5, 2)), label="frozen model"),
    ]
    rollouts = report.rollouts
    oracle = any(b.recovery and b.recovery.against == "oracle" for b in report.boundaries)
    if oracle:
        handles.append(
            Line2D([], [], color=PURPLE, linewidth=1.6, label="model fitted to the regime")
        )
    if report.boundaries:
        handles.append(
            Line2D([], [], color=INK, linewidth=1.3, linestyle=(0, (1, 2)), label="true boundary")
        )
    kinds = {_SIGNALS.get(s.kind, _OTHER_SIGNAL) for s in report.signals}
    for marker, colour, name in sorted(kinds, key=lambda k: k[2]):
        handles.append(_mark(marker, colour, name, size=9))
    if report.signals:
        handles.append(_mark("o", "white", "not acted on", size=8, edge=GREY))
    if report.episodes:
        handles.append(Patch(color=SKY, label="episode: winner"))
    if any(r.weights for r in rollouts):
        handles.append(Patch(color=ORANGE, label="canary"))
    if any(r.pauses for r in rollouts):
        handles.append(
            Patch(facecolor="white", edgecolor=PURPLE, hatch="////", label="canary paused")
        )
    if any(r.promoted is not None for r in rollouts):
        handles.append(_mark("*", GREEN, "promotion", size=14))
    if any(r.promoted is not None and r.rolled_back is not None for r in rollouts):
        handles.append(_mark("X", RED, "promotion taken back", size=11))
    if any(r.promoted is None and r.ended is not None for r in rollouts):
        handles.append(_mark("x", RED, "candidate given up", size=9))
    return handles


def _mark(marker: str, colour: str, name: str, size: float, edge: str | None = None) -> "Artist":
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        marker=marker,
        markersize=size,
        markerfacecolor=colour,
        markeredgecolor=edge or colour,
        markeredgewidth=1.6 if edge or marker == "x" else 0.8,
        linestyle="none",
        label=name,
    )


def canary_span(rollout: RolloutRow, report: Report) -> tuple[int, int]:
    """Return from which to which event a candidate could serve; it must have had a weight."""
    end = report.counts.events if rollout.ended is None else rollout.ended
    return rollout.weights[0].position, end


def draw_lanes(axes: "Axes", report: Report) -> None:
    """Draw signals, episodes, canaries and champions, one lane each, over the events."""
    rows = {name: len(_LANES) - 1 - i for i, name in enumerate(_LANES)}
    axes.set_ylim(-0.6, len(_LANES) - 0.4)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.tick_params(axis="y", length=0)
    for row in rows.values():
        axes.axhline(row - 0.5, color=FAINT, linewidth=0.8, zorder=0)
    _draw_signals(axes, rows["signals"], report.signals)
    _draw_episodes(axes, rows["episodes"], report)
    _draw_canaries(axes, rows["canary %"], report)
    _draw_champions(axes, rows["champion"], report)


def _draw_signals(axes: "Axes", row: int, signals: Sequence[SignalRow]) -> None:
    for signal in signals:
        marker, colour, _ = _SIGNALS.get(signal.kind, _OTHER_SIGNAL)
        started = signal.verdict in ("Start", "start", "")
        axes.plot(
            signal.position,
            row,
            marker=marker,
            markersize=9,
            markerfacecolor=colour if started else "white",
            markeredgecolor=colour,
            markeredgewidth=1.6,
            linestyle="none",
            clip_on=False,
            zorder=3,
        )


def _draw_episodes(axes: "Axes", row: int, report: Report) -> None:
    events = report.counts.events
    narrow = max(events * 0.004, 1.0)
    starts = [*(e.opened for e in report.episodes), events][1:]
    for episode, until in zip(report.episodes, starts, strict=True):
        end = events if episode.ended is None else episode.ended
        width = max(end - episode.opened, narrow)
        axes.barh(row, width, left=episode.opened, height=0.46, color=SKY, zorder=2)
        _note(axes, report, episode.opened + width, row, _episode_words(episode), until)


def _episode_words(episode: EpisodeRow) -> str:
    if episode.outcome is None:
        return "open"
    if episode.outcome == "frozen wins" or episode.winner is None:
        return episode.outcome
    return episode.winner.partition(":")[0].replace("_", "-")


def _draw_canaries(axes: "Axes", row: int, report: Report) -> None:
    # One that was paused before its first step never had a weight, and its pause is the story.
    drawn = [r for r in report.rollouts if r.weights or r.pauses]
    begun = [
        min([*(w.position for w in r.weights[:1]), *(p.position for p in r.pauses[:1])])
        for r in drawn
    ]
    for rollout, free_until in zip(drawn, [*begun, report.counts.events][1:], strict=True):
        end = report.counts.events if rollout.ended is None else rollout.ended
        starts = [w.position for w in rollout.weights if w.position < end]
        spans = zip(rollout.weights, starts, [*starts[1:], end], strict=False)
        for weight, start, stop in spans:
            height = 0.78 * weight.weight_pct / 100
            axes.bar(
                start,
                height,
                width=max(stop - start, 1),
                bottom=row - 0.42,
                align="edge",
                color=ORANGE,
                zorder=2,
            )
        for pause in rollout.pauses:
            until = min(end if pause.until is None else pause.until, end)
            width = max(until - pause.position, 1)
            axes.barh(
                row,
                width,
                left=pause.position,
                height=0.84,
                facecolor="none",
                edgecolor=PURPLE,
                hatch="////",
                linewidth=0.8,
                zorder=3,
            )
        words = _canary_words(rollout)
        _note(axes, report, end, row, words, free_until)


def _canary_words(rollout: RolloutRow) -> str:
    steps = [f"{w.weight_pct:g}" for w in rollout.weights if 0 < w.weight_pct < 100]
    words = " → ".join(dict.fromkeys(steps))
    causes = [p.cause for p in rollout.pauses]
    return causes[0] if causes else words


def _draw_champions(axes: "Axes", row: int, report: Report) -> None:
    last_x, last_name = 0, ""
    changes: list[tuple[int, str, str]] = []
    for rollout in report.rollouts:
        if rollout.promoted is not None:
            changes.append((rollout.promoted, _version(rollout.candidate), GREEN))
        if rollout.promoted is not None and rollout.rolled_back is not None:
            changes.append((rollout.rolled_back, _version(rollout.stable), RED))
        elif rollout.ended is not None and rollout.promoted is None:
            axes.plot(
                rollout.ended, row, "x", color=RED, markersize=10, markeredgewidth=2.4, zorder=4
            )
    if report.rollouts:
        last_name = _version(report.rollouts[0].stable)
    for x, name, colour in [*sorted(changes), (report.counts.events, "", "")]:
        axes.barh(row, max(x - last_x, 0), left=last_x, height=0.42, color=PALE, zorder=1)
        if x - last_x > (len(last_name) + 3) * report.counts.events / _LETTERS:
            axes.annotate(
                last_name,
                (last_x, row),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                fontsize=10,
                color=INK,
                annotation_clip=True,
            )
        if colour:
            marker = "*" if colour == GREEN else "X"
            axes.plot(
                x, row, marker, color=colour, markersize=15, markeredgecolor="white", zorder=5
            )
        last_x, last_name = x, name


def _version(name: str) -> str:
    return f"version {name.partition('-')[0]}"


def _note(axes: "Axes", report: Report, x: float, row: int, words: str, until: float) -> None:
    """Write after a bar, where there is room before the lane's next bar at ``until``."""
    if x + (len(words) + 1) * report.counts.events / _LETTERS > until:
        return
    axes.annotate(
        words,
        (x, row),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=10,
        color=INK,
        bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8},
        zorder=4,
    )
