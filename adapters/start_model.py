"""A meta-learned start as a model that has taken no step: the base of what comes from it."""

from typing import cast

from adapters.inner_loop import with_weights
from adapters.meta_init import Algorithm, MetaInit
from adapters.model_file import Model


def start_model(init: MetaInit, algorithm: str, champion: Model) -> Model | None:
    """Return the start of an algorithm with the champion's classes, unadapted.

    Returns:
        None where the meta-init has no such start, or another number of outputs.
    """
    start = init.starts.get(cast(Algorithm, algorithm))
    if start is None or init.n_outputs != champion.n_outputs or init.schema != champion.schema:
        return None
    return Model(
        module=with_weights(init.architecture.build(), start.weights),
        architecture=init.architecture,
        schema=init.schema,
        preprocessor=init.preprocessor,
        task_type=init.task_type,
        class_names=champion.class_names,
        loss_scale=champion.loss_scale,
        target_mean=init.target_mean,
        target_std=init.target_std,
        trained_on=init.trained_on,
        info={"recipe": algorithm, "steps": 0},
    )
