"""What the demo shows while it runs: speed, accuracy, phase and the last decisions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline.messages import Decision

SHOWN = 8
QUIET = frozenset({"champion", "meta-init", "command"})


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the running loop.

    Attributes:
        chapter: Name of the stretch that is being produced.
        events: Answers so far.
        of: Events of the whole stream.
        rate: Answers a second.
        served: Share of right answers among the last ones, None before the first.
        frozen: The same for the first champion.
        phase: What the loop is doing.
        decisions: The last ones, oldest first.
    """

    chapter: str
    events: int
    of: int
    rate: float
    served: float | None
    frozen: float | None
    phase: str
    decisions: Sequence[Decision] = field(default_factory=tuple)


class LiveView:
    """A panel on a terminal; elsewhere one line per decision.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._told: set[str] = set()
        self._chapter = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def step(self, words: str) -> None:
        """Say what is being done before and after the stream."""
        if self._console.is_terminal:
            self._live.update(Panel(Spinner("dots", Text(words)), title="metadrift demo"))
        else:
            self._console.print(words, highlight=False)

    def show(self, look: Look) -> None:
        """Show the loop as it stands."""
        if self._console.is_terminal:
            self._live.update(render(look))
            return
        if look.chapter != self._chapter:
            self._chapter = look.chapter
            self._console.print(f"-- {look.chapter}", highlight=False)
        for decision in look.decisions:
            if decision.key not in self._told and decision.kind not in QUIET:
                self._told.add(decision.key)
                self._console.print(line(decision), highlight=False, soft_wrap=True)


def render(look: Look) -> RenderableType:
    """Return the panel of one look."""
    head = Table.grid(padding=(0, 3))
    head.add_row(
        f"[bold]{look.chapter}[/bold]",
        f"event {look.events:,} of {look.of:,}",
        f"{look.rate:.0f} events/s",
        f"right: {_share(look.served)}",
        f"[dim]first champion: {_share(look.frozen)}[/dim]",
    )
    told = Table.grid(padding=(0, 2))
    for decision in look.decisions[-SHOWN:]:
        told.add_row(
            f"[dim]{decision.position}[/dim]",
            f"[bold]{decision.kind}[/bold]",
            Text(decision.reason, overflow="ellipsis", no_wrap=True),
        )
    body = Group(head, Text(look.phase, style="cyan"), Text(""), told)
    return Panel(body, title="metadrift demo", subtitle="last 100 answers against the truth")


def line(decision: Decision) -> str:
    """Return one decision on one line."""
    return f"{decision.position:6d}  {decision.kind:22s} {decision.reason}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
