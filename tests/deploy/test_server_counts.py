"""Readings from counters that only rise: a window, restarts, and the percentile."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.guards import GuardReading
from deploy.local_readings import _buckets
from deploy.server_counts import RecentCounts, ServerCounts
from deploy.serving.counters import BOUNDS_S, Counters


def counts(requests: int, errors: int = 0, *answers: tuple[float, int]) -> ServerCounts:
    return ServerCounts(requests, errors, answers)


def test_nothing_is_known_before_the_second_look():
    recent = RecentCounts(60.0)
    assert recent.reading() == GuardReading()
    recent.add(0.0, counts(1000, 900, (0.1, 100)))
    assert recent.reading() == GuardReading()


def test_what_is_older_than_the_window_is_forgotten():
    recent = RecentCounts(60.0)
    for now_s, requests, errors in ((0, 0, 0), (50, 40, 40), (100, 50, 40), (111, 60, 41)):
        recent.add(float(now_s), counts(requests, errors))
    assert recent.reading() == GuardReading(20, 1)
    recent.add(1000.0, counts(60, 41))
    assert recent.reading() == GuardReading(0, 0)


def test_answers_that_could_not_be_read_once_bring_no_past_along():
    recent = RecentCounts(60.0)
    recent.add(0.0, counts(1000, 0, (0.1, 1000), (0.2, 0)))
    recent.add(30.0, counts(1000, 0))
    recent.add(100.0, counts(1010, 0, (0.1, 1000), (0.2, 10)))
    reading = recent.reading()
    assert reading.requests == 10 and reading.latency_ms is not None
    assert reading.latency_ms > 100, "the thousand quick ones are older than the window"


@pytest.mark.parametrize("after", [counts(3, 0, (0.1, 3)), counts(600, 0, (0.1, 3))])
def test_counters_that_fall_begin_anew(after):
    recent = RecentCounts(60.0)
    recent.add(0.0, counts(0, 0, (0.1, 0)))
    recent.add(1.0, counts(500, 400, (0.1, 100)))
    recent.add(2.0, after)
    assert recent.reading() == GuardReading()


@given(st.lists(st.floats(0.0001, 20.0), min_size=1, max_size=200))
def test_the_percentile_lies_in_the_bucket_of_the_true_one(seconds):
    counters = Counters({"model_version": "3-ab"})
    recent = RecentCounts(60.0)
    recent.add(0.0, ServerCounts(0, 0, _buckets(counters.text())))
    for each in seconds:
        counters.add({"ok": 1}, each)
    recent.add(1.0, ServerCounts(len(seconds), 0, _buckets(counters.text())))
    found = recent.reading().latency_ms
    true = sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]
    below = max((b for b in (0.0, *BOUNDS_S) if b < true), default=0.0)
    above = min((b for b in BOUNDS_S if b >= true), default=BOUNDS_S[-1])
    assert found is not None
    assert 1000 * below - 1e-6 <= found <= 1000 * above + 1e-6


def test_the_page_holds_a_histogram_that_adds_up():
    counters = Counters({"model_version": "3-ab"})
    for seconds in (0.0005, 0.03, 0.03, 99.0):
        counters.add({"ok": 1}, seconds)
    page = counters.text()
    name = "metadrift_serving_answer_seconds"
    assert f"# TYPE {name} histogram" in page
    assert f'{name}_bucket{{le="0.02",model_version="3-ab"}} 1' in page
    assert f'{name}_bucket{{le="0.05",model_version="3-ab"}} 3' in page
    assert f'{name}_bucket{{le="+Inf",model_version="3-ab"}} 4' in page
    assert f'{name}_count{{model_version="3-ab"}} 4' in page
    assert f'{name}_sum{{model_version="3-ab"}} 99.0605' in page
