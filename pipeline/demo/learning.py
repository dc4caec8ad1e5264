"""What is learned before the stream: examples of the first half under the demo's plans."""

import numpy as np

from adapters.examples import Examples
from adapters.feature_schema import Feature, FeatureSchema, Rows
from adapters.meta_settings import MetaTrainData
from adapters.model_file import Model, lineage_key
from adapters.training import fit_joint
from pipeline.demo.images import DAYLIGHT, PIXELS, Half, scanned
from pipeline.demo.plans import LANES, NEW_LANE, Plan, lane

FEATURE = "image"
SCHEMA = FeatureSchema((Feature(FEATURE, "tensor", (PIXELS,)),))


def examples_under(
    plan: Plan, half: Half, rng: np.random.Generator, opened: frozenset[int] = frozenset()
) -> Examples:
    """Return every image of a half once, with its lane under the plan."""
    return Examples(
        Rows(scanned(half.pixels, DAYLIGHT, rng)),
        tuple(lane(plan, digit, opened) for digit in half.digits.tolist()),
        keys=np.array([lineage_key(name) for name in half.names], np.uint64),
    )


def fitted_to(plan: Plan, half: Half, seed: int, opened: frozenset[int] = frozenset()) -> Model:
    """Return a model fitted to a plan, and to the new lane's digits, with every label of a half."""
    rng = np.random.default_rng([seed, 3, *sorted(plan), *sorted(opened)])
    examples = examples_under(plan, half, rng, opened)
    lanes = (*LANES, NEW_LANE) if opened else LANES
    return fit_joint(SCHEMA, examples, class_names=lanes, seed=seed)


def plan_name(plan: Plan) -> str:
    """Return what a plan is called.

    >>> plan_name(frozenset({7, 1, 3}))
    'plan-137'
    """
    return "plan-" + "".join(map(str, sorted(plan)))


def meta_examples(plans: tuple[Plan, ...], half: Half, seed: int) -> MetaTrainData:
    """Return the examples of meta-training: every image of the half under every plan."""
    rng = np.random.default_rng([seed, 4])
    parts = [examples_under(plan, half, rng) for plan in plans]
    return MetaTrainData(
        SCHEMA,
        Examples(
            Rows.concat([part.rows for part in parts]),
            tuple(label for part in parts for label in part.labels),
            keys=np.concatenate([part.keys for part in parts]),
        ),
        tuple(plan_name(plan) for plan in plans for _ in range(len(half))),
        LANES,
    )
