"""How often the loop is wrong about which task it is: ``python -m benchmarks.task_memory``.

Streams of scikit-learn's digits under sorting plans that return, change, and meet another kind of
image (a negative). Where nothing has changed alarms come by chance, from an error detector that is
too sensitive, and from a dimmer light that the champion sees through; twice from a burst of wrong
labels. The real engine, state file and bake-offs decide with the demo's settings otherwise; half of
the labels come, twenty events late. One meta-init, that of the demo's seed 0, and its halves of the
images serve every seed; plans (none that meta-training saw, each two at least three digits apart),
order, noise and labels are the seed's own.

What is true is taken from the state: the plan that each version was made for, the plans in memory,
and the kinds of images under which they reigned. Writes docs/results/task_memory.md and .json.
"""

import os
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from scipy.stats import beta

from adapters.bake_off import run_bake_off
from adapters.bake_off_codec import decode_request, encode_results
from adapters.meta_init import MetaInit
from adapters.model_file import Model
from benchmarks.demo_seeds import start_of
from benchmarks.machine import SERVICE, machine
from benchmarks.results import keep, options
from pipeline.adaptation_worker import Answer
from pipeline.demo.config import demo_config
from pipeline.demo.images import DAYLIGHT, DIM, Half, Light, scanned, split_images
from pipeline.demo.learning import FEATURE, fitted_to
from pipeline.demo.plans import Plan, difference, draw_plans, every_plan, lane, swapped
from pipeline.fold import Fold, shelf_of, state_path
from pipeline.messages import Decision
from pipeline.records import Chunk, ModelsFound, Outcome, Poll
from pipeline.settings import parse_settings
from pipeline.state_file import StateFile

KINDS = ("noise", "recurring", "drifted", "new", "undecided")
NEGATIVE = Light(gain=-1.0, glare=1.0)
IMAGES_SEED = 0
BEGAN_MS = 1_700_000_000_000
SENSITIVE = {"error": {"name": "HDDMA", "params": {"drift_confidence": 0.2}}}
AT_ONCE, DELAY, SHARE, BURST = 20, 20, 0.5, 30
EARLY = 15
"""Events by which a change point may lie before the boundary without making an episode mixed."""


@dataclass(frozen=True, slots=True)
class Regime:
    """A stretch of the stream; a burst of wrong labels may come in its middle."""

    plan: int
    light: Light
    events: int
    burst: bool = False


STORY = (
    Regime(0, DAYLIGHT, 600),
    Regime(0, DIM, 400),
    Regime(0, DAYLIGHT, 500, burst=True),
    Regime(1, DAYLIGHT, 600),
    Regime(1, DIM, 400),
    Regime(1, DAYLIGHT, 500, burst=True),
    Regime(0, DAYLIGHT, 400),
    Regime(2, NEGATIVE, 500),
    Regime(1, DAYLIGHT, 400),
    Regime(3, DAYLIGHT, 500),
    Regime(2, NEGATIVE, 400),
    Regime(0, DAYLIGHT, 300),
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One episode: what was said last, and what was true.

    Attributes:
        seed: Of the stream.
        episode: Its number.
        signal: What opened it.
        said: Kind.
        task: Version named.
        truth: Kind; ``burst`` where wrong labels came since the change point, ``mixed`` where the
            labels are of two regimes.
        right: The version that should be named; empty: none.
        labels: Labels that the champion was asked about.
    """

    seed: int
    episode: int
    signal: str
    said: str
    task: str
    truth: str
    right: str
    labels: int

    @property
    def wrong(self) -> bool:
        """Whether something was claimed that is not so."""
        if self.said == "undecided" or self.truth in ("mixed", "burst"):
            return False
        return self.said != self.truth or (self.said == "recurring" and self.task != self.right)


class Stream:
    """One seed's engine with what it is fed."""

    def __init__(self, seed: int, folder: Path, champion: Model, init: MetaInit) -> None:
        self.seed, self.rng = seed, np.random.default_rng([seed, 23])
        settings = parse_settings(demo_config(folder, "127.0.0.1:9092") | {"detect": SENSITIVE})
        self.file = StateFile(state_path(folder), settings.model.name)
        self.file.acquire(0.0)
        self.fold = Fold(settings, self.file, shelf_of(folder), lambda: 0.0)
        self.offsets = {"events": 0, "labels": 0}
        self.now_ms, self.next = BEGAN_MS, 0
        self.waiting: list[tuple[int, dict[str, str]]] = []
        self.decisions: list[Decision] = []
        shelf = self.fold.shelf
        losses = champion.info["holdout_losses"]
        found = ModelsFound(
            champion=shelf.put_model(champion),
            losses=tuple(losses) if isinstance(losses, list) else (),
            meta_init=shelf.put_meta_init(init),
            recommended=init.recommended,
            state_id="simulated",
        )
        self.take(self.fold.step(found))

    def take(self, outcome: Outcome) -> None:
        """Keep the decisions, and answer a bake-off at once."""
        self.decisions += outcome.decisions
        wanted = self.fold.request()
        if wanted is not None:
            key, request = wanted
            packed = encode_results(run_bake_off(decode_request(request)))
            self.take(self.fold.step(self.fold.answer(Answer(key, packed, ""))))

    def feed(self, plan: Plan, light: Light, half: Half, events: int, wrong: bool) -> None:
        """Send events in polls; their labels follow."""
        for begin in range(0, events, AT_ONCE):
            count = min(AT_ONCE, events - begin)
            chosen = self.rng.integers(len(half), size=count)
            seen = scanned(half.pixels[chosen], light, self.rng)
            messages: list[dict[str, object]] = []
            for k, pixels in zip(chosen.tolist(), seen.tolist(), strict=True):
                name = f"e{self.next}"
                truth = lane(plan, int(half.digits[k]))
                if self.rng.random() < SHARE:
                    label = swapped(truth) if wrong else truth
                    self.waiting.append((self.next + DELAY, {"id": name, "label": label}))
                messages.append({"id": name, "features": {FEATURE: pixels}, "group": half.names[k]})
                self.next += 1
            due = [label for at, label in self.waiting if at <= self.next]
            self.waiting = [w for w in self.waiting if w[0] > self.next]
            self.now_ms += 1000
            chunks = [
                self.chunk(topic, values)
                for topic, values in (("events", messages), ("labels", due))
                if values
            ]
            self.take(self.fold.step(Poll(tuple(chunks), self.now_ms)))

    def chunk(self, topic: str, values: list) -> Chunk:  # type: ignore[type-arg]
        """Return messages as one partition's records."""
        first = self.offsets[topic]
        self.offsets[topic] += len(values)
        return Chunk(
            "events" if topic == "events" else "labels",
            topic,
            0,
            list(range(first, first + len(values))),
            [self.now_ms] * len(values),
            [msgspec.json.encode(value) for value in values],
        )


def plans_of(seed: int) -> list[Plan]:
    """Return four plans, at least three digits apart, that meta-training has not seen."""
    known = set(draw_plans(IMAGES_SEED).meta)
    rng, chosen = np.random.default_rng([seed, 29]), list[Plan]()
    plans = [plan for plan in every_plan() if plan not in known]
    for i in rng.permutation(len(plans)).tolist():
        if all(difference(plans[i], other) >= 3 for other in chosen):
            chosen.append(plans[i])
        if len(chosen) == 4:
            return chosen
    raise ValueError("too few plans")


def run(seed: int, init: MetaInit) -> list[Judgement]:
    """Return what was said of every episode of one seed's stream."""
    images, plans = split_images(IMAGES_SEED), plans_of(seed)
    champion = fitted_to(plans[0], images.learning, seed)
    with tempfile.TemporaryDirectory() as scratch:
        stream = Stream(seed, Path(scratch), champion, init)
        try:
            for regime in STORY:
                plan, part = plans[regime.plan], (regime.events - BURST) // 2
                parts = [(part, False), (BURST, regime.burst), (part, False)]
                for events, wrong in parts:
                    stream.feed(plan, regime.light, images.stream, events, wrong)
        finally:
            stream.file.close()
    return judged(seed, stream.decisions)


def regime_at(position: int) -> int:
    """Return the number of the regime of an event."""
    ends = np.cumsum([sum(_parts(r)) for r in STORY])
    return min(int(np.searchsorted(ends, position, side="right")), len(STORY) - 1)


def bursts() -> list[int]:
    """Return the first event of each burst of wrong labels."""
    starts = np.cumsum([0, *(r.events for r in STORY)])
    return [int(at) + _parts(r)[0] for at, r in zip(starts, STORY, strict=False) if r.burst]


def _parts(regime: Regime) -> tuple[int, int, int]:
    half = (regime.events - BURST) // 2
    return half, BURST, half


def judged(seed: int, decisions: list[Decision]) -> list[Judgement]:
    """Return the last word on each episode beside the truth."""
    homes: dict[str, int] = {}  # version -> regime that it was made for
    lights: dict[str, set[Light]] = {}
    opened: dict[int, tuple[int, str]] = {}
    found: dict[int, Judgement] = {}
    for d in decisions:
        facts = d.facts
        match d.kind:
            case "champion":
                homes[str(facts["version"])] = 0
                lights[str(facts["version"])] = {DAYLIGHT}
            case "episode-opened" | "episode-recut":
                number, cut = _int(facts["episode"]), _int(facts["change_point"])
                signal = opened[number][1] if number in opened else d.reason.split(" on ")[1]
                opened[number] = cut, signal.split(":")[0]
            case "rollout-begun":
                made = regime_at(opened[_int(facts["episode"])][0] + EARLY)
                homes.setdefault(str(facts["candidate"]), made)
                lights.setdefault(str(facts["candidate"]), set())
            case "promotion":
                now = regime_at(d.position - DELAY)
                lights[str(facts["champion"])].add(STORY[now].light)
            case "task":
                number, task = _int(facts["episode"]), facts["task"]
                if isinstance(task, dict):
                    cut, signal = opened[number]
                    found[number] = _judgement(
                        seed, number, signal, task, (cut, d.position), homes, lights
                    )
    return list(found.values())


def _judgement(
    seed: int,
    number: int,
    signal: str,
    task: dict[str, object],
    span: tuple[int, int],
    homes: dict[str, int],
    lights: dict[str, set[Light]],
) -> Judgement:
    champion, remembered = task["champion"], task["remembered"]
    if not isinstance(champion, dict) or not isinstance(remembered, list):
        raise TypeError("a task decision without its numbers")
    first, last = regime_at(span[0] + EARLY), regime_at(max(span[0], span[1] - DELAY - AT_ONCE))
    here, truth, right = STORY[last], "drifted", ""
    plan_of = {name: STORY[home].plan for name, home in homes.items()}
    back = [str(m["name"]) for m in remembered if plan_of[str(m["name"])] == here.plan]
    known = [str(champion["name"]), *(str(m["name"]) for m in remembered)]
    if (STORY[first].plan, STORY[first].light) != (here.plan, here.light):
        truth = "mixed"
    elif any(span[0] - EARLY < b + BURST and b < span[1] for b in bursts()):
        truth, right = "burst", str(champion["name"])
    elif plan_of[str(champion["name"])] == here.plan:
        truth, right = "noise", str(champion["name"])
    elif back:
        truth = "recurring"
        right = str(task["task"]) if task["task"] in back else back[0]
    elif all(here.light not in lights[name] for name in known):
        truth = "new"
    return Judgement(
        seed,
        number,
        signal,
        str(task["kind"]),
        str(task["task"]),
        truth,
        right,
        _int(champion["labels"]),
    )


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def page(found: dict[str, object], judgements: list[Judgement], alpha: float) -> str:
    """Return the results as Markdown."""
    clear = [j for j in judgements if j.truth not in ("mixed", "burst")]
    counts = Counter((j.truth, j.said) for j in judgements)
    mixed = sum(j.truth == "mixed" for j in judgements)
    wrong = [j for j in clear if j.wrong]
    decided = [j for j in clear if j.said != "undecided"]
    low, high = interval(len(wrong), len(clear))
    place = found["machine"]
    words = ", ".join(f"{k} {v}" for k, v in place.items()) if isinstance(place, dict) else ""
    lines = [
        "# Which task is it",
        "",
        f"`{found['command']}`, {words}; load average at the end {found['load']:.1f}.",
        "",
        f"{found['seeds']} streams of {sum(r.events for r in STORY)} events under four sorting "
        "plans, half of their labels, twenty events late; the loop with the demo's settings and an "
        "error detector that also alarms by chance (`benchmarks/task_memory.py`). An episode's "
        f"last word against the truth in {len(clear)} episodes. Not judged: {mixed} whose labels "
        "are of two regimes, and those on a burst of wrong labels, where labels that followed the "
        "alarm may be wrong, too.",
        "",
        "| truth | " + " | ".join(KINDS) + " | wrong |",
        "|---|" + "---|" * (len(KINDS) + 1),
    ]
    for truth in KINDS[:4]:
        row = [j for j in clear if j.truth == truth]
        cells = " | ".join(str(counts[truth, said]) for said in KINDS)
        lines.append(f"| {truth} ({len(row)}) | {cells} | {sum(j.wrong for j in row)} |")
    cells = " | ".join(str(counts["burst", said]) for said in KINDS)
    lines.append(f"| burst ({sum(j.truth == 'burst' for j in judgements)}) | {cells} | - |")
    share = len(wrong) / len(clear) if clear else 0.0
    labels = [j.labels for j in decided]
    holds = "within" if share <= alpha else "above"
    lines += [
        "",
        f"- Wrong: {len(wrong)} of {len(clear)} episodes, {share:.3f} (95 % interval {low:.3f} to "
        f"{high:.3f}); stated bound `memory.alpha` {alpha:g}: {holds} it. Of the {len(decided)} "
        f"that were decided {len(wrong) / len(decided) if decided else 0:.3f} were wrong.",
        f"- Decided: {len(decided)} of {len(clear)}, on {np.median(labels):.0f} labels of the "
        "champion in the median (those that the signal did not see)."
        if decided
        else "- Nothing was decided.",
        "- A recurring task called by another version's name counts as wrong.",
    ]
    if wrong:
        lines += ["", "## Wrong decisions", ""]
        lines += [
            f"- seed {j.seed}, episode {j.episode} on {j.signal}: said {j.said} {j.task}, is "
            f"{j.truth} {j.right}, on {j.labels} labels"
            for j in wrong
        ]
    return "\n".join(lines) + "\n"


def interval(wrong: int, of: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper & Pearson 1934).

    >>> tuple(round(v, 3) for v in interval(0, 60))
    (0.0, 0.06)
    """
    low = float(beta.ppf(0.025, wrong, of - wrong + 1)) if wrong else 0.0
    high = float(beta.ppf(0.975, wrong + 1, of - wrong)) if wrong < of else 1.0
    return low, high


def main() -> None:
    """Run every seed, print, and keep the numbers."""
    arguments = options("benchmarks.task_memory")
    arguments.add_argument("--seeds", type=int, default=12, help="0 .. SEEDS - 1")
    arguments.add_argument("--keep", type=Path, default=Path(".cache/demo-seeds"))
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    init, _ = start_of(IMAGES_SEED, chosen.keep)
    alpha = parse_settings(demo_config(Path(), "127.0.0.1:9092")).memory.alpha
    judgements: list[Judgement] = []
    for seed in range(chosen.seeds):
        began_s = time.process_time()
        judgements += run(seed, init)
        print(f"seed {seed}: {time.process_time() - began_s:.0f} s of CPU time", flush=True)
        found: dict[str, object] = {
            "command": f"python -m benchmarks.task_memory --seeds {seed + 1}",
            "machine": machine(*SERVICE),
            "load": os.getloadavg()[0],
            "seeds": seed + 1,
        }
        written = page(found, judgements, alpha)
        if not chosen.print_only:  # after every seed: a run that is stopped leaves what it has
            episodes = [asdict(j) for j in judgements]
            keep("task_memory", written, {**found, "episodes": episodes}, indent=1)
    print(written)


if __name__ == "__main__":
    main()
