"""One step of the engine in progress: the state it changes and what it calls for."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from adapters.model_file import Model
from deploy.controller import reconcile
from pipeline.core_state import ONE_ROUTE, Candidate, Core, RouteCore, Version
from pipeline.engine_state import EngineState
from pipeline.messages import Decision
from pipeline.records import Effect, EffectKind, Outcome
from pipeline.settings import Settings


def _no_models(answer: str) -> Model:
    raise KeyError(answer)


@dataclass(slots=True)
class Turn:
    """What the parts of the engine share during one step.

    Attributes:
        settings: The configuration.
        models: Returns a model by its digest.
        results: Returns a stored bake-off answer by its digest.
        state: Changed in place.
        own_models: Returns a task's own model by the digest of the answer that holds it.
        outcome: Filled.
    """

    settings: Settings
    models: Callable[[str], Model]
    results: Callable[[str], bytes]
    state: EngineState
    own_models: Callable[[str], Model] = _no_models
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def core(self) -> Core:
        """The small state."""
        return self.state.core

    @property
    def now_s(self) -> float:
        """Engine time, seconds."""
        return self.state.core.time_ms / 1000

    def route(self, name: str) -> RouteCore:
        """Return what a route remembers."""
        return self.state.core.routes[name]

    def version(self, number: int) -> Version:
        """Return a model version."""
        return self.state.core.versions[number]

    def model(self, number: int) -> Model:
        """Return the model of a version."""
        return self.models(self.state.core.versions[number].digest)

    def champion(self, route: str) -> Model:
        """Return the stable model of a route."""
        return self.model(self.route(route).champion)

    def decide(self, kind: str, route: str, reason: str, **facts: object) -> None:
        """Record a decision with the numbers that led to it."""
        core = self.core
        core.decisions += 1
        decision = Decision(
            key=f"{self.settings.model.name}-{core.state_id}-{core.decisions}",
            kind=kind,
            model=self.settings.model.name,
            route=route,
            position=self.state.window.next,
            labels=core.labels,
            at_ms=core.time_ms,
            reason=reason,
            facts=facts,
        )
        self.outcome.decisions.append(decision)
        self.outcome.effects.append(Effect(decision.key, "decision", msgspec.to_builtins(decision)))

    def effect(self, kind: EffectKind, key: str, **payload: object) -> None:
        """Ask for something outside, once by its key."""
        self.outcome.effects.append(Effect(f"{self.core.state_id}/{key}", kind, payload))

    def version_named(self, name: str) -> Version:
        """Return the version of this name."""
        return next(v for v in self.core.versions.values() if v.name == name)

    def add_version(self, candidate: Candidate, episode: int, losses: list[float]) -> Version:
        """Return the version of a bake-off's winner; a recalled one keeps its number and name."""
        for known in self.core.versions.values():
            if known.digest == candidate.digest:
                return known
        number = max(self.core.versions, default=0) + 1
        version = Version(
            number=number,
            name=version_name(number, candidate.digest),
            digest=candidate.digest,
            episode=episode,
            losses=losses,
            recipe=candidate.recipe,
        )
        self.core.versions[number] = version
        return version

    def rollout_arm(self, route: str) -> int | None:
        """Return the version number that scores beside the champion, or None."""
        if self.route(route).rollout is None or self.state.traffic(route).candidate is None:
            return None
        return self.route(route).rollout_candidate

    def converge(self, route: str) -> bool:
        """Split our own answers as the state calls for; return whether all traffic is that way.

        Servers beside the daemon follow the one route, outside the engine, which knows what was
        seen of them last.
        """
        traffic, serving = self.state.traffic(route), self.core.serving
        ours = reconcile(traffic, self.state.backends[route]).live
        if serving is None or route != ONE_ROUTE:
            return ours
        return ours and serving.traffic == traffic

    def class_number(self, label: str) -> int:
        """Return the number of a class, giving a new one its number."""
        classes = self.core.classes
        try:
            return classes.index(label)
        except ValueError:
            classes.append(label)
            return len(classes) - 1


def version_name(number: int, digest: str) -> str:
    """Return how people call a version.

    >>> version_name(3, "sha256:0123456789abcdef")
    '3-01234567'
    """
    return f"{number}-{digest.removeprefix('sha256:')[:8]}"
