"""State files as a daemon would have left them, made by hand."""

import os
from pathlib import Path

import msgspec

from deploy.risk_budget import RiskBudget, spend
from deploy.rollout import CanaryPlan, admit, observe_pair, start
from pipeline.core_state import Core, Version, encode_core
from pipeline.fold import state_path
from pipeline.messages import Decision
from pipeline.records import Effect
from pipeline.state_changes import Changes
from pipeline.state_file import StateFile, wall_s


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def core_in_canary() -> Core:
    """A candidate in its first canary step, 8 labels in."""
    core = Core(state_id="s", time_ms=1_000_000, next=500, labels=100, served_loss=25.0)
    core.counts = {"served_labelled": 100, "dead_letters": 0, "labels": 100}
    core.positions = {"events/0": 500, "labels/0": 100}
    for number, letter in ((1, "a"), (2, "b")):
        core.versions[number] = Version(
            number=number,
            name=f"{number}-{letter * 8}",
            digest=digest(letter),
            episode=None if number == 1 else 1,
            losses=[],
            recipe="joint" if number == 1 else "maml",
            registered=str(number),
        )
    alpha, core.risk = spend(RiskBudget(risk=0.5, lag_s=0.0, most=0.05), 900.0)
    core.packets = {1: "feedbeef" + "0" * 56}
    route = core.routes["*"]
    route.champion, route.rollout_candidate = 1, 2
    rollout = start(
        id=1,
        route="*",
        kind="gated",
        stable="1-aaaaaaaa",
        candidate="2-bbbbbbbb",
        plan=CanaryPlan(risk=alpha),
        now_s=900.0,
        reason="maml of episode 1",
    )
    rollout = admit(rollout, 900.0, may_enter=True, reason="passed", suspect=None)
    for _ in range(8):
        rollout = observe_pair(rollout, 1.0, 0.0, arm="stable", weight_pct=5)
    route.rollout = rollout
    return core


def decision(number: int, kind: str, reason: str, **facts: object) -> bytes:
    return msgspec.json.encode(
        Decision(
            key=f"m-{number}",
            kind=kind,
            model="m",
            route="*",
            position=500,
            labels=100,
            at_ms=1_000_000,
            reason=reason,
            facts=facts,
        )
    )


def write_state(
    state_dir: Path,
    core: Core,
    decisions: list[bytes],
    *,
    stopped: bool = True,
    model: str = "m",
    waiting: int = 0,
) -> None:
    """Write a state file; unless ``stopped``, this process owns it."""
    file = StateFile(state_path(state_dir), model)
    assert file.acquire(wall_s())
    effects = [Effect(f"e{i}", "alias", {"number": 1}) for i in range(waiting)]
    changes = Changes(core=encode_core(core), decisions=decisions, effects=effects)
    file.commit(b"\x91\xa4tick", changes, wall_s())
    if stopped:
        file.release()
    file.close()


def write_config(folder: Path, text: str = "") -> Path:
    path = folder / "m.yaml"
    path.write_text(f"model: {{name: m}}\nstate_dir: {folder}/state\n{text}")
    return path


HERE = os.getpid()
