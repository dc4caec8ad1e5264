"""Logistic regression on the pooled training rows and the support together: a strong cheap rival.

A support row counts as many rows as the weight says, so that a handful of labels is heard among
thousands. (Instance weighting of source and target rows: Jiang & Zhai, "Instance Weighting for
Domain Adaptation in NLP", ACL 2007.) Ridge for regression.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge  # type: ignore[import-untyped]

from adapters.examples import Examples
from adapters.feature_schema import Preprocessor, Rows

SUPPORT_WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Weights of the whole support, as multiples of the weight of all pooled rows, that are tried."""
USUAL_WEIGHT = 1.0
"""Where no meta-validation task can choose."""
MOST_POOLED = 10_000
"""Pooled rows at most; of more, so many are drawn."""
_MOST_STEPS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class PooledRegression:
    """Pooled rows and the model of them alone, from which every fit with a support begins.

    Attributes:
        preprocessor: Of all inputs.
        inputs: ``(n, d)``, encoded.
        targets: ``(n,)`` class names, or values for regression.
        alone: Fitted to the pooled rows; None where they are of one class.
    """

    preprocessor: Preprocessor
    inputs: NDArray[np.float64]
    targets: "NDArray[np.str_] | NDArray[np.float64]"
    alone: Any

    @staticmethod
    def of(preprocessor: Preprocessor, pooled: Examples, seed: int) -> "PooledRegression":
        """Return the regression on ``pooled``, or on ``MOST_POOLED`` of them drawn by ``seed``."""
        if len(pooled) > MOST_POOLED:
            drawn = np.random.default_rng(seed).permutation(len(pooled))[:MOST_POOLED]
            pooled = pooled.take(np.sort(drawn))
        inputs = preprocessor.encode(pooled.rows).astype(np.float64)
        targets = _targets(pooled)
        alone = None
        if not len(pooled.values) and len(set(pooled.labels)) > 1:
            alone = LogisticRegression(max_iter=_MOST_STEPS).fit(inputs, targets)
        return PooledRegression(preprocessor, inputs, targets, alone)

    def predictor(
        self, support: Examples, weight: float
    ) -> Callable[[Rows], "list[str] | NDArray[np.float64]"]:
        """Return the predictor fitted to the pooled rows and the support.

        Args:
            support: Labels of the task.
            weight: Of the whole support, as a multiple of the pooled rows' weight; > 0.
        """
        encode = self.preprocessor.encode
        inputs = np.concatenate([self.inputs, encode(support.rows).astype(np.float64)])
        targets = np.concatenate([self.targets, _targets(support)])
        of_each = weight * len(self.inputs) / len(support)
        weights = np.concatenate([np.ones(len(self.inputs)), np.full(len(support), of_each)])
        if len(support.values):
            ridge = Ridge().fit(inputs, targets, weights)
            return lambda rows: np.asarray(ridge.predict(encode(rows)), np.float64)
        names = np.unique(targets)
        if len(names) < 2:
            only = str(names[0])
            return lambda rows: [only] * len(rows)
        model = LogisticRegression(max_iter=_MOST_STEPS, warm_start=True)
        if self.alone is not None and np.array_equal(names, self.alone.classes_):
            model.classes_ = self.alone.classes_
            model.coef_, model.intercept_ = self.alone.coef_.copy(), self.alone.intercept_.copy()
        model.fit(inputs, targets, weights)
        return lambda rows: [str(label) for label in model.predict(encode(rows))]


def _targets(examples: Examples) -> "NDArray[np.str_] | NDArray[np.float64]":
    return examples.values if len(examples.values) else np.array(examples.labels)
