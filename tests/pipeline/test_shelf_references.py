"""What the state, its checkpoint, its journal or its outbox names stays on the shelf."""

import tempfile
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.examples import Examples
from adapters.feature_schema import Rows
from adapters.loss_evidence import Reference
from adapters.task_memory import ConfirmedTask, KeptExamples, Signature, TaskMemory
from deploy.rollout import CanaryPlan, Rollout, start
from detectors.signals import Signal, SignalKind
from pipeline.arrivals import announce
from pipeline.checkpoints import checkpoints, write_checkpoint
from pipeline.core_state import (
    Before,
    Candidate,
    Core,
    Episode,
    RouteRequest,
    Routing,
    Version,
    encode_core,
)
from pipeline.fold import shelf_of, state_path
from pipeline.journal import write_entry
from pipeline.model_shelf import ModelShelf
from pipeline.records import BakeOffDone, Effect, ModelsFound, RouteAdapted, Tick
from pipeline.shelf_sweep import ShelfSweep
from pipeline.state_changes import Changes
from pipeline.state_file import StateFile
from pipeline.state_schema import TASK_MEMORY
from pipeline.task_routes import TaskRoute

THINGS = 24
PLACES = (
    *("champion", "earlier", "rollout_candidate", "before", "before_earlier", "rollout", "ended"),
    *("probation", "episode", "episode_result", "rollout_episode", "memory", "memory_before"),
    *("route", "routing", "version effect", "bake-off", "route answer", "arrival", "in a result"),
    "checkpoint",
)


def digest(number: int) -> str:
    return f"sha256:{number:032x}{0:032x}"


def put(shelf: ModelShelf, number: int, holds: bytes = b"") -> None:
    """Put something that looks like a result and a model of this digest on the shelf."""
    name = digest(number)[7:39]
    (shelf.folder / "results" / name).write_bytes(holds)
    (shelf.folder / "models" / name).mkdir()


def version(number: int) -> Version:
    return Version(number, f"v{number}", digest(number), None, [], "maml")


def rollout(stable: int, candidate: int) -> Rollout:
    return start(
        id=1,
        route="*",
        kind="gated",
        stable=f"v{stable}",
        candidate=f"v{candidate}",
        plan=CanaryPlan(risk=0.1),
        now_s=0.0,
        reason="",
    )


def episode(number: int, result: int) -> Episode:
    made = Episode(1, "drift", Signal(SignalKind.FORCED, "x", 0, 0, 0.0, 0.0, "y"), 0, "gate", 0, 0)
    made.candidate = Candidate("maml", digest(number), [], digest(result))
    return made


def task(number: int) -> ConfirmedTask:
    none = Examples(Rows(np.empty((0, 2))), (), np.empty(0), np.empty(0, np.uint64))
    return ConfirmedTask(
        f"t{number}", digest(number), Signature(Reference(0, 0.0), None), KeptExamples.of(none), 0
    )


def commit(file: StateFile, core: Core, entry: bytes, **rows: object) -> None:
    made = Changes(core=encode_core(core))
    for name, value in rows.items():
        setattr(made, name, value)
    file.commit(entry, made, 0.0)


def sweep(file: StateFile, shelf: ModelShelf) -> set[int]:
    """Sweep; return the numbers of what is left."""
    known = checkpoints(file.path)
    for _ in ShelfSweep(file, shelf, known[0] if known else None, grace_s=-60.0).run():
        pass
    left = {p.name for p in shelf.things()}
    assert left == {p.name for p in (shelf.folder / "models").iterdir()}
    return {n for n in range(THINGS * 2) if digest(n)[7:39] in left}


@settings(max_examples=60, deadline=None)
@given(where=st.dictionaries(st.sampled_from(PLACES), st.integers(1, THINGS - 1)))
def test_what_is_named_anywhere_stays_and_the_rest_goes(where: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shelf = shelf_of(folder)
        for number in range(2 * THINGS):
            put(shelf, number)
        core = Core(versions={n: version(n) for n in range(THINGS)})
        core.routing = Routing()
        route = core.routes["*"]
        entries: list[bytes] = [write_entry(Tick(1))]
        rows: dict[str, object] = {}
        memory, memory_before = (), None
        kept = {0}  # the champion, unless another one is; it may stay
        for place, n in where.items():
            kept.add(n)
            match place:
                case "champion":
                    route.champion = n
                case "earlier":
                    route.earlier = [n]
                case "rollout_candidate":
                    route.rollout_candidate = n
                case "before" | "before_earlier":
                    route.before = route.before or Before(0, [], 0, 0, {}, 0)
                    if place == "before":
                        route.before.champion = n
                    else:
                        route.before.earlier = [n]
                case "rollout":
                    route.rollout = rollout(n, 0)
                case "ended":
                    route.ended = rollout(0, n)
                case "probation":
                    route.probation = rollout(n, 0)
                case "episode" | "episode_result":
                    route.episode = episode(where.get("episode", n), where.get("episode_result", n))
                case "rollout_episode":
                    route.rollout_episode = episode(n, n)
                case "memory":
                    memory = (task(n),)
                case "memory_before":
                    memory_before = (task(n),)
                case "route":
                    document = msgspec.json.encode(TaskRoute("ann", answer=digest(n)))
                    rows["routes"] = [("ann", 0, True, document)]
                case "routing":
                    core.routing.waiting = [RouteRequest(1, "ann", "maml", [], [], digest(n))]
                case "version effect":
                    payload: dict[str, object] = {"number": n, "record": {"digest": digest(n)}}
                    rows["effects"] = [Effect("k", "version", payload)]
                case "bake-off":
                    entries.append(write_entry(BakeOffDone(1, 1, digest(n))))
                case "route answer":
                    entries.append(write_entry(RouteAdapted(1, digest(n))))
                case "arrival":
                    announce(folder, ModelsFound(digest(n), meta_init=digest(0)))
                case "in a result":
                    held = THINGS + n
                    (shelf.folder / "results" / digest(n)[7:39]).write_bytes(digest(held).encode())
                    entries.append(write_entry(BakeOffDone(1, 2, digest(n))))
                    kept.add(held)
                case _:
                    assert place == "checkpoint"
        rows["monitors"] = {("*", TASK_MEMORY): TaskMemory(memory, memory_before).pack()}
        with closing(StateFile(state_path(folder), "m")) as file:
            assert file.acquire(0.0)
            if "checkpoint" in where:
                before = Core(versions={n: version(n) for n in range(THINGS)})
                before.routes["*"].champion = where["checkpoint"]
                commit(file, before, write_entry(Tick(0)))
                write_checkpoint(file.path)
            for entry in entries:
                commit(file, core, entry, **rows)
            left = sweep(file, shelf)
        assert left | {0} == kept


def test_what_is_named_while_the_sweep_goes_on_stays() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        shelf = shelf_of(Path(scratch))
        for number in range(1, THINGS):
            put(shelf, number)
        with closing(StateFile(state_path(Path(scratch)), "m")) as file:
            assert file.acquire(0.0)
            commit(file, Core(), write_entry(Tick(0)))
            pieces = ShelfSweep(file, shelf, None, grace_s=-60.0).run()
            next(pieces)
            late = Core(meta_init=digest(3))
            commit(file, late, write_entry(BakeOffDone(1, 1, digest(7))))
            for _ in pieces:
                pass
        assert {p.name for p in shelf.things()} == {digest(3)[7:39], digest(7)[7:39]}
