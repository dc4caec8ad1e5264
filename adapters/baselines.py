"""What meta-learning must beat: the ordinary ways to use a few labels, on the same episodes.

===============================  ==================================================================
baseline                         what it does with the support
===============================  ==================================================================
``joint_frozen``                 nothing: one model trained on all meta-train tasks at once
``joint_fine_tuned``             Adam from that model; step size and steps by meta-validation
``last_fine_tuned``              the same from a model of the last meta-train task alone
``scratch``                      an MLP from fresh weights, Adam
``logistic_regression``          L2-regularised, on encoded inputs (regression: ridge)
``pooled_logistic_regression``   the same on all meta-train rows and the support, whose weight
                                 meta-validation chooses (``adapters.pooled_regression``)
``random_forest``                100 trees, on encoded inputs
``prototypes``                   nearest class mean in the joint model's last hidden layer,
                                 or among the inputs where it has none
                                 (Snell, Swersky & Zemel, NeurIPS 2017); classification only
===============================  ==================================================================

Encoded inputs are those of the meta-init's preprocessor, fitted on the meta-train tasks: a
baseline gets the pooled scaling too. (``scratch`` has its own, fitted on the support.)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import (  # type: ignore[import-untyped]
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge  # type: ignore[import-untyped]

from adapters.evaluation_results import TrainingCost
from adapters.examples import Examples
from adapters.feature_schema import Rows
from adapters.joint import SCRATCH, Descent, JointSettings
from adapters.meta_init import MetaInit
from adapters.model_file import Model
from adapters.peak_memory import measured
from adapters.pooled_regression import USUAL_WEIGHT, PooledRegression
from adapters.recipes import Adapted, RecipeError, Target, fine_tuned, hidden_of, scratch
from adapters.task_splits import TaskSplit
from adapters.training import FitSettings, fit_joint

Errors: TypeAlias = NDArray[np.float64]
"""``(n,)``: 0 or 1 for classification, absolute error in target units for regression."""
Answers: TypeAlias = "Sequence[str] | NDArray[np.float64]"
Predictor: TypeAlias = Callable[[Rows], Answers]
Clock: TypeAlias = Callable[[], float]

POOLED = "pooled_logistic_regression"
FINE_TUNED = ("joint_fine_tuned", "last_fine_tuned")
BASELINES = (
    "joint_frozen",
    *FINE_TUNED,
    "scratch",
    "logistic_regression",
    POOLED,
    "random_forest",
    "prototypes",
)
JOINT_STEPS = 2_000
"""Steps of joint training at least, unless it stops getting better on held-out rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Rivals:
    """The baselines of one meta-init.

    Attributes:
        init: Gives preprocessor and classes.
        target: What every candidate looks like.
        joint: The model trained on all meta-train tasks at once.
        last: The model trained on the meta-train task that comes last in the data.
        pooled: The regression on all meta-train rows.
        hidden: Widths of the scratch MLP.
        seed: Of fresh weights and trees.
        costs: What training the others beforehand took.
    """

    init: MetaInit
    target: Target
    joint: Model
    last: Model
    pooled: PooledRegression
    hidden: tuple[int, ...]
    seed: int = 0
    costs: tuple[TrainingCost, ...] = ()

    @staticmethod
    def of(
        init: MetaInit,
        split: TaskSplit,
        seed: int,
        joint_steps: int = JOINT_STEPS,
        clock: Clock = time.perf_counter,
    ) -> "Rivals":
        """Return the rivals of a meta-init.

        Args:
            init: Gives classes, preprocessor and the widths of the networks.
            split: Its meta-train rows are all that the rivals are trained on.
            seed: Of fresh weights, batches and trees.
            joint_steps: Training of the joint and of the last model takes at least these, however
                few the rows are, unless it stops getting better on held-out ones.
            clock: Seconds, for the costs.

        Raises:
            RecipeError: The meta-init is for N-way episodes, so nothing can be learned jointly.
        """
        if init.slots:
            raise RecipeError("the meta-init is for N-way episodes; meta-train over a task column")
        hidden = hidden_of(init)
        train = split.data.examples.take(split.train_rows)
        last = split.data.examples.take(split.rows_of(split.last_train))
        _fitted_model(init, last, hidden, seed, JointSettings(most_epochs=1))  # loads libraries
        PooledRegression.of(init.preprocessor, last, seed)  # the same
        settings = [_training(joint_steps, len(rows)) for rows in (train, last)]
        joint = measured(lambda: _fitted_model(init, train, hidden, seed, settings[0]), clock)
        one = measured(lambda: _fitted_model(init, last, hidden, seed, settings[1]), clock)
        pooled = measured(lambda: PooledRegression.of(init.preprocessor, train, seed), clock)
        return Rivals(
            init,
            Target(init.schema, init.task_type, init.class_names, 1.0),
            joint.result,
            one.result,
            pooled.result,
            hidden,
            seed,
            (
                TrainingCost("joint_frozen", joint.seconds, joint.peak_bytes),
                TrainingCost("last_fine_tuned", one.seconds, one.peak_bytes),
                TrainingCost(POOLED, pooled.seconds, pooled.peak_bytes),
            ),
        )

    def fine_tuned(self, name: str, support: Examples, descent: Descent) -> Adapted:
        """Return the joint or the last model (by baseline) after Adam on the support."""
        start = self.last if name == "last_fine_tuned" else self.joint
        return fine_tuned(self.target, start, support, replace(descent, seed=self.seed))

    def scratch(self, support: Examples) -> Adapted:
        """Return a fresh MLP trained on the support alone."""
        return scratch(self.target, support, self.hidden, replace(SCRATCH, seed=self.seed))

    def predictor(self, name: str, support: Examples, weight: float = USUAL_WEIGHT) -> Predictor:
        """Return the fitted predictor of a baseline that is no network of ours.

        Args:
            name: Of the baseline.
            support: Labels of the task.
            weight: Of the support, for ``pooled_logistic_regression``.

        Raises:
            RecipeError: There is no such baseline here.
        """
        match name:
            case "logistic_regression" | "random_forest":
                return self._fitted(support, trees=name == "random_forest")
            case "pooled_logistic_regression":
                return self.pooled.predictor(support, weight)
            case "prototypes":
                return self._prototypes(support)
            case _:
                raise RecipeError(
                    f"{name!r} is none of logistic_regression, {POOLED}, random_forest, prototypes"
                )

    def _fitted(self, support: Examples, *, trees: bool) -> Predictor:
        encode = self.init.preprocessor.encode
        inputs = encode(support.rows)
        if self.target.task_type == "regression":
            model = RandomForestRegressor(100, random_state=self.seed) if trees else Ridge()
            model.fit(inputs, support.values)
            return lambda rows: np.asarray(model.predict(encode(rows)), np.float64)
        if len(set(support.labels)) < 2:
            only = support.labels[0]
            return lambda rows: [only] * len(rows)
        if trees:
            model = RandomForestClassifier(100, random_state=self.seed)
        else:
            model = LogisticRegression(max_iter=1000)
        model.fit(inputs, np.array(support.labels))
        return lambda rows: [str(label) for label in model.predict(encode(rows))]

    def _prototypes(self, support: Examples) -> Predictor:
        if self.target.task_type == "regression":
            raise RecipeError("prototypes need classes; leave them out for regression")
        names = sorted(set(support.labels))
        here, labels = self.joint.predict(support.rows).embedding, np.array(support.labels)
        means = np.stack([here[labels == name].mean(axis=0) for name in names])

        def predict(rows: Rows) -> list[str]:
            there = self.joint.predict(rows).embedding
            far = np.square(there[:, None] - means).sum(axis=2)
            return [names[i] for i in far.argmin(axis=1).tolist()]

        return predict


def _training(steps: int, rows: int) -> JointSettings:
    usual = JointSettings()
    epochs = max(usual.most_epochs, -(-steps * usual.batch // rows))
    return replace(usual, most_epochs=epochs, patience=max(usual.patience, epochs // 8))


def _fitted_model(
    init: MetaInit, rows: Examples, hidden: tuple[int, ...], seed: int, training: JointSettings
) -> Model:
    return fit_joint(
        init.schema,
        rows,
        class_names=init.class_names,
        settings=FitSettings(hidden, training=training),
        seed=seed,
    )


def answers_of(model: Model, rows: Rows) -> Answers:
    """Return a model's classes, or its values for regression."""
    said = model.predict(rows)
    return said.values if model.task_type == "regression" else said.labels


def errors_of(answers: Answers, query: Examples) -> Errors:
    """Return each row's error."""
    if isinstance(answers, np.ndarray):
        return np.abs(answers - query.values)
    return np.array([a != b for a, b in zip(answers, query.labels, strict=True)], np.float64)
