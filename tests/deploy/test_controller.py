"""The controller converges from anywhere, whatever the backend does in between."""

import pytest

from deploy.controller import (
    PermanentBackendError,
    ServingBackend,
    TransientBackendError,
    reconcile,
)
from deploy.embedded import EmbeddedBackend
from deploy.rollout_plan import Traffic

CANARY = Traffic("1-a", "2-b", candidate_weight=25)


class ScriptedBackend:
    """Raises the scripted faults, one per call; ``after`` faults come once the work is done."""

    def __init__(self, before=(), after=(), deaf=False):
        self.live = None
        self.before, self.after, self.deaf = list(before), list(after), deaf
        self.applied = 0

    def apply(self, traffic):
        self.applied += 1
        self._fail(self.before)
        if not self.deaf:
            self.live = traffic
        self._fail(self.after)

    def observed(self):
        return self.live

    def _fail(self, faults):
        if faults and (fault := faults.pop(0)) is not None:
            raise fault


def test_it_applies_once_and_then_leaves_alone():
    backend = ScriptedBackend()
    first, second = reconcile(CANARY, backend), reconcile(CANARY, backend)
    assert first.live and first.applied
    assert second.live and not second.applied
    assert backend.applied == 1


def test_a_split_changed_by_another_hand_is_put_right():
    backend = ScriptedBackend()
    reconcile(CANARY, backend)
    backend.live = Traffic("1-a")
    assert reconcile(CANARY, backend).live
    assert backend.live == CANARY


def test_an_outage_becomes_a_value_and_the_next_tick_converges():
    backend = ScriptedBackend(before=[TransientBackendError("no answer", retry_in_s=2.0)])
    tick = reconcile(CANARY, backend)
    assert not tick.live and tick.error == "no answer" and tick.retry_in_s == 2.0
    assert reconcile(CANARY, backend).live


def test_a_lost_reply_is_noticed_at_the_next_look():
    backend = ScriptedBackend(after=[TransientBackendError("reply lost", retry_in_s=0.1)])
    assert not reconcile(CANARY, backend).live
    again = reconcile(CANARY, backend)
    assert again.live and not again.applied


def test_a_refusal_names_itself_and_sets_no_time():
    backend = ScriptedBackend(before=[PermanentBackendError("no such model; load it")])
    tick = reconcile(CANARY, backend)
    assert not tick.live and tick.retry_in_s is None and "load it" in (tick.error or "")


def test_a_backend_that_has_not_got_there_yet_is_not_live():
    assert not reconcile(CANARY, ScriptedBackend(deaf=True)).live


def test_a_defect_rises():
    with pytest.raises(KeyError):
        reconcile(CANARY, ScriptedBackend(before=[KeyError("defect")]))


def test_the_embedded_backend_serves_what_was_applied():
    backend: ServingBackend = EmbeddedBackend()
    assert backend.observed() is None
    assert reconcile(Traffic("1-a", "2-b", 50), backend).live
    ids = [f"event-{i}" for i in range(2000)]
    assert backend.serves_candidate(ids, "s").mean() == pytest.approx(0.5, abs=0.05)
    reconcile(Traffic("1-a"), backend)
    assert not backend.serves_candidate(ids, "s").any()


def test_the_embedded_backend_answers_nothing_before_its_first_traffic():
    with pytest.raises(RuntimeError, match="reconcile"):
        EmbeddedBackend().serves_candidate(["a"], "s")
