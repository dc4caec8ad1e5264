"""A review names the packet that was read; of another candidate it is refused."""

from pathlib import Path

import pytest

from adapters.model_file import Model
from deploy.rollout import CanaryPlan, Phase, admit, start
from pipeline.commands_in import carry_out
from pipeline.engine_state import EngineState
from pipeline.messages import Control
from pipeline.settings import load_settings
from pipeline.turn import Turn
from tests.pipeline.made_state import core_in_canary, write_config


def no_model(digest: str) -> Model:
    raise KeyError(digest)


def no_result(digest: str) -> bytes:
    raise KeyError(digest)


@pytest.mark.parametrize(
    ("digest", "phase", "kinds"),
    [
        ("feedbeef", Phase.CANARY, ["command", "rollout-canary"]),
        (None, Phase.CANARY, ["command", "rollout-canary"]),
        ("0badf00d", Phase.AWAITING_APPROVAL, ["command", "command-refused"]),
    ],
)
def test_an_approval_is_for_the_packet_it_names(
    tmp_path: Path, digest: str | None, phase: Phase, kinds: list[str]
) -> None:
    settings = load_settings(write_config(tmp_path))
    state = EngineState(settings)
    state.core = core_in_canary()
    route = state.core.routes["*"]
    rollout = start(
        id=1,
        route="*",
        kind="gated",
        stable="1-aaaaaaaa",
        candidate="2-bbbbbbbb",
        plan=CanaryPlan(mode="recommend"),
        now_s=900.0,
        reason="maml of episode 1",
    )
    route.rollout = admit(rollout, 900.0, may_enter=True, reason="passed", suspect=None)
    turn = Turn(settings, no_model, no_result, state)
    carry_out(turn, Control(verb="approve", id="1", by="ada", digest=digest), 1_000_000)
    assert route.rollout.phase is phase
    assert [d.kind for d in turn.outcome.decisions] == kinds
    if phase is Phase.AWAITING_APPROVAL:
        assert "review packet is feedbeef, not 0badf00d" in turn.outcome.decisions[-1].reason
