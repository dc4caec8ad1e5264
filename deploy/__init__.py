"""Deploy: from a candidate to traffic, by what delayed labels show.

The gate, the sequential tests and the rollout are values and functions of values; the controller
and the backends make the traffic follow; the registry remembers versions and decisions. Names are
loaded on first use, so that importing the package imports neither scipy nor mlflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.arms import arm_of, candidate_serves
    from deploy.class_evidence import ClassEvidence, class_evidence
    from deploy.controller import (
        BackendError,
        Convergence,
        PermanentBackendError,
        ServingBackend,
        TransientBackendError,
        reconcile,
    )
    from deploy.embedded import EmbeddedBackend
    from deploy.gate import GateResult, gate_power, judge_holdout, least_holdout
    from deploy.guards import GuardReading, guarded
    from deploy.kubernetes_api import KubernetesApi
    from deploy.kubernetes_lease import KubernetesLease
    from deploy.label_permutation import Suspicion, suspect
    from deploy.mlflow_registry import MlflowRegistry
    from deploy.registry import (
        PermanentError,
        Registry,
        RegistryError,
        ReviewAnswer,
        ReviewRequest,
        TransientError,
    )
    from deploy.registry_records import EpisodeRecord, ModelVersionRecord, RecipeRecord
    from deploy.risk_budget import RiskBudget, left, next_alpha, returns_at, spend
    from deploy.rollout import admit, advance, desired_traffic, end_probation, start
    from deploy.rollout_observe import observe_answer, observe_assigned, observe_pair
    from deploy.rollout_plan import (
        Arm,
        CanaryPlan,
        EvidenceKind,
        Kind,
        Mode,
        Phase,
        Traffic,
        Verdict,
    )
    from deploy.rollout_retry import retry
    from deploy.rollout_state import Evidence, HistoryEntry, Pause, Rollout
    from deploy.rollout_verbs import Verb, VerbError, apply_verb
    from deploy.sample_ratio import RatioCounts
    from deploy.seldon_core2 import SeldonCore2Backend
    from deploy.seldon_gateway import (
        RefusedEventError,
        RoutedAnswer,
        SeldonGateway,
        predictions_url,
    )
    from deploy.seldon_kubernetes import SeldonBackend
    from deploy.seldon_objects import ModelArtifact, PredictorTemplate
    from deploy.sequential import BettingTest, PairedEvidence, no_evidence, observe
    from deploy.unpaired import UnpairedEvidence, no_unpaired_evidence, observe_one
    from deploy.verdict import Judgement, judge

__all__ = [
    "Arm",
    "BackendError",
    "BettingTest",
    "CanaryPlan",
    "ClassEvidence",
    "Convergence",
    "EmbeddedBackend",
    "EpisodeRecord",
    "Evidence",
    "EvidenceKind",
    "GateResult",
    "GuardReading",
    "HistoryEntry",
    "Judgement",
    "Kind",
    "KubernetesApi",
    "KubernetesLease",
    "MlflowRegistry",
    "Mode",
    "ModelArtifact",
    "ModelVersionRecord",
    "PairedEvidence",
    "Pause",
    "PermanentBackendError",
    "PermanentError",
    "Phase",
    "PredictorTemplate",
    "RatioCounts",
    "RecipeRecord",
    "RefusedEventError",
    "Registry",
    "RegistryError",
    "ReviewAnswer",
    "ReviewRequest",
    "RiskBudget",
    "Rollout",
    "RoutedAnswer",
    "SeldonBackend",
    "SeldonCore2Backend",
    "SeldonGateway",
    "ServingBackend",
    "Suspicion",
    "Traffic",
    "TransientBackendError",
    "TransientError",
    "UnpairedEvidence",
    "Verb",
    "VerbError",
    "Verdict",
    "admit",
    "advance",
    "apply_verb",
    "arm_of",
    "candidate_serves",
    "class_evidence",
    "desired_traffic",
    "end_probation",
    "gate_power",
    "guarded",
    "judge",
    "judge_holdout",
    "least_holdout",
    "left",
    "next_alpha",
    "no_evidence",
    "no_unpaired_evidence",
    "observe",
    "observe_answer",
    "observe_assigned",
    "observe_one",
    "observe_pair",
    "predictions_url",
    "reconcile",
    "retry",
    "returns_at",
    "spend",
    "start",
    "suspect",
]

_HOMES = {
    "deploy.arms": ("arm_of", "candidate_serves"),
    "deploy.class_evidence": ("ClassEvidence", "class_evidence"),
    "deploy.controller": (
        "BackendError",
        "Convergence",
        "PermanentBackendError",
        "ServingBackend",
        "TransientBackendError",
        "reconcile",
    ),
    "deploy.embedded": ("EmbeddedBackend",),
    "deploy.gate": ("GateResult", "gate_power", "judge_holdout", "least_holdout"),
    "deploy.kubernetes_api": ("KubernetesApi",),
    "deploy.kubernetes_lease": ("KubernetesLease",),
    "deploy.label_permutation": ("Suspicion", "suspect"),
    "deploy.guards": ("GuardReading", "guarded"),
    "deploy.mlflow_registry": ("MlflowRegistry",),
    "deploy.registry": (
        "PermanentError",
        "Registry",
        "RegistryError",
        "ReviewAnswer",
        "ReviewRequest",
        "TransientError",
    ),
    "deploy.registry_records": ("EpisodeRecord", "ModelVersionRecord", "RecipeRecord"),
    "deploy.risk_budget": ("RiskBudget", "left", "next_alpha", "returns_at", "spend"),
    "deploy.rollout": ("admit", "advance", "desired_traffic", "end_probation", "start"),
    "deploy.rollout_observe": ("observe_answer", "observe_assigned", "observe_pair"),
    "deploy.rollout_plan": (
        "Arm",
        "CanaryPlan",
        "EvidenceKind",
        "Kind",
        "Mode",
        "Phase",
        "Traffic",
        "Verdict",
    ),
    "deploy.rollout_retry": ("retry",),
    "deploy.rollout_state": ("Evidence", "HistoryEntry", "Pause", "Rollout"),
    "deploy.rollout_verbs": ("Verb", "VerbError", "apply_verb"),
    "deploy.sample_ratio": ("RatioCounts",),
    "deploy.seldon_core2": ("SeldonCore2Backend",),
    "deploy.seldon_gateway": (
        "RefusedEventError",
        "RoutedAnswer",
        "SeldonGateway",
        "predictions_url",
    ),
    "deploy.seldon_kubernetes": ("SeldonBackend",),
    "deploy.seldon_objects": ("ModelArtifact", "PredictorTemplate"),
    "deploy.sequential": ("BettingTest", "PairedEvidence", "no_evidence", "observe"),
    "deploy.unpaired": ("UnpairedEvidence", "no_unpaired_evidence", "observe_one"),
    "deploy.verdict": ("Judgement", "judge"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import the module that a public name lives in."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'deploy' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
