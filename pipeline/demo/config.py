"""The demo's own configuration: small numbers, since its days last seconds.

Everything is stated as a person would state it for a sorting centre: the least effect worth acting
on, the risk of a wrong promotion, how many episodes may start, and waits in labels.
"""

from pathlib import Path

MODEL = "sorting-centre"
LABEL = "lane"
TASK = "plan"
GROUP = "scan"

TOPICS = ("events", "labels", "control", "predictions", "decisions", "dead_letters")


def demo_config(state_dir: Path, bootstrap_servers: str, prefix: str = MODEL) -> dict[str, object]:
    """Return the content of the demo's ``metadrift.yaml``.

    Args:
        state_dir: Of the daemon.
        bootstrap_servers: The broker.
        prefix: Of the topics' names.
    """
    return {
        "model": {"name": MODEL, "task_type": "classification"},
        "state_dir": str(state_dir),
        "kafka": {
            "bootstrap_servers": bootstrap_servers,
            "topics": {name: f"{prefix}-{name.replace('_', '-')}" for name in TOPICS},
        },
        "detect": {
            # Few labels a second: a looser bound alarms after 5 to 20 of them. What it costs is an
            # episode now and then that ends in "frozen wins".
            "error": {"name": "HDDMA", "params": {"drift_confidence": 0.02}},
        },
        "trigger": {
            # In labels, of which ten come a second.
            "warm_up_labels": 15,
            "cool_down_labels": 15,
            "actions_per_day": 24,
        },
        "episode": {
            # A plan is learned from 40 labels; 36 more choose the recipe and judge it. A champion
            # of earlier days needs those 36 alone.
            "support": 40,
            "query": 18,
            "holdout": 18,
            "deadline_labels": 150,
        },
        # The least effect worth acting on is a plan that moves half of the parcels: 14 labels show
        # it. The holdout keeps 4 more, since images that a model has learned from are left out.
        "gate": {"target_from": 0.5, "target_to": 0.03, "risk": 0.05, "power": 0.8},
        "rollout": {
            "steps": [10, 50],
            # Dwell and probation in labels: a day of this centre lasts a minute.
            "least_labels": 5,
            "acceptable_harm": 0.05,
            # For a new lane's candidate: with one error on the old lanes, some 115 of their labels,
            # holdout included, exclude the harm (docs/rollouts.md).
            "longest_wait_labels": 130,
            "probation_labels": 40,
            # One wrong promotion a month at most; no rollout may risk more than a tenth of it.
            "wrong_promotions_per_30_days": 1.0,
            "risk_per_rollout": 0.1,
        },
        "http": {"port": 0},
        "log": {"format": "json"},
    }
