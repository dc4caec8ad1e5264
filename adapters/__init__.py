"""Adapters: what adapts a model, from raw features to meta-learned starts.

Names are loaded on first use, so that importing the package imports neither torch nor pandas.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

# Without it MKL may use another kernel for a row at an odd address, and the last bit of a row's
# answer depends on its place in the block (seen on AMD). MKL reads it at its first multiplication.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

if TYPE_CHECKING:
    from adapters.anil import ANIL
    from adapters.bake_off import BakeOff, RecipeResult, choose, run_bake_off
    from adapters.bake_off_codec import (
        BakeOffCodecError,
        decode_request,
        decode_results,
        encode_request,
        encode_results,
    )
    from adapters.examples import Examples
    from adapters.feature_schema import (
        Feature,
        FeatureError,
        FeatureSchema,
        Parsed,
        Preprocessor,
        Rows,
    )
    from adapters.fomaml import FOMAML
    from adapters.grown_models import grown_model
    from adapters.image_tasks import with_rotations
    from adapters.joint_pretraining import JointPretraining
    from adapters.maml import MAML
    from adapters.meta_init import (
        MetaInit,
        Start,
        load_meta_init,
        pack_meta_init,
        save_meta_init,
        unpack_meta_init,
    )
    from adapters.meta_learner import MetaLearner, MetaParameters
    from adapters.meta_loops import Checkpoint, MetaTrained, Surroundings, train
    from adapters.meta_plan import Plan
    from adapters.meta_settings import MetaTrainData, MetaTrainingError, MetaTrainSettings, Progress
    from adapters.meta_sgd import MetaSGD
    from adapters.meta_training import meta_train
    from adapters.model_file import (
        Architecture,
        Model,
        ModelFileError,
        Prediction,
        lineage_key,
        load_model,
        model_digest,
        pack_model,
        save_model,
        unpack_model,
    )
    from adapters.modules import MLP, initialise
    from adapters.n_way_evaluation import n_way_accuracies
    from adapters.networks import Conv4, NormalisedMLP
    from adapters.prototype_training import PrototypePlan, train_prototypes
    from adapters.prototypes import GrownHead, GrowthError, with_prototype_head
    from adapters.reptile import Reptile
    from adapters.training import FitSettings, fit_joint

__all__ = [
    "ANIL",
    "Architecture",
    "BakeOff",
    "BakeOffCodecError",
    "Checkpoint",
    "Conv4",
    "Examples",
    "FOMAML",
    "Feature",
    "FeatureError",
    "FeatureSchema",
    "FitSettings",
    "GrownHead",
    "GrowthError",
    "JointPretraining",
    "MAML",
    "MLP",
    "MetaInit",
    "MetaLearner",
    "MetaParameters",
    "MetaSGD",
    "MetaTrainData",
    "MetaTrainSettings",
    "MetaTrained",
    "MetaTrainingError",
    "Model",
    "ModelFileError",
    "NormalisedMLP",
    "Parsed",
    "Plan",
    "Prediction",
    "Preprocessor",
    "Progress",
    "PrototypePlan",
    "RecipeResult",
    "Reptile",
    "Rows",
    "Start",
    "Surroundings",
    "choose",
    "decode_request",
    "decode_results",
    "encode_request",
    "encode_results",
    "fit_joint",
    "grown_model",
    "initialise",
    "lineage_key",
    "load_meta_init",
    "load_model",
    "meta_train",
    "model_digest",
    "n_way_accuracies",
    "pack_meta_init",
    "pack_model",
    "run_bake_off",
    "save_meta_init",
    "save_model",
    "train",
    "train_prototypes",
    "unpack_meta_init",
    "unpack_model",
    "with_prototype_head",
    "with_rotations",
]

_HOMES = {
    "adapters.bake_off": (
        "BakeOff",
        "RecipeResult",
        "choose",
        "run_bake_off",
    ),
    "adapters.bake_off_codec": (
        "BakeOffCodecError",
        "decode_request",
        "decode_results",
        "encode_request",
        "encode_results",
    ),
    "adapters.examples": ("Examples",),
    "adapters.meta_init": (
        "MetaInit",
        "Start",
        "load_meta_init",
        "pack_meta_init",
        "save_meta_init",
        "unpack_meta_init",
    ),
    "adapters.meta_settings": (
        "MetaTrainData",
        "MetaTrainSettings",
        "MetaTrainingError",
        "Progress",
    ),
    "adapters.meta_training": ("meta_train",),
    "adapters.meta_learner": ("MetaLearner", "MetaParameters"),
    "adapters.meta_loops": ("Checkpoint", "MetaTrained", "Surroundings", "train"),
    "adapters.meta_plan": ("Plan",),
    "adapters.anil": ("ANIL",),
    "adapters.fomaml": ("FOMAML",),
    "adapters.joint_pretraining": ("JointPretraining",),
    "adapters.meta_sgd": ("MetaSGD",),
    "adapters.networks": ("Conv4", "NormalisedMLP"),
    "adapters.grown_models": ("grown_model",),
    "adapters.maml": ("MAML",),
    "adapters.image_tasks": ("with_rotations",),
    "adapters.n_way_evaluation": ("n_way_accuracies",),
    "adapters.prototype_training": ("PrototypePlan", "train_prototypes"),
    "adapters.prototypes": ("GrownHead", "GrowthError", "with_prototype_head"),
    "adapters.reptile": ("Reptile",),
    "adapters.training": (
        "FitSettings",
        "fit_joint",
    ),
    "adapters.feature_schema": (
        "Feature",
        "FeatureError",
        "FeatureSchema",
        "Parsed",
        "Preprocessor",
        "Rows",
    ),
    "adapters.model_file": (
        "Architecture",
        "Model",
        "ModelFileError",
        "Prediction",
        "lineage_key",
        "load_model",
        "model_digest",
        "pack_model",
        "save_model",
        "unpack_model",
    ),
    "adapters.modules": ("MLP", "initialise"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import the module that a public name lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'adapters' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
