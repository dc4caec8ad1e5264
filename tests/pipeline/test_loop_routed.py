"""Events that bring a router's answer along: who answered is read from them, not guessed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.rollout import Rollout
from deploy.unpaired import UnpairedEvidence
from deploy.verdict import by_arm
from pipeline.core_state import ONE_ROUTE
from pipeline.records import ServingSeen
from pipeline.settings import ConfigError
from tests.pipeline.loop_driver import Loop
from tests.pipeline.loop_inputs import quick_settings
from tests.pipeline.rollout_stories import opened
from tests.pipeline.small_worlds import Concept, features, first, second


class Service:
    """Asks a router that splits as was last seen, and sends what it answered on as events.

    Args:
        loop: Gets the events, and their labels at once.
        label_share: By version: share of the answers whose label comes; 1 where none is given.
        odds: How many times its weight the candidate gets.
    """

    def __init__(self, loop: Loop, odds: float = 1.0) -> None:
        self.loop, self.odds = loop, odds
        self.label_share: dict[str, float] = {}
        self.rng = np.random.default_rng(5)
        loop.step(ServingSeen())
        self.follow()

    def follow(self) -> None:
        """Let the router split as the state calls for; the loop sees that."""
        self.split = self.loop.fold.state.traffic(ONE_ROUTE)
        self.loop.step(ServingSeen(self.split))

    def answer(self, row: np.ndarray) -> tuple[str, str]:
        """Return who answers a row, and what."""
        chance = self.odds * self.split.candidate_weight / 100
        by_candidate = self.split.candidate is not None and self.rng.random() < chance
        name = (self.split.candidate or "") if by_candidate else self.split.stable
        versions = self.loop.fold.state.core.versions.values()
        version = next(v for v in versions if v.name == name)
        model = self.loop.fold.shelf.model(version.digest)
        rows = model.schema.parse(features(row))
        return name, str(model.predict(rows).labels[0])

    def send(self, n: int, concept: Concept, *, follow: bool = True, version: str = "") -> None:
        """Send ``n`` events with their answers, twenty a poll; labels come with the next poll."""
        for _ in range(0, n, 20):
            events, labels = [], []
            for row in self.loop.generator.rows(20):
                name, said = self.answer(row)
                event = {"id": f"r{self.loop.next}", "features": features(row)}
                events.append(event | {"prediction": said, "model_version": version or name})
                if self.rng.random() < self.label_share.get(name, 1.0):
                    labels.append({"id": event["id"], "label": concept(row)})
                self.loop.next += 1
            self.loop.poll(events)
            self.loop.poll(labels=labels)
            if follow:
                self.follow()

    def until(self, condition: Callable[[], object], concept: Concept, most: int = 3000) -> None:
        """Send events until something holds."""
        for _ in range(0, most, 20):
            if condition():
                return
            self.send(20, concept)
        raise AssertionError(f"not within {most} events; decided: {self.loop.kinds()}")


def routed(folder: Path, **rollout: object) -> Loop:
    given: dict[str, object] = {"evidence": "unpaired", "steps": [50], "settle_s": 0.0}
    given |= {"least_labels": 10, "most_error_rate": None, **rollout}
    return opened(folder, rollout=given, serving={"backend": "local"})


def in_canary(loop: Loop, odds: float = 1.0) -> Service:
    """Bring the loop to a canary of a candidate that knows the second plan, seen to be served."""
    service = Service(loop, odds)
    service.send(200, first)
    service.until(lambda: loop.route.rollout, second)
    service.follow()
    return service


def rollout_of(loop: Loop) -> Rollout:
    assert loop.route.rollout is not None
    return loop.route.rollout


def test_a_better_candidate_is_promoted_by_single_answers(tmp_path: Path) -> None:
    with routed(tmp_path) as loop:
        service = in_canary(loop)
        assert rollout_of(loop).plan.evidence == "unpaired"
        service.until(lambda: loop.route.champion == 2, second)
        (promotion,) = loop.decided("promotion")
        assert promotion.facts["labels"] >= 20
        assert not loop.predictions, "the service answered all of them"
        service.until(lambda: loop.route.probation is None, second)
        assert loop.route.champion == 2


def test_a_worse_candidate_is_rolled_back_by_single_answers(tmp_path: Path) -> None:
    with routed(tmp_path) as loop:
        service = in_canary(loop)
        service.until(lambda: loop.route.rollout is None, first)
        (back,) = loop.decided("rollout-rolled-back")
        assert back.facts["verdict"] == "fail" and loop.route.champion == 1
        assert back.facts["labels_candidate"] > 5 and back.facts["labels_stable"] > 5


def test_each_label_is_of_the_arm_that_the_answer_names(tmp_path: Path) -> None:
    with routed(tmp_path, least_labels=1000, longest_wait_labels=None) as loop:
        service = in_canary(loop)
        service.send(400, second)
        rollout = rollout_of(loop)
        evidence = rollout.evidence
        assert isinstance(evidence, UnpairedEvidence)
        assert by_arm(rollout.assigned) == (evidence.n_stable, evidence.n_candidate)
        assert 150 < evidence.n_candidate < 250
        assert evidence.mean_candidate < 0.1 < 0.4 < evidence.mean_stable


def test_a_router_that_prefers_the_candidate_never_promotes_it(tmp_path: Path) -> None:
    with routed(tmp_path, longest_wait_labels=600) as loop:
        service = in_canary(loop, odds=1.6)
        service.until(lambda: loop.route.rollout is None, second)
        (ended,) = loop.decided("rollout-expired")
        assert "skewed assignment" in ended.reason and loop.route.champion == 1


def test_labels_that_avoid_the_candidate_never_promote_it(tmp_path: Path) -> None:
    with routed(tmp_path, longest_wait_labels=600) as loop:
        service = in_canary(loop)
        service.label_share = {rollout_of(loop).candidate: 0.3}
        service.until(lambda: loop.route.rollout is None, second)
        (ended,) = loop.decided("rollout-expired")
        assert "skewed label arrival" in ended.reason and loop.route.champion == 1


def test_too_few_labels_of_one_arm_are_no_verdict(tmp_path: Path) -> None:
    given = {"least_label_coverage": 0.9, "longest_wait_labels": 300}
    with routed(tmp_path, **given) as loop:
        service = in_canary(loop)
        rollout = rollout_of(loop)
        service.label_share = {rollout.candidate: 0.5, rollout.stable: 0.5}
        service.until(lambda: loop.route.rollout is None, second)
        (ended,) = loop.decided("rollout-expired")
        assert "less than the share of 0.9" in ended.reason and loop.route.champion == 1


def test_answers_of_an_unsettled_split_are_left_out(tmp_path: Path) -> None:
    with routed(tmp_path, settle_s=1e6, longest_wait_labels=None) as loop:
        service = in_canary(loop)
        service.send(200, second)
        rollout = rollout_of(loop)
        assert not rollout.assigned.cells and not rollout.labelled.cells
        assert rollout.evidence.n == rollout.step_labels == rollout.phase_labels == 0
    with routed(tmp_path / "unseen", longest_wait_labels=None) as loop:
        service = in_canary(loop)
        loop.step(ServingSeen())  # the router is away: by what chance it answered is not known
        service.send(200, second, follow=False)
        assert rollout_of(loop).evidence.n == 0


def test_a_split_that_comes_back_counts_from_then_on(tmp_path: Path) -> None:
    with routed(tmp_path, settle_s=30.0, longest_wait_labels=None, least_labels=999) as loop:
        service = in_canary(loop)
        loop.tick(60)
        service.send(20, second)
        assert rollout_of(loop).evidence.n == 20
        loop.step(ServingSeen())
        service.follow()
        service.send(20, second)
        assert rollout_of(loop).evidence.n == 20, "30 s have not passed"
        loop.tick(60)
        service.send(20, second)
        assert rollout_of(loop).evidence.n == 40


@pytest.mark.parametrize("version", ["7-0badcafe", "an old one"])
def test_another_versions_answer_judges_nobody(tmp_path: Path, version: str) -> None:
    with routed(tmp_path, longest_wait_labels=None) as loop:
        service = in_canary(loop)
        before, served = rollout_of(loop).evidence.n, loop.counts["served_labelled"]
        service.send(100, second, version=version)
        assert rollout_of(loop).evidence.n == before
        assert loop.counts["served_labelled"] == served
        assert loop.counts["answered_by_another"] == 100


def test_in_pairs_the_candidates_answer_is_not_the_champions(tmp_path: Path) -> None:
    with routed(tmp_path, evidence="paired", least_labels=1000, longest_wait_labels=None) as loop:
        service = in_canary(loop)
        loop.tick(5)
        service.send(200, second)
        rollout = rollout_of(loop)
        stable, candidate = by_arm(rollout.assigned)
        assert stable + candidate == 200 == rollout.evidence.n and 60 < candidate < 140
        assert rollout.evidence.mean_stable > 0.4, "the champion's own answers, scored here"
        assert rollout.evidence.mean_candidate < 0.1


def test_routed_answers_are_folded_again(tmp_path: Path) -> None:
    with routed(tmp_path) as loop:
        service = in_canary(loop)
        service.send(60, second)
        loop.restart()
        service.until(lambda: loop.route.champion == 2, second)
        again = tmp_path / "again"
        again.mkdir()
        assert loop.refolded(again) == loop.tables()


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"rollout": {"evidence": "unpaired"}}, "serving.backend is embedded"),
        (
            {
                "rollout": {"evidence": "unpaired", "mode": "shadow"},
                "serving": {"backend": "local"},
            },
            "nothing is compared",
        ),
        (
            {
                "rollout": {"evidence": "unpaired", "steps": [50, 100]},
                "serving": {"backend": "local"},
            },
            "last step below 100",
        ),
    ],
)
def test_settings_in_which_no_router_compares_are_refused(
    tmp_path: Path, sections: dict[str, dict[str, object]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        quick_settings(tmp_path, **sections)
