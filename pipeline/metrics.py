"""The numbers at /metrics. Names are a contract: docs/metrics.md lists them."""

import gc
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.compaction import DiskUse
from pipeline.core_state import ONE_ROUTE
from pipeline.engine_state import EngineState

TOTALS = {
    "events": "Events scored or scored upstream.",
    "scored_upstream": "Events that came with their prediction.",
    "answered_by_another": "Of them, those that neither champion nor candidate had answered.",
    "duplicate_events": "Repeated events, not scored again.",
    "labels": "Labels joined to their event.",
    "labels_with_features": "Labels that brought their own features.",
    "early_labels": "Labels that came before their event.",
    "orphan_labels": "Early labels whose event never came.",
    "duplicate_labels": "Repeated labels that say the same.",
    "corrected_labels": "Repeated labels that say something else.",
    "evicted": "Events that left the join window without a label.",
    "dead_letters": "Records set aside.",
    "served_labelled": "Served answers whose label came.",
    "served_loss": "Sum of their losses, each in [0, 1].",
    "wrong_by_candidates": "Wrong answers served by candidates.",
    "signals_error": "Signals of a risen loss.",
    "signals_confidence": "Signals of the confidence.",
    "signals_features": "Signals of the inputs.",
    "signals_new_class": "Signals of an unseen class.",
    "signals_new_task": "Signals of an unseen task.",
    "signals_announced": "Announced tasks.",
    "events_by_routes": "Events answered by their task's own weights.",
    "events_beyond_routes": "Events of tasks for which there is no room.",
    "routes_opened": "Tasks that got their first own weights.",
    "routes_renewed": "Later own weights of a task.",
    "routes_closed": "Times a task fell back because its own weights lost.",
    "route_tries": "Own weights tried.",
    "route_tries_lost": "Of them not better.",
    "episodes": "Episodes opened.",
    "rollouts": "Rollouts begun.",
    "decisions": "Decisions recorded.",
    "ignored_features": "Features in events that the schema does not have.",
    "refused_commands": "Commands that made no sense.",
    "repeated_commands": "Commands that came twice.",
}
"""Counters ``metadrift_<name>_total``; they are part of the state and survive restarts."""

PHASES = ("validating", "awaiting_approval", "canary", "promoting", "probation")


class _Totals(Collector):
    def __init__(self, model: str, totals: dict[str, float]) -> None:
        self._model, self._values = model, totals

    def collect(self) -> Iterator[Metric]:
        for name, value in self._values.items():
            family = CounterMetricFamily(f"metadrift_{name}", TOTALS[name], labels=["model"])
            family.add_metric([self._model], value)
            yield family


class Metrics:
    """Prometheus metrics of one daemon.

    Args:
        model: ``model.name``, a label of every metric.
    """

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._totals: dict[str, float] = dict.fromkeys(TOTALS, 0.0)
        self.registry.register(_Totals(model, self._totals))
        names = ["model"]
        self._window = Gauge(
            "metadrift_window_events", "Events in the join window.", names, registry=self.registry
        )
        self._early = Gauge(
            "metadrift_waiting_labels",
            "Labels that wait for their event.",
            names,
            registry=self.registry,
        )
        self._buffer = Gauge(
            "metadrift_buffer_examples",
            "Labelled examples kept.",
            [*names, "route"],
            registry=self.registry,
        )
        self._champion = Gauge(
            "metadrift_champion_version",
            "Number of the serving version.",
            [*names, "route"],
            registry=self.registry,
        )
        self._reference = Gauge(
            "metadrift_reference_loss",
            "Mean loss that the champion is held to.",
            [*names, "route"],
            registry=self.registry,
        )
        self._episode = Gauge(
            "metadrift_episode_active",
            "1 while an episode is in progress.",
            [*names, "route"],
            registry=self.registry,
        )
        self._phase = Gauge(
            "metadrift_rollout_phase",
            "1 for the phase that the rollout is in.",
            [*names, "route", "phase"],
            registry=self.registry,
        )
        self._weight = Gauge(
            "metadrift_candidate_weight_pct",
            "Percent of answers that are the candidate's.",
            [*names, "route"],
            registry=self.registry,
        )
        self._routes = Gauge(
            "metadrift_task_routes", "Tasks that have a route.", names, registry=self.registry
        )
        self._open_routes = Gauge(
            "metadrift_task_routes_open",
            "Tasks served by their own weights.",
            names,
            registry=self.registry,
        )
        self._outbox = Gauge(
            "metadrift_outbox_effects",
            "Effects that wait to be carried out.",
            names,
            registry=self.registry,
        )
        self._lag = Gauge(
            "metadrift_lag_records",
            "Records not yet read, by topic.",
            [*names, "topic"],
            registry=self.registry,
        )
        self._registry_up = Gauge(
            "metadrift_registry_up",
            "1 while MLflow can be reached.",
            names,
            registry=self.registry,
        )
        self._served = Gauge(
            "metadrift_serving_live",
            "1 while the servers beside the daemon split requests as the state calls for.",
            names,
            registry=self.registry,
        )
        self._failures = Gauge(
            "metadrift_serving_failures",
            "Failures of the servers beside the daemon since each last ran well.",
            names,
            registry=self.registry,
        )
        self._state_bytes = Gauge(
            "metadrift_state_bytes",
            "Bytes of the state file and its checkpoints.",
            names,
            registry=self.registry,
        )
        self._shelf_bytes = Gauge(
            "metadrift_shelf_bytes",
            "Bytes of models, meta-inits and results on the shelf.",
            names,
            registry=self.registry,
        )
        self._journal = Gauge(
            "metadrift_journal_entries",
            "Steps that the journal holds.",
            names,
            registry=self.registry,
        )
        self._collections = Gauge(
            "metadrift_gc_seconds",
            "Seconds spent in Python's garbage collector since the start.",
            names,
            registry=self.registry,
        )
        self._collecting_since, self._collected_s = 0.0, 0.0
        gc.callbacks.append(self._collection)
        self.polls = Counter(
            "metadrift_polls", "Polls that returned records.", names, registry=self.registry
        ).labels(model)
        self.dropped_effects = Counter(
            "metadrift_dropped_effects",
            "Effects on MLflow given up because they can never succeed.",
            names,
            registry=self.registry,
        ).labels(model)
        self.step_seconds = Histogram(
            "metadrift_step_seconds",
            "Wall time of one step: decide, publish, commit.",
            names,
            registry=self.registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        ).labels(model)

    def observe(self, state: EngineState, outbox: int, registry_up: bool) -> None:
        """Copy what the state says."""
        core, model = state.core, self._model
        totals = {
            **core.counts,
            "evicted": core.evicted,
            "orphan_labels": core.orphans,
            "episodes": core.episodes,
            "rollouts": core.rollouts,
            "decisions": core.decisions,
            "ignored_features": sum(core.extra_features.values()),
            "served_loss": core.served_loss,
        }
        self._totals.update((k, float(v)) for k, v in totals.items() if k in TOTALS)
        self._window.labels(model).set(len(state.window))
        self._early.labels(model).set(len(state.window.early))
        self._outbox.labels(model).set(outbox)
        self._registry_up.labels(model).set(registry_up)
        self._routes.labels(model).set(len(state.task_routes))
        self._open_routes.labels(model).set(core.routing.open if core.routing else 0)
        serving = core.serving
        if serving is not None:
            self._served.labels(model).set(serving.traffic == state.traffic(ONE_ROUTE))
            self._failures.labels(model).set(sum(f.count for f in serving.failures.values()))
        for name, route in core.routes.items():
            self._buffer.labels(model, name).set(len(state.buffers[name]))
            self._champion.labels(model, name).set(route.champion)
            reference = state.monitors[name].reference_loss
            if reference is not None:
                self._reference.labels(model, name).set(reference)
            self._episode.labels(model, name).set(route.episode is not None)
            rollout = route.rollout or route.probation
            phase = "" if rollout is None else rollout.phase.value
            for known in PHASES:
                self._phase.labels(model, name, known).set(known == phase)
            self._weight.labels(model, name).set(state.traffic(name).candidate_weight)

        self._collections.labels(model).set(self._collected_s)

    def _collection(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = time.perf_counter()
        else:
            self._collected_s += time.perf_counter() - self._collecting_since

    def disk(self, use: DiskUse) -> None:
        """Copy what is kept on disk."""
        self._state_bytes.labels(self._model).set(use.state_bytes)
        self._shelf_bytes.labels(self._model).set(use.shelf_bytes)
        self._journal.labels(self._model).set(use.journal_entries)

    def lag(self, by_topic: dict[str, int]) -> None:
        """Copy how far the daemon is behind."""
        for topic, records in by_topic.items():
            self._lag.labels(self._model, topic).set(records)

    def text(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)
