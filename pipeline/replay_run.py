"""A replay from file to report: learn from the rows that may be learned from, replay the rest."""

import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adapters.meta_settings import MetaTrainData, MetaTrainingError, MetaTrainSettings
from adapters.meta_training import meta_train
from adapters.training import fit_joint
from pipeline.adaptation_worker import AdaptationWorker
from pipeline.arrivals import ARRIVALS
from pipeline.data_columns import Columns
from pipeline.data_file import FileRow, open_data_file
from pipeline.file_examples import FileExamples, examples_of_rows
from pipeline.fold import Fold, shelf_of, state_path
from pipeline.inference import Inferred, infer
from pipeline.label_schedule import LabelItem, schedule
from pipeline.model_shelf import ModelShelf
from pipeline.records import ModelsFound
from pipeline.replay import Replay, Replayed, truths_of
from pipeline.report.assemble import Boundary, RunFacts, assemble
from pipeline.report.report_schema import Report, encode_report
from pipeline.report.timeline import Words, draw_timeline
from pipeline.settings import Settings, parse_settings
from pipeline.standing import standing
from pipeline.state_file import StateFile

if TYPE_CHECKING:
    from pipeline.engine_state import EngineState

MARKER = ".replay"
"""Says that the folder's state is a replay's, which the next replay may replace."""

LIBRARIES = ("metadrift", "torch", "river", "numpy", "scikit-learn")


class ReplayError(Exception):
    """The replay cannot begin; says what to change."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What to replay and how.

    Attributes:
        file: The data file.
        columns: What its columns mean.
        out: Folder for state, report and picture; an earlier replay's are replaced.
        train_until: Champion and meta-init may learn from this many rows; the stream follows.
        train_tasks: Or from the rows of these tasks; the stream is all the others.
        label_fraction: Chance that a label arrives.
        label_delay: In events.
        shuffle_within_task: Shuffle the rows inside each task.
        seed: Of order, label choice, fitting and adaptation.
        meta_seconds: Wall-clock budget of meta-training per algorithm; 0: none.
    """

    file: Path
    columns: Columns
    out: Path
    train_until: int | None = None
    train_tasks: tuple[str, ...] = ()
    label_fraction: float = 1.0
    label_delay: int = 0
    shuffle_within_task: bool = False
    seed: int = 0
    meta_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What came of it."""

    report: Report
    seen: Replayed


def default_settings(plan: ReplayPlan, inferred: Inferred) -> Settings:
    """Return the settings of a replay without a configuration file: all defaults."""
    return parse_settings(
        {
            "model": {"name": _name(plan.file), "task_type": inferred.task_type},
            "state_dir": plan.out,
        }
    )


def _name(file: Path) -> str:
    stem = file.name.split(".", 1)[0]
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in stem).strip("._-") or "replay"


def run_replay(
    plan: ReplayPlan, configured: Settings | None, progress: Callable[[str, int, int], None]
) -> ReplayResult:
    """Replay a file.

    Args:
        plan: What and how.
        configured: From a configuration file; None: all defaults.
        progress: Told (what is going on, done, of how many).

    Raises:
        ReplayError: There is nothing to learn from, or nothing to replay.
        DataFileError: The file cannot be read as the columns say.
    """
    notes: list[str] = []
    inferred = infer(plan.file, plan.columns)
    settings = configured or default_settings(plan, inferred)
    settings = settings.model_copy(update={"state_dir": plan.out})
    data = open_data_file(
        plan.file,
        plan.columns,
        task_type=settings.model.task_type,
        schema=inferred.schema,
    )
    rows = list(data.rows(plan.seed if plan.shuffle_within_task else None))
    train, stream = _parts(plan, rows)
    _refuse_repeated_ids(plan, rows)
    _make_room(plan.out)
    shelf = shelf_of(plan.out)
    learned = examples_of_rows(train, inferred.schema)
    found = learn(plan, inferred, learned, shelf, notes, progress)
    file = StateFile(state_path(plan.out), settings.model.name)
    worker = AdaptationWorker(settings.episode.timeout_s)
    try:
        file.acquire(time.time())
        fold = Fold(settings, file, shelf, time.time)
        player = Replay(
            fold,
            worker,
            truths_of(stream),
            lambda n: progress("replaying", n, len(stream)),
        )
        items = list(schedule(stream, plan.label_fraction, plan.label_delay, plan.seed))
        seen = player.run(items, found)
        notes += set_aside(seen)
        labelled = {i.row.id for i in items if isinstance(i, LabelItem)}
        report = _report(plan, settings, stream, seen, fold.state, labelled, notes)
    finally:
        worker.close()
        file.close()
    plan.out.mkdir(parents=True, exist_ok=True)
    (plan.out / "report.json").write_bytes(encode_report(report))
    losses = seen.losses()
    if len(losses):
        words = Words(f"{plan.file.name}: what metadrift would have done", _subtitle(plan))
        draw_timeline(plan.out / "timeline.png", report, losses, words)
    return ReplayResult(report, seen)


def _refuse_repeated_ids(plan: ReplayPlan, rows: list[FileRow]) -> None:
    """A repeated id would be set aside as a duplicate, and its truth be another row's."""
    first: dict[str, int] = {}
    repeated = [row.id for row in rows if first.setdefault(row.id, row.index) != row.index]
    if repeated:
        raise ReplayError(
            f"--id: column '{plan.columns.id}' holds {len(first)} different values in "
            f"{len(rows)} rows ({repeated[0]!r} comes again): name a column that tells rows "
            "apart, or leave --id out"
        )


def _make_room(out: Path) -> None:
    """Remove an earlier replay's state; nothing that something else has left.

    Raises:
        ReplayError: The folder holds another state.
    """
    marker, state = out / MARKER, state_path(out)
    if not marker.exists() and any(p.exists() for p in (state, out / "shelf", out / ARRIVALS)):
        raise ReplayError(
            f"--out: {out} holds the state of something other than a replay; name another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
    for suffix in ("", "-wal", "-shm"):
        state.with_name(state.name + suffix).unlink(missing_ok=True)
    shutil.rmtree(out / "shelf", ignore_errors=True)


def set_aside(seen: Replayed) -> list[str]:
    """Return a note of how many records could not be used, and why; none where all could."""
    why = Counter(seen.dead_letters)
    if not why:
        return []
    reasons = ", ".join(f"{error} {n}" for error, n in why.most_common())
    return [f"{why.total()} records were set aside: {reasons}"]


def _subtitle(plan: ReplayPlan) -> str:
    return (
        f"{plan.label_fraction:.0%} of the labels, {plan.label_delay} events late, seed {plan.seed}"
    )


def _parts(plan: ReplayPlan, rows: list[FileRow]) -> tuple[list[FileRow], list[FileRow]]:
    if plan.train_tasks:
        known = {r.task for r in rows}
        missing = [t for t in plan.train_tasks if t not in known]
        if missing:
            raise ReplayError(
                f"--train-tasks: {missing} are no tasks of {plan.file.name}; it has "
                f"{sorted(t for t in known if t is not None)[:20]}"
            )
        train = [r for r in rows if r.task in plan.train_tasks]
        stream = [r for r in rows if r.task not in plan.train_tasks]
    elif plan.train_until is not None:
        train, stream = rows[: plan.train_until], rows[plan.train_until :]
    else:
        raise ReplayError(
            "say what the champion may learn from: --train-until ROWS or --train-tasks A,B"
        )
    if len(train) < 2 or not stream:
        raise ReplayError(
            f"{len(train)} rows to learn from and {len(stream)} to replay: both need some; "
            "change --train-until or --train-tasks"
        )
    return train, stream


def learn(
    plan: ReplayPlan,
    inferred: Inferred,
    learned: FileExamples,
    shelf: ModelShelf,
    notes: list[str],
    progress: Callable[[str, int, int], None],
) -> ModelsFound:
    """Fit the champion and, where there are tasks enough, meta-train; both go on the shelf."""
    for field, count in learned.refused.items():
        notes.append(f"{count} training rows left out: feature '{field}' does not fit")
    progress("fitting the champion", 0, 1)
    met = set(learned.examples.labels)
    classes = tuple(c for c in inferred.class_names if c in met)
    try:
        champion = fit_joint(inferred.schema, learned.examples, class_names=classes, seed=plan.seed)
    except ValueError as error:
        raise ReplayError(f"the champion cannot be fitted: {error}") from error
    losses = champion.info.get("holdout_losses")
    found = ModelsFound(
        champion=shelf.put_model(champion),
        recipe="joint",
        losses=tuple(float(x) for x in losses) if isinstance(losses, list | tuple) else (),
        state_id="replay",
    )
    if not learned.tasks or plan.meta_seconds <= 0:
        notes.append("no task column (or no budget): the few-step recipes have no meta-init")
        return found
    settings = MetaTrainSettings(seed=plan.seed, max_seconds=plan.meta_seconds)
    data = MetaTrainData(inferred.schema, learned.examples, learned.tasks, classes)
    try:
        made = meta_train(
            data, settings, lambda p: progress(f"meta-training {p.job}", p.step, p.steps)
        )
    except MetaTrainingError as error:
        notes.append(f"no meta-init: {error}")
        return found
    cut_short = made.info.get("cut_short")
    if cut_short:
        notes.append(
            f"meta-training of {cut_short} ended at {plan.meta_seconds:g} s before its last step; "
            "a quicker or idler machine gives another meta-init"
        )
    return replace(found, meta_init=shelf.put_meta_init(made), recommended=made.recommended)


def _report(
    plan: ReplayPlan,
    settings: Settings,
    stream: list[FileRow],
    seen: Replayed,
    state: "EngineState",
    labelled: set[str],
    notes: list[str],
) -> Report:
    core, episode = state.core, settings.episode
    losses = seen.losses()
    id_at = {position: name for name, position in seen.position_of.items()}
    facts = RunFacts(
        source=plan.file.name,
        model=settings.model.name,
        task_type=settings.model.task_type,
        events=state.window.next,
        labels_at=np.array(seen.labels_at, np.int64),
        labels_needed=episode.support + episode.query + episode.holdout,
        label_delay=plan.label_delay,
        labelled=np.array([id_at[p] in labelled for p in seen.positions], np.bool_),
        evicted=core.evicted,
        orphans=core.orphans + len(state.window.early),
        dead_letters=len(seen.dead_letters),
        counts=dict(core.counts),
        seeds={"replay": plan.seed, "episode": episode.seed},
        versions=versions(),
        notes=notes,
    )
    decisions = [*seen.decisions, *standing(core, settings.model.name)]
    return assemble(facts, losses, decisions, _boundaries(stream, seen))


def _boundaries(stream: list[FileRow], seen: Replayed) -> list[Boundary]:
    """Return true boundaries by scored event; a row that was set aside leaves its to the next."""
    found: dict[int, Boundary] = {}
    open_name: str | None = None
    pending = False
    for i, row in enumerate(stream):
        if row.boundary and i > 0:
            pending, open_name = True, row.task
        position = seen.position_of.get(row.id)
        if pending and position is not None:
            found[position] = Boundary(position, open_name)
            pending = False
    return [found[p] for p in sorted(found) if p > 0]


def versions() -> dict[str, str]:
    """Return Python's and the libraries' versions."""
    found = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "platform": sys.platform, **found}
