"""What a SeldonDeployment must obey before it is sent: a list of rules, one message each.

Most are those of Seldon Core 1.17.1's validating webhook, which would refuse the object; the rest
it lets through, and the split that follows is wrong (traffic of 150 and -50 sums to 100) or cannot
be followed afterwards (a Deployment whose name the operator had to hash). Names are Kubernetes':
lower case, because the operator makes Deployments, Services and routes out of them.

>>> spec = {"predictors": [{"name": "1-a", "traffic": 90, "graph": {"name": "c"}}]}
>>> for line in violations(spec, name="m", container="c"):
...     print(line)
traffic of 1-a is 90: a single predictor takes 100
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

LONGEST_NAME = 63  # of a Kubernetes label, and so of a Deployment, a Service and a route's host
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a rule looks at.

    Attributes:
        name: Of the SeldonDeployment.
        container: Of the model server within each predictor.
        predictors: ``spec.predictors``, in their order.
    """

    name: str
    container: str
    predictors: tuple[Json, ...]

    @property
    def serving(self) -> tuple[Json, ...]:
        """The predictors whose answers are served, shadows left out."""
        return tuple(p for p in self.predictors if not is_shadow(p))


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: In a few words.
        webhook: Whether the webhook of Seldon Core 1.17.1 refuses a breach as well.
        breaches: Yields a sentence for each breach: field, value and fix.
    """

    name: str
    webhook: bool
    breaches: Callable[[Subject], Iterator[str]]


class RuleBreachError(ValueError):
    """The object would be refused, or serve another split than was asked for."""


def violations(spec: Json, *, name: str, container: str) -> tuple[str, ...]:
    """Return a sentence for each breach of a rule, in the rules' order; empty when sound.

    Args:
        spec: ``spec`` of the SeldonDeployment.
        name: Its name.
        container: Name of the model server's container.
    """
    listed = spec.get("predictors")
    entries = listed if isinstance(listed, (list, tuple)) else ()
    predictors = tuple(p for p in entries if isinstance(p, Mapping))
    subject = Subject(name, container, predictors)
    return tuple(line for rule in RULES for line in rule.breaches(subject))


def check(spec: Json, *, name: str, container: str) -> None:
    """Refuse a spec that breaks a rule.

    Raises:
        RuleBreachError: It does; the message holds every breach.
    """
    found = violations(spec, name=name, container=container)
    if found:
        raise RuleBreachError("; ".join(found))


def is_shadow(predictor: Json) -> bool:
    """Whether a predictor gets copies of the requests and its answers are dropped."""
    return predictor.get("shadow") is True


def traffic_of(predictor: Json) -> int:
    """Return a predictor's ``traffic``, 0 where it has none or no whole number."""
    traffic = predictor.get("traffic", 0)
    return traffic if isinstance(traffic, int) and not isinstance(traffic, bool) else 0


def deployment_name(name: str, predictor: str, container: str) -> str:
    """Return the name that the operator gives a predictor's Deployment."""
    return f"{name}-{predictor}-0-{container}"


def _some_predictor(subject: Subject) -> Iterator[str]:
    if not subject.predictors:
        yield "predictors is empty: there must be one that answers"


def _some_answer(subject: Subject) -> Iterator[str]:
    if subject.predictors and not subject.serving:
        yield "every predictor is a shadow: one must answer"


def _unique_names(subject: Subject) -> Iterator[str]:
    names = [_name(p) for p in subject.predictors]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"predictor name {name} comes {names.count(name)} times: names must differ"


def _one_shadow(subject: Subject) -> Iterator[str]:
    shadows = [_name(p) for p in subject.predictors if is_shadow(p)]
    if len(shadows) > 1:
        yield f"{', '.join(shadows)} are all shadows: at most one may be"


def _in_range(subject: Subject) -> Iterator[str]:
    for predictor in subject.predictors:
        given = predictor.get("traffic", 0)
        if given != traffic_of(predictor) or not 0 <= traffic_of(predictor) <= 100:
            yield f"traffic of {_name(predictor)} is {given!r}: give a whole number of 0 to 100"


def _sums_to_100(subject: Subject) -> Iterator[str]:
    if len(subject.serving) < 2:
        return
    total = sum(map(traffic_of, subject.serving))
    if total != 100:
        parts = " + ".join(f"{_name(p)} {traffic_of(p)}" for p in subject.serving)
        yield f"traffic sums to {total} ({parts}): predictors that answer must sum to 100"


def _single_takes_all(subject: Subject) -> Iterator[str]:
    if len(subject.serving) == 1 and traffic_of(subject.serving[0]) not in {0, 100}:
        only = subject.serving[0]
        yield f"traffic of {_name(only)} is {traffic_of(only)}: a single predictor takes 100"


def _graph_has_its_container(subject: Subject) -> Iterator[str]:
    for predictor in subject.predictors:
        graph = predictor.get("graph")
        unit = graph if isinstance(graph, Mapping) else {}
        if "name" not in unit:
            yield f"graph of {_name(predictor)} has no name: name its container"
        elif "implementation" not in unit and _containers(predictor):
            if unit["name"] not in _containers(predictor):
                yield (
                    f"graph of {_name(predictor)} names {unit['name']}, which is no container of "
                    f"it: expected one of {', '.join(_containers(predictor))}"
                )
        elif "implementation" in unit and not unit.get("modelUri"):
            yield f"graph of {_name(predictor)} has an implementation and no modelUri: give one"


def _names_are_labels(subject: Subject) -> Iterator[str]:
    for name in (subject.name, *map(_name, subject.predictors)):
        if not _LABEL.fullmatch(name):
            yield f"name {name!r}: use a-z, 0-9 and -, and begin and end with a letter or digit"


def _names_are_short(subject: Subject) -> Iterator[str]:
    for predictor in subject.predictors:
        full = deployment_name(subject.name, _name(predictor), subject.container)
        if len(full) > LONGEST_NAME:
            yield (
                f"Deployment name {full} is {len(full)} characters long: beyond {LONGEST_NAME} "
                "the operator replaces it by a hash; shorten the deployment's name"
            )


RULES = (
    Rule("at least one predictor", True, _some_predictor),
    Rule("at least one predictor answers", True, _some_answer),
    Rule("predictor names differ", True, _unique_names),
    Rule("at most one shadow", True, _one_shadow),
    Rule("traffic lies in 0..100", False, _in_range),
    Rule("traffic sums to 100", True, _sums_to_100),
    Rule("a single predictor takes 0 or 100", True, _single_takes_all),
    Rule("a graph has its container", True, _graph_has_its_container),
    Rule("names are Kubernetes labels", False, _names_are_labels),
    Rule("Deployment names are not hashed", False, _names_are_short),
)


def _name(predictor: Json) -> str:
    return str(predictor.get("name", ""))


def _containers(predictor: Json) -> list[str]:
    names = []
    specs = predictor.get("componentSpecs")
    for component in specs if isinstance(specs, (list, tuple)) else ():
        pod = component.get("spec") if isinstance(component, Mapping) else None
        containers = pod.get("containers") if isinstance(pod, Mapping) else None
        for each in containers if isinstance(containers, (list, tuple)) else ():
            if isinstance(each, Mapping):
                names.append(str(each.get("name", "")))
    return names
