"""Counts from Prometheus' series, added up over pods that restart, come and go."""

from collections.abc import Callable, Mapping

import pytest

from deploy.guards import GuardReading
from deploy.prometheus_api import Answer, PrometheusApi, PrometheusError, Sample
from deploy.prometheus_readings import AWAY_S, BUCKETS, EVERY_S, REQUESTS, PrometheusReadings
from deploy.rollout_plan import Traffic
from deploy.serving.counters import Counters

CANARY = Traffic("1-a", "2-b", 5)
Page = Mapping[str, tuple[str, Counters]]
"""Counters by pod, with the version."""


def samples(pages: Page) -> tuple[Sample, ...]:
    """Return what Prometheus has after scraping these pods, from their real pages."""
    found = []
    for pod, (version, counters) in pages.items():
        for line in counters.text().splitlines():
            name, _, rest = line.partition("{")
            if name in (REQUESTS, BUCKETS):
                written, _, value = rest.rpartition("} ")
                labels = dict(part.split("=") for part in written.replace('"', "").split(","))
                assert labels["model_version"] == version
                found.append(Sample({"__name__": name, "pod": pod, **labels}, float(value)))
    return tuple(found)


class Told(PrometheusApi):
    """Answers what a test says."""

    def __init__(self) -> None:
        self.answer: Answer | str = Answer(())
        self.asked = list[str]()

    def query(self, promql: str) -> Answer:
        self.asked.append(promql)
        if isinstance(self.answer, str):
            raise PrometheusError(self.answer)
        return self.answer


class World:
    """Pods by name, and readings of them.

    Attributes:
        pods: As they are scraped; a test changes them.
        warnings: Of each answer.
    """

    def __init__(self, servers: int = 1) -> None:
        self.api, self.now_s, self.warnings = Told(), 0.0, ""
        self.pods: dict[str, tuple[str, Counters]] = {}
        self.readings = PrometheusReadings(
            self.api, servers, 300.0, {"namespace": "m"}, lambda: self.now_s
        )
        self.readings.want(CANARY)

    def start(self, pod: str, version: str) -> Callable[..., None]:
        """(Re)start a pod; return what counts requests there."""
        counters = Counters({"model_version": version})
        self.pods[pod] = (version, counters)

        def count(outcome: str, n: int, seconds: float | None = None) -> None:
            for _ in range(n):
                counters.add({outcome: 1.0}, seconds)

        return count

    def look(self, after_s: float = EVERY_S) -> dict[str, GuardReading]:
        self.now_s += after_s
        self.api.answer = Answer(samples(self.pods), self.warnings)
        return self.readings()


def test_counts_are_by_version_over_all_pods_and_since_the_first_look() -> None:
    world = World(servers=2)
    pods = {name: world.start(name, name[:3]) for name in ("1-a/0", "1-a/1", "2-b/0", "2-b/1")}
    pods["2-b/0"]("failed", 500)
    assert world.look() == {"1-a": GuardReading(), "2-b": GuardReading()}, "how old is unknown"
    for name, count in pods.items():
        count("ok", 10, 0.15)
        count("refused", 1)
        if name == "2-b/1":
            count("failed", 3)
    seen = world.look()
    assert (seen["1-a"].requests, seen["1-a"].errors) == (22, 0)
    assert (seen["2-b"].requests, seen["2-b"].errors, seen["2-b"].problem) == (25, 3, None)
    assert 100 < (seen["2-b"].latency_ms or 0) <= 200
    assert 'namespace="m",model_version=~"1-a|2-b"' in world.api.asked[0]


def test_a_pod_that_restarts_and_one_that_comes_lose_nothing_that_was_scraped() -> None:
    world = World()
    world.start("1-a/0", "1-a")
    world.look()
    # The candidate's pod comes only after the first look: all that it counts is new.
    world.start("2-b/0", "2-b")("ok", 30, 0.01)
    assert world.look()["2-b"].requests == 30
    # It restarts, and serves less, but no outcome that it had before fell to be missed.
    restarted = world.start("2-b/0", "2-b")
    restarted("ok", 7, 5.0)
    restarted("failed", 2)
    seen = world.look()["2-b"]
    assert (seen.requests, seen.errors) == (39, 2)
    assert 2000 < (seen.latency_ms or 0) <= 5000, "its buckets restarted with it"
    # One more beside it, and the first goes: its past stays.
    world.start("2-b/1", "2-b")("ok", 10, 0.01)
    world.look()
    gone = world.pods.pop("2-b/0")
    assert world.look()["2-b"].requests == 49
    world.pods["2-b/0"] = gone  # it was not scraped for a while
    assert world.look()["2-b"].requests == 49, "counted a second time"


def test_a_restart_that_serves_more_of_one_kind_counts_all_of_it() -> None:
    world = World()
    world.start("2-b/0", "2-b")("ok", 10, 0.01)
    world.look()
    again = world.start("2-b/0", "2-b")
    again("ok", 4, 0.01)
    again("failed", 20)
    seen = world.look()["2-b"]
    assert (seen.requests, seen.errors) == (24, 20), "failed rose while ok fell"


def test_what_is_older_than_the_window_is_forgotten() -> None:
    world = World()
    count = world.start("2-b/0", "2-b")
    world.look()
    count("failed", 50)
    assert world.look()["2-b"].errors == 50
    world.look(400.0)
    assert world.look(400.0)["2-b"] == GuardReading()


def test_servers_that_are_missing_vouch_for_nothing_and_the_others_still_count() -> None:
    world = World(servers=2)
    assert world.look()["2-b"].problem == "Prometheus shows 0 of 2 servers of 2-b"
    world.start("2-b/0", "2-b")("failed", 60)
    seen = world.look()["2-b"]
    assert seen == GuardReading(60, 60, None, "Prometheus shows 1 of 2 servers of 2-b")
    world.start("2-b/1", "2-b")
    world.warnings = "a store is away"
    assert world.look()["2-b"].problem == "Prometheus warns: a store is away"
    world.warnings = ""
    assert world.look()["2-b"].problem is None


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (Sample({"__name__": REQUESTS, "outcome": "ok"}, -1.0), "odd counter"),
        (Sample({"__name__": REQUESTS}, 1.0), "odd counter"),
        (Sample({"__name__": BUCKETS, "le": "wide"}, 1.0), "odd counter"),
    ],
)
def test_a_counter_that_is_none_makes_the_look_a_problem(odd: Sample, says: str) -> None:
    world = World()
    world.look()
    world.api.answer = Answer((odd,))
    world.now_s += EVERY_S
    assert says in (world.readings()["2-b"].problem or "")


def test_one_counter_shown_twice_is_not_counted_twice() -> None:
    world = World()
    world.start("2-b/0", "2-b")
    world.look()
    world.api.answer = Answer(samples(world.pods) * 2)
    world.now_s += EVERY_S
    assert "one counter twice" in (world.readings()["2-b"].problem or "")


def test_a_server_of_another_program_is_none() -> None:
    world = World()
    only = Sample({"__name__": BUCKETS, "model_version": "2-b", "le": "+Inf"}, 9.0)
    world.api.answer = Answer((only,))
    assert "0 of 1 servers" in (world.readings()["2-b"].problem or "")


def test_prometheus_is_asked_seldom_more_seldom_when_away_and_at_once_for_a_new_pair() -> None:
    world = World()
    world.look()
    world.now_s += EVERY_S / 2
    world.readings()
    assert len(world.api.asked) == 1
    world.now_s += EVERY_S
    world.api.answer = "no answer"
    problem = GuardReading(problem="no answer")
    assert world.readings() == {"1-a": problem, "2-b": problem}
    world.now_s += AWAY_S - 1
    assert world.readings() == {"1-a": problem, "2-b": problem} and len(world.api.asked) == 2
    world.readings.want(Traffic("1-a", "3-c", 5))
    assert set(world.look(0)) == {"1-a", "3-c"} and len(world.api.asked) == 3
    world.readings.want(Traffic("1-a"))
    assert world.look() == {} and len(world.api.asked) == 3


def test_a_step_and_a_promotion_keep_what_was_counted() -> None:
    world = World()
    count = world.start("2-b/0", "2-b")
    world.look()
    count("failed", 60)
    world.look()
    for target in (Traffic("1-a", "2-b", 25), Traffic("2-b", "1-a", shadow=True)):
        world.readings.want(target)
        assert world.look()["2-b"].errors == 60


def test_an_absence_brings_no_past_along() -> None:
    """Requests made while Prometheus was away are counted when it is back, once."""
    world = World()
    count = world.start("2-b/0", "2-b")
    world.look()
    world.api.answer = "no answer"
    world.now_s += EVERY_S
    world.readings()
    count("ok", 20, 0.01)
    assert world.look(AWAY_S)["2-b"].requests == 20
