"""Small task families for the learning tests: parcels in lanes, and lines to be fitted."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from adapters.examples import Examples
from adapters.feature_schema import Feature, FeatureSchema, Rows
from adapters.meta_init import MetaInit
from adapters.meta_settings import MetaTrainData, MetaTrainSettings
from adapters.meta_training import meta_train
from adapters.model_file import Model
from adapters.training import fit_joint

KINDS = 6
LANES = ("A", "B")
SCHEMA = FeatureSchema((Feature("parcel", "tensor", (KINDS,)),))
LINE = FeatureSchema((Feature("x", "number"),))
QUICK = MetaTrainSettings(
    hidden=(16,),
    support=12,
    query=12,
    maml_steps=80,
    maml_tasks=8,
    maml_lr=1e-2,
    reptile_steps=200,
    validation_episodes=12,
    processes=1,
)


def plans() -> NDArray[np.int64]:
    """Every plan that sends 2 or 3 of the 6 kinds to lane B, ``(35, 6)``, in a fixed order."""
    every = [[(code >> kind) & 1 for kind in range(KINDS)] for code in range(2**KINDS)]
    chosen = np.array([plan for plan in every if sum(plan) in (2, 3)])
    return np.random.default_rng(0).permutation(chosen)


def parcels(plan: NDArray[np.int64], n: int, seed: int, first_key: int = 0) -> Examples:
    """Return ``n`` noisy one-hot parcels with their lanes under ``plan``."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, KINDS, n)
    rows = np.eye(KINDS)[kind] + rng.normal(0, 0.15, (n, KINDS))
    keys = np.arange(first_key, first_key + n, dtype=np.uint64)
    return Examples(Rows(rows), tuple(LANES[lane] for lane in plan[kind]), keys=keys)


def line(slope: float, n: int, seed: int, first_key: int = 0) -> Examples:
    """Return ``n`` points of ``y = 100 + 10 * slope * x``."""
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 1))
    keys = np.arange(first_key, first_key + n, dtype=np.uint64)
    return Examples(Rows(x), values=100 + 10 * slope * x[:, 0], keys=keys)


def together(parts: list[Examples]) -> Examples:
    """Return the examples of all parts."""
    return Examples(
        Rows.concat([part.rows for part in parts]),
        tuple(label for part in parts for label in part.labels),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.keys for part in parts]),
    )


def plan_data(tasks: int = 20, rows: int = 40) -> MetaTrainData:
    """Return ``tasks`` plans with ``rows`` parcels each; keys count from 0."""
    parts = [parcels(plans()[t], rows, t, t * rows) for t in range(tasks)]
    names = tuple(f"plan-{t}" for t in range(tasks) for _ in range(rows))
    return MetaTrainData(SCHEMA, together(parts), names, LANES)


def line_data(tasks: int = 12, rows: int = 40) -> MetaTrainData:
    """Return lines with slopes from -3 to 3."""
    slopes = np.random.default_rng(1).uniform(-3, 3, tasks)
    parts = [line(float(slope), rows, t, t * rows) for t, slope in enumerate(slopes)]
    names = tuple(f"line-{t}" for t in range(tasks) for _ in range(rows))
    return MetaTrainData(LINE, together(parts), names)


@cache
def plan_init() -> MetaInit:
    """Return a meta-init of ``plan_data()``, trained once per test run."""
    return meta_train(plan_data(), QUICK)


@cache
def line_init() -> MetaInit:
    """Return a meta-init of ``line_data()``, trained once per test run."""
    return meta_train(line_data(), QUICK)


@cache
def plan_champion() -> Model:
    """Return a champion of plan 30, which is in no meta-training set."""
    return fit_joint(SCHEMA, parcels(plans()[30], 300, 900, 900_000), class_names=LANES)
