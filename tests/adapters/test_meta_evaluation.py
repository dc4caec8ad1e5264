"""Meta-evaluation on families where the answer is known: it says yes, and it says no."""

from dataclasses import replace
from functools import cache
from itertools import count
from typing import cast

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from adapters import pooled_regression
from adapters.baselines import BASELINES, POOLED, Rivals, answers_of, errors_of
from adapters.evaluation_results import MetaEvaluation, PairedGain, RecipeScore
from adapters.evaluation_verdict import bootstrap_interval, judge, mean_interval
from adapters.examples import Examples
from adapters.feature_schema import Feature, FeatureSchema, Rows
from adapters.joint import Descent
from adapters.meta_evaluation import EvaluationSettings, meta_evaluate
from adapters.meta_init import Algorithm, MetaInit
from adapters.meta_settings import MetaTrainData
from adapters.meta_step_costs import meta_step_peaks
from adapters.meta_training import meta_train
from adapters.pooled_regression import SUPPORT_WEIGHTS, PooledRegression
from adapters.recipes import RecipeError
from adapters.task_splits import LeakError, TaskSplit
from tests.adapters.lanes import (
    KINDS,
    QUICK,
    line_data,
    line_init,
    parcels,
    plan_data,
    plan_init,
    plans,
)

FEW = EvaluationSettings(shots=(2,), episodes=4, query=20, validation_episodes=1, joint_steps=300)
NUMBERS = 8
SCHEMA = FeatureSchema((Feature("x", "tensor", (NUMBERS,)),))


def gates(tasks: int, rows: int, *, turned: bool) -> MetaTrainData:
    """Tasks in which the sign of the first of eight numbers decides; where ``turned``, in every
    other task the answer is turned round, which a single label tells.
    """
    draw = np.random.default_rng(tasks)
    x = draw.normal(size=(tasks * rows, NUMBERS))
    task = np.repeat(np.arange(tasks), rows)
    up = (x[:, 0] > 0) ^ (turned & (task % 2 == 1))
    examples = Examples(
        Rows(x), tuple("up" if u else "down" for u in up), keys=np.arange(len(x), dtype=np.uint64)
    )
    return MetaTrainData(SCHEMA, examples, tuple(f"t{t}" for t in task), ("down", "up"))


@cache
def trained(turned: bool) -> tuple[TaskSplit, MetaInit]:
    """Return gates split into tasks to train and four to judge, and their meta-init."""
    data = gates(20, 40, turned=turned)
    test = ("t16", "t17", "t18", "t19")
    kept = [i for i, name in enumerate(data.tasks) if name not in test]
    known = MetaTrainData(
        SCHEMA, data.examples.take(kept), tuple(data.tasks[i] for i in kept), data.class_names
    )
    algorithms: tuple[Algorithm, ...] = ("maml", "reptile") if turned else ("reptile",)
    init = meta_train(known, replace(QUICK, algorithms=algorithms, support=4))
    validation = cast("dict[str, list[str]]", init.info["validation"])["tasks"]
    return TaskSplit.with_test(data, test, validation), init


@cache
def found() -> MetaEvaluation:
    ticks = count()
    settings = replace(FEW, shots=(1, 2))
    return meta_evaluate(*trained(True), settings, clock=lambda: float(next(ticks)))


def score(recipe: str, shots: int) -> RecipeScore:
    (one,) = (s for s in found().scores if (s.recipe, s.shots) == (recipe, shots))
    return one


def test_where_tasks_share_structure_it_says_yes() -> None:
    assert [v.answer for v in found().verdicts] == ["yes", "yes"]
    assert found().verdict == f"yes: meta-learning is worth it here; use {found().recipe}"
    assert score(found().recipe, 2).score > score("joint_fine_tuned", 2).score + 0.05
    assert abs(score("joint_frozen", 2).score - 0.5) < 0.2  # the tasks contradict each other
    assert "better than the strongest baseline (95 % interval" in found().verdicts[0].words


def test_every_recipe_and_every_baseline_is_scored_on_every_episode() -> None:
    names = {"maml", "reptile", *BASELINES}
    for shots in (1, 2):
        here = [s for s in found().scores if s.shots == shots]
        assert {s.recipe for s in here} == names
        assert {s.recipe for s in here if s.meta_learned} == {"maml", "reptile"}
        assert [s.score for s in here] == sorted((s.score for s in here), reverse=True)
        for s in here:
            assert (s.episodes, s.failed, s.failure) == (4, 0, "")
            assert s.low <= s.score <= s.high
            assert s.seconds == 1  # one tick of the clock
            assert s.peak_bytes is not None and 0 <= s.peak_bytes < 50_000_000
    assert {(g.recipe, g.baseline) for g in found().gains} == {
        (own, baseline) for own in ("maml", "reptile") for baseline in BASELINES
    }
    for gain in found().gains:
        own, other = score(gain.recipe, gain.shots), score(gain.baseline, gain.shots)
        assert gain.gain == pytest.approx(own.score - other.score)
        assert gain.low <= gain.gain <= gain.high


def test_curves_targets_and_choices_are_there() -> None:
    curve = score("maml", 2).curve
    assert curve[0].steps == 0 and curve[-1].steps == trained(True)[1].starts["maml"].steps
    assert curve[-1].score == pytest.approx(score("maml", 2).score)
    best = max(s.score for s in found().scores if s.shots == 2 and not s.meta_learned)
    assert found().target == best
    reached = score(found().recipe, 2).steps_to_target
    assert reached is not None and reached >= 1
    needed = {n.recipe: n.shots for n in found().labels_needed}
    assert needed[found().recipe] in (1, 2) and needed["joint_frozen"] is None
    assert [(t.recipe, t.shots) for t in found().fine_tuning] == [
        (name, shots) for shots in (1, 2) for name in ("joint_fine_tuned", "last_fine_tuned")
    ]
    for tuning in found().fine_tuning:
        assert tuning.episodes == 1 and tuning.lr > 0 and 1 <= tuning.steps <= 100
        assert score(tuning.recipe, tuning.shots).curve[-1].steps == tuning.steps
    for chosen in found().support_weights:
        assert chosen.episodes == 1 and chosen.weight in SUPPORT_WEIGHTS
    costs = {cost.recipe: cost for cost in found().training_costs}
    assert list(costs) == ["joint_frozen", "last_fine_tuned", POOLED]
    assert all(cost.seconds == 1 and cost.peak_bytes is not None for cost in costs.values())
    assert set(found().digests) == {"meta-train", "meta-validation", "meta-test"}


def test_where_all_tasks_are_alike_it_says_no() -> None:
    alike = meta_evaluate(*trained(False), FEW)
    assert alike.verdicts[0].answer in ("no", "not shown")
    assert alike.verdict.startswith("no: ")
    assert alike.verdicts[0].use in BASELINES
    (frozen,) = (s for s in alike.scores if s.recipe == "joint_frozen")
    assert frozen.score > 0.85
    assert alike.support_weights[0].weight < 1 <= found().support_weights[1].weight
    again = meta_evaluate(*trained(False), FEW)
    assert again.gains == alike.gains
    assert [(s.recipe, s.score, s.curve) for s in again.scores] == [
        (s.recipe, s.score, s.curve) for s in alike.scores
    ]


def test_meta_test_rows_planted_in_meta_training_are_refused() -> None:
    split, init = trained(True)
    moved = TaskSplit.with_test(split.data, ["t3"], [])
    with pytest.raises(LeakError, match=r"trained on 40 meta-test row keys, of tasks \['t3'\]"):
        meta_evaluate(moved, init, FEW)


def test_regression_is_judged_by_its_error() -> None:
    data = line_data(16)  # line_init knows other slopes, and the same keys: shift them
    keys = data.examples.keys + np.uint64(1_000_000)
    shifted = replace(data, examples=replace(data.examples, keys=keys))
    split = TaskSplit.with_test(shifted, ["line-14", "line-15"], ["line-13"])
    lines = meta_evaluate(split, line_init(), replace(FEW, shots=(4,), episodes=2))
    assert lines.metric == "mean_absolute_error"
    assert {s.recipe for s in lines.scores} == {"maml", "reptile", *BASELINES} - {"prototypes"}
    assert [s.score for s in lines.scores] == sorted(s.score for s in lines.scores)
    assert next(s for s in lines.scores if s.recipe == "maml").score < 5  # of values 70 .. 130
    for gain in lines.gains:
        own, other = (
            next(s.score for s in lines.scores if s.recipe == name)
            for name in (gain.recipe, gain.baseline)
        )
        assert gain.gain == pytest.approx(other - own)


def test_a_start_that_diverges_loses_and_says_why() -> None:
    split, init = trained(True)
    wild = {name: value * 1e30 for name, value in init.starts["reptile"].step_sizes.items()}
    broken = replace(
        init, starts={**init.starts, "reptile": replace(init.starts["reptile"], step_sizes=wild)}
    )
    lost = meta_evaluate(split, broken, replace(FEW, episodes=2, joint_steps=50))
    (one,) = (s for s in lost.scores if s.recipe == "reptile")
    assert (one.failed, one.score, one.seconds, one.peak_bytes) == (2, 0.0, None, None)
    assert one.failure.startswith("DivergedError: weights are not finite")


def test_a_meta_step_over_more_tasks_takes_more_memory() -> None:
    split, init = trained(True)
    few = replace(QUICK, support=4, query=36, maml_tasks=16)
    peaks = [
        meta_step_peaks(split, init, replace(few, maml_tasks=tasks)) for tasks in (16, 16 * 16)
    ]
    assert all(list(found) == ["maml", "reptile"] for found in peaks)
    small, large = (found["maml"] for found in peaks)
    assert small is not None and large is not None and large > 4 * max(small, 500_000)


def test_a_meta_init_of_n_way_episodes_is_refused() -> None:
    split, init = trained(True)
    slots = replace(init, slots=2, class_names=(), joint={})
    with pytest.raises(RecipeError, match="N-way"):
        meta_evaluate(split, slots, FEW)


@cache
def rivals() -> Rivals:
    return Rivals.of(plan_init(), plan_split(), 0, joint_steps=500)


def plan_split() -> TaskSplit:
    """Return all plans but the first, which judges nothing here, as meta-train tasks."""
    return TaskSplit.with_test(plan_data(), ["plan-0"], [])


def test_the_classical_baselines_learn_a_plan_from_many_labels() -> None:
    support, query = parcels(plans()[25], 80, 1, 900_000), parcels(plans()[25], 60, 2, 910_000)
    for name in ("logistic_regression", POOLED, "random_forest", "prototypes"):
        answers = rivals().predictor(name, support)(query.rows)
        assert errors_of(answers, query).mean() < (0.35 if name == "prototypes" else 0.1), name
    frozen = errors_of(answers_of(rivals().joint, query.rows), query)
    assert frozen.shape == (60,) and set(frozen.tolist()) <= {0.0, 1.0}
    with pytest.raises(RecipeError, match="'boosting' is none of"):
        rivals().predictor("boosting", support)


def test_a_support_row_counts_as_many_pooled_rows_as_its_weight_says() -> None:
    support, query = parcels(plans()[25], 6, 1), parcels(plans()[25], 200, 2)
    encode = plan_init().preprocessor.encode
    pooled = plan_data().examples.take(plan_split().train_rows)
    for times in (0, 1, 130):
        rows = [encode(pooled.rows), *[encode(support.rows)] * times]
        labels = [*pooled.labels, *support.labels * times]
        by_hand = LogisticRegression(max_iter=1000).fit(np.concatenate(rows), labels)
        weight = max(times, 1e-9) * len(support) / len(pooled)
        answers = rivals().predictor(POOLED, support, weight)(query.rows)
        told = by_hand.predict(encode(query.rows))
        assert np.mean(np.array(answers) == told) > 0.97, times  # two descents end a hair apart
    heard = rivals().predictor(POOLED, support, 100.0)(support.rows)
    deaf = rivals().predictor(POOLED, support, 1e-9)(support.rows)
    assert list(heard) == list(support.labels) != list(deaf)


def test_the_last_model_knows_the_last_training_task_alone() -> None:
    known = plan_data().examples.keys[plan_split().rows_of("plan-19")]
    assert plan_split().last_train == "plan-19"
    assert np.array_equal(rivals().last.trained_on, np.unique(known))
    support = parcels(plans()[25], 40, 1)
    for name, start in (("last_fine_tuned", rivals().last), ("joint_fine_tuned", rivals().joint)):
        one_step = Descent(steps=1, lr=1e-9, weight_decay=0.0)
        adapted = rivals().fine_tuned(name, support, one_step).model
        assert answers_of(adapted, support.rows) == answers_of(start, support.rows)


def test_where_all_pooled_rows_are_of_one_class_the_support_decides() -> None:
    split = plan_split()
    rows = [int(i) for i in split.train_rows if split.data.examples.labels[int(i)] == "A"]
    one = PooledRegression.of(plan_init().preprocessor, split.data.examples.take(rows), 0)
    support = parcels(plans()[25], 40, 1)
    assert set(one.predictor(support, 10.0)(support.rows)) == {"A", "B"}
    only = support.take([i for i, label in enumerate(support.labels) if label == "A"])
    assert set(one.predictor(only, 1.0)(support.rows)) == {"A"}


def test_of_too_many_pooled_rows_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled_regression, "MOST_POOLED", 100)
    pooled = PooledRegression.of(plan_init().preprocessor, plan_data().examples, 0)
    assert pooled.inputs.shape == (100, KINDS) and len(pooled.targets) == 100
    again = PooledRegression.of(plan_init().preprocessor, plan_data().examples, 0)
    assert np.array_equal(pooled.inputs, again.inputs)


def test_prototypes_are_nearest_class_means() -> None:
    support, query = parcels(plans()[25], 12, 1), parcels(plans()[25], 9, 2)
    here = rivals().joint.predict(support.rows).embedding
    there = rivals().joint.predict(query.rows).embedding
    labels = np.array(support.labels)
    by_hand = []
    for row in there:
        far = {n: ((row - here[labels == n].mean(0)) ** 2).sum() for n in ("A", "B")}
        by_hand.append(min(far, key=lambda n: far[n]))
    assert rivals().predictor("prototypes", support)(query.rows) == by_hand


def test_one_class_alone_is_always_predicted() -> None:
    support = parcels(plans()[25], 40, 1)
    only = support.take([i for i, label in enumerate(support.labels) if label == "A"])
    assert rivals().predictor("logistic_regression", only)(support.rows) == ["A"] * 40


def test_the_interval_widens_when_tasks_differ() -> None:
    draw = np.random.default_rng(0)
    tasks = np.arange(60) % 3
    alike = draw.normal(0.1, 0.1, 60)
    apart = alike + np.array([-0.3, 0.0, 0.3])[tasks]
    narrow, wide = bootstrap_interval(alike, tasks, 0), bootstrap_interval(apart, tasks, 0)
    assert narrow[0] > 0 > wide[0]
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    assert bootstrap_interval(alike, tasks, 0) == narrow
    one = bootstrap_interval(alike, np.zeros(60, np.intp), 0)
    mean, low, high = mean_interval(alike)
    assert one == pytest.approx((low, high), abs=0.01) and low < mean < high
    assert mean_interval(np.array([0.5])) == (0.5, 0.5, 0.5)


def row(recipe: str, shots: int, value: float, *, own: bool) -> RecipeScore:
    return RecipeScore(recipe, own, shots, 10, value, value, value, 0.0)


def test_the_verdict_is_held_against_the_strongest_baseline() -> None:
    scores = [
        *(row("maml", 1, 0.8, own=True), row("joint_frozen", 1, 0.6, own=False)),
        *(row("scratch", 1, 0.7, own=False), row("maml", 5, 0.8, own=True)),
        *(row("joint_frozen", 5, 0.6, own=False), row("scratch", 5, 0.9, own=False)),
    ]
    gains = [
        *(PairedGain(1, "maml", "scratch", 0.1, 0.05, 0.15),),
        *(PairedGain(5, "maml", "scratch", -0.1, -0.15, -0.05),),
    ]
    (one, five), words = judge("accuracy", "maml", scores, gains, 4)
    assert (one.answer, one.use, five.answer, five.use) == ("yes", "maml", "no", "scratch")
    assert one.words == (
        "with 1 label per class: yes. maml reaches 0.8, scratch 0.7; maml is 10 points better than "
        "the strongest baseline (95 % interval 5 to 15)"
    )
    assert five.words.endswith("maml is 10 points worse (95 % interval -15 to -5); use scratch")
    assert words == "it depends on the labels: yes with 1 (maml); with 5: scratch"
    one_task = judge("accuracy", "maml", scores, gains, 1)[0][0].words
    assert one_task.startswith("with 1 label per class: yes (one task only: says nothing about")
    unsure = [replace(gains[0], low=-0.05), gains[1]]
    (one, _), words = judge("accuracy", "maml", scores, unsure, 1)
    assert (one.answer, one.use) == ("not shown", "scratch")
    assert "this one task cannot tell that from chance" in one.words
    assert words.startswith("no: that meta-learning is worth it here is not shown")


def test_settings_that_make_no_sense_are_named() -> None:
    for shots in ((), (5, 1), (0, 1), (2, 2)):
        with pytest.raises(ValueError, match="shots is"):
            EvaluationSettings(shots=shots)
    with pytest.raises(ValueError, match="episodes is 0"):
        EvaluationSettings(episodes=0)
