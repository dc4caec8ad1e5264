"""The wrong-promotion budget: no window ever exceeds it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.risk_budget import (
    MOST_ENTRIES,
    THIRTY_DAYS_S,
    RiskBudget,
    left,
    next_alpha,
    returns_at,
    spend,
)

DAY_S = 86_400.0


@given(
    st.floats(0.01, 3.0),
    st.lists(st.floats(0, 5 * DAY_S), max_size=120),
    st.sampled_from([0.0, 7 * DAY_S]),
)
def test_no_window_of_thirty_days_exceeds_the_budget(risk, gaps, lag_s):
    budget, now_s, spent = RiskBudget(risk=risk, lag_s=lag_s), 0.0, []
    for gap in gaps:
        now_s += gap
        announced = next_alpha(budget, now_s)
        alpha, budget = spend(budget, now_s)
        assert alpha == announced and 0.0 < alpha <= budget.most
        spent.append((now_s, alpha))
        recent = sum(a for at, a in spent if now_s - at <= THIRTY_DAYS_S + lag_s)
        assert recent <= risk * (1 + 1e-9)
        assert left(budget, now_s) == pytest.approx(risk - recent, abs=1e-9)


def test_shares_shrink_and_come_back_with_age():
    budget = RiskBudget(risk=0.5)
    alphas = []
    for _ in range(4):
        alpha, budget = spend(budget, 100.0)
        alphas.append(alpha)
    assert alphas == pytest.approx([0.05, 0.045, 0.0405, 0.03645])
    assert returns_at(budget, 100.0) == 100.0 + THIRTY_DAYS_S
    assert left(budget, 100.0 + THIRTY_DAYS_S + 1) == 0.5
    assert returns_at(budget, 100.0 + THIRTY_DAYS_S + 1) is None


def test_a_rollout_that_may_promote_late_keeps_its_risk_as_long():
    alpha, budget = spend(RiskBudget(risk=0.5, lag_s=7 * DAY_S), 0.0)
    assert left(budget, 36 * DAY_S) == pytest.approx(0.5 - alpha)
    assert left(budget, 37 * DAY_S + 1) == 0.5


def test_one_rollout_never_gets_more_than_the_most():
    assert next_alpha(RiskBudget(risk=10.0), 0.0) == 0.05


def test_the_state_is_bounded_and_returns_nothing_early():
    budget = RiskBudget(risk=1.0, share=0.001)
    for second in range(MOST_ENTRIES + 50):
        before = left(budget, float(second))
        alpha, budget = spend(budget, float(second))
        assert left(budget, float(second)) == pytest.approx(before - alpha)
    assert len(budget.spent) == MOST_ENTRIES
    # Entries 0 to 50 have become one, which is as old as its youngest.
    full = left(budget, float(MOST_ENTRIES + 49))
    assert left(budget, THIRTY_DAYS_S + 49.5) == pytest.approx(full)
    assert left(budget, THIRTY_DAYS_S + 50.5) > full + 0.04


def test_json_round_trip():
    _, budget = spend(RiskBudget(risk=0.3), 1 / 3)
    assert msgspec.json.decode(msgspec.json.encode(budget), type=RiskBudget) == budget


@pytest.mark.parametrize("wrong", [{"risk": 0.0}, {"risk": 1.0, "share": 1.0}])
def test_senseless_budgets_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        RiskBudget(**wrong)
