"""Rules and objects of the SeldonDeployment: laws over traffic, and an example for each rule."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.controller import PermanentBackendError
from deploy.kubernetes_api import KubernetesApi
from deploy.rollout_plan import Traffic
from deploy.seldon_objects import (
    ModelArtifact,
    PredictorTemplate,
    as_wanted,
    deployment_spec,
    new_deployment,
    patch_operations,
    spec_traffic,
)
from deploy.seldon_rules import RULES, RuleBreachError, check, violations
from deploy.seldon_standing import expected_split, rollout_waits, route_splits, standing

TEMPLATE = PredictorTemplate(image="registry/server:1", env={"A": "1"})
VERSIONS = st.sampled_from(["1-a", "2-0f", "3-9b2c4d1e", "40-x"])


def nowhere(version):
    return None


def spec_of(traffic, template=TEMPLATE, locate=nowhere):
    return deployment_spec(traffic, template, locate)


def breaches(predictors, name="m", container="classifier"):
    return violations({"predictors": predictors}, name=name, container=container)


def predictor(name, traffic=100, **more):
    return {"name": name, "traffic": traffic, "graph": {"name": "classifier"}, **more}


@st.composite
def traffics(draw):
    stable = draw(VERSIONS)
    candidate = draw(st.none() | VERSIONS.filter(lambda v: v != stable))
    shadow = candidate is not None and draw(st.booleans())
    weight = draw(st.integers(0, 100)) if candidate is not None and not shadow else 0
    return Traffic(stable, candidate, weight, shadow)


def applied(current, operations):
    """A JSON Patch as the API server carries it out, for the operations that we send."""
    done = copy.deepcopy(current)
    for operation in operations:
        *folders, key = [
            part.replace("~1", "/") for part in operation["path"].removeprefix("/").split("/")
        ]
        place = done
        for folder in folders:
            place = place[folder]
        if operation["op"] == "test":
            assert place[key] == operation["value"]
        else:
            place[key] = operation["value"]
    return done


# ---------------------------------------------------------------- laws


@settings(deadline=None)
@given(st.lists(traffics(), min_size=1, max_size=8))
def test_any_sequence_of_traffic_keeps_every_rule(sequence):
    current = None
    for number, traffic in enumerate(sequence):
        spec = spec_of(traffic)
        if current is None:
            current = new_deployment("m", 1, spec)
        else:
            current = applied(current, patch_operations(current, spec, 1))
        current["metadata"]["resourceVersion"] = str(number)
        assert violations(current["spec"], name="m", container="classifier") == ()
        predictors = current["spec"]["predictors"]
        assert len(predictors) <= 2
        assert predictors[0]["name"] == traffic.stable
        assert predictors[0]["traffic"] == 100 - traffic.candidate_weight
        assert spec_traffic(current["spec"]) == traffic
        assert patch_operations(current, spec, 1) == []


@settings(deadline=None)
@given(traffics(), traffics())
def test_a_version_that_stays_keeps_its_name_and_all_but_its_share(before, after):
    def shape(traffic, version):
        found = [p for p in spec_of(traffic)["predictors"] if p["name"] == version]
        return [{k: v for k, v in p.items() if k not in {"traffic", "shadow"}} for p in found]

    kept = {before.stable, before.candidate} & {after.stable, after.candidate} - {None}
    for version in kept:
        assert shape(before, version) == shape(after, version)


@settings(deadline=None)
@given(traffics())
def test_every_patch_first_tests_that_the_object_is_the_one_that_was_read(traffic):
    current = new_deployment("m", 1, spec_of(Traffic("0-start")))
    current["metadata"]["resourceVersion"] = "77"
    operations = patch_operations(current, spec_of(traffic), 1)
    assert operations[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "77"}
    assert all(operation["op"] != "test" for operation in operations[1:])


@settings(deadline=None)
@given(traffics())
def test_the_routes_of_a_traffic_read_back_as_that_traffic(traffic):
    split = expected_split(traffic)
    rule = {
        "route": [
            {"destination": {"host": f"m-{v}.ns.svc.cluster.local"}, "weight": w}
            for v, w in split.weights.items()
        ]
    }
    if split.mirror:
        rule["mirror"] = {"host": f"m-{split.mirror}.ns.svc.cluster.local"}
    assert route_splits({"spec": {"http": [rule, rule]}}, "m") == [split, split]


# ---------------------------------------------------------------- the rules, one by one

SOUND = [predictor("1-a", 75), predictor("2-b", 25)]
BROKEN = {
    "at least one predictor": ([], "predictors is empty"),
    "at least one predictor answers": (
        [{**predictor("1-a", 0), "shadow": True}],
        "every predictor is a shadow",
    ),
    "predictor names differ": (
        [predictor("1-a", 50), predictor("1-a", 50)],
        "predictor name 1-a comes 2 times",
    ),
    "at most one shadow": (
        [predictor("1-a"), *({**predictor(v, 0), "shadow": True} for v in ("2-b", "3-c"))],
        "2-b, 3-c are all shadows",
    ),
    "traffic lies in 0..100": (
        [predictor("1-a", 150), predictor("2-b", -50)],
        "traffic of 1-a is 150: give a whole number of 0 to 100; "
        "traffic of 2-b is -50: give a whole number of 0 to 100",
    ),
    "traffic sums to 100": (
        [predictor("1-a", 75), predictor("2-b", 15)],
        "traffic sums to 90 (1-a 75 + 2-b 15)",
    ),
    "a single predictor takes 0 or 100": ([predictor("1-a", 90)], "a single predictor takes 100"),
    "a graph has its container": (
        [
            predictor(
                "1-a", componentSpecs=[{"spec": {"containers": [{"name": "other", "image": "i"}]}}]
            )
        ],
        "names classifier, which is no container of it: expected one of other",
    ),
    "names are Kubernetes labels": ([predictor("V1.a")], "name 'V1.a': use a-z, 0-9 and -"),
    "Deployment names are not hashed": (
        [predictor("1-" + "a" * 60)],
        "is 77 characters long: beyond 63",
    ),
}


def test_each_rule_has_its_example():
    assert list(BROKEN) == [rule.name for rule in RULES]
    assert breaches(SOUND) == ()


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_says_which_field_which_value_and_what_to_do(rule):
    predictors, message = BROKEN[rule]
    assert message in "; ".join(breaches(predictors))
    with pytest.raises(RuleBreachError, match=r".+: .+|.+ is .+"):
        check({"predictors": predictors}, name="m", container="classifier")


def test_a_rule_is_broken_alone():
    for rule, (predictors, _) in BROKEN.items():
        if rule not in {"at least one predictor answers"}:
            broken = [r.name for r in RULES if violates(r, predictors)]
            assert broken == [rule]


def violates(rule, predictors):
    from deploy.seldon_rules import Subject

    return bool(list(rule.breaches(Subject("m", "classifier", tuple(predictors)))))


@pytest.mark.parametrize("traffic", [50.0, "50", True, None])
def test_traffic_that_is_no_whole_number_is_named(traffic):
    assert "give a whole number of 0 to 100" in breaches([predictor("1-a", traffic)])[0]


# ---------------------------------------------------------------- objects


def test_where_a_model_lies_and_its_digest_reach_the_server():
    template = PredictorTemplate(image="registry/server:{version}", implementation="OURS")
    spec = spec_of(Traffic("1-a"), template, lambda v: ModelArtifact(f"s3://models/{v}", "ab12"))
    (made,) = spec["predictors"]
    assert made["graph"]["modelUri"] == "s3://models/1-a"
    (container,) = made["componentSpecs"][0]["spec"]["containers"]
    assert container["image"] == "registry/server:1-a"
    assert {p["name"]: p["value"] for p in made["graph"]["parameters"]} == {
        "version": "1-a",
        "model_dir": "/mnt/models",
        "digest": "ab12",
    }


def test_an_address_that_nobody_would_fetch_from_is_refused():
    with pytest.raises(RuleBreachError, match=r"version 1-a lies at s3://m, and no implementation"):
        spec_of(Traffic("1-a"), TEMPLATE, lambda v: ModelArtifact("s3://m", "ab12"))


@pytest.mark.parametrize(
    "uri",
    [
        "models:/sorting/3",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "s3://bucket/../other",
        "s3://bucket/a?versionId=1",
        "gs://bucket/a#b",
        "",
    ],
)
def test_an_address_that_could_lead_elsewhere_is_refused(uri):
    with pytest.raises(ValueError, match="model uri is"):
        ModelArtifact(uri, "ab")


def test_fields_that_others_set_are_no_difference_and_a_predictor_more_is():
    spec = spec_of(Traffic("1-a", "2-b", 0))
    stored = copy.deepcopy(spec)
    stored["predictors"][0]["annotations"] = {"theirs": "yes"}
    del stored["predictors"][1]["traffic"]  # a zero is left out on the way
    (container,) = stored["predictors"][0]["componentSpecs"][0]["spec"]["containers"]
    container["env"].insert(0, {"name": "THEIRS", "value": "yes"})
    stored["predictors"][0]["graph"]["parameters"].append({"name": "theirs", "value": "yes"})
    assert as_wanted(stored, spec)
    container["env"][1]["value"] = "2"
    assert not as_wanted(stored, spec)
    container["env"][1]["value"] = "1"
    assert as_wanted(stored, spec)
    assert not as_wanted({"predictors": stored["predictors"][::-1]}, spec)
    stored["predictors"].append(predictor("3-c", 0))
    assert not as_wanted(stored, spec)
    assert not as_wanted(None, spec)


def test_a_later_epoch_is_written_beside_other_annotations():
    spec = spec_of(Traffic("1-a"))
    current = new_deployment("m", 3, spec)
    current["metadata"] |= {"resourceVersion": "1"}
    current["metadata"]["annotations"]["theirs"] = "yes"
    done = applied(current, patch_operations(current, spec, 4))
    assert done["metadata"]["annotations"] == {"metadrift/owner-epoch": "4", "theirs": "yes"}
    del current["metadata"]["annotations"]
    done = applied(current, patch_operations(current, spec, 4))
    assert done["metadata"]["annotations"] == {"metadrift/owner-epoch": "4"}


def test_a_token_is_not_sent_in_the_clear():
    with pytest.raises(PermanentBackendError, match=r"http://10\.0\.0\.1:80 .*use https"):
        KubernetesApi.with_token("http://10.0.0.1:80", "t", "ns")
    for address in ("https://10.0.0.1", "http://127.0.0.1:1", "http://[::1]:1"):
        KubernetesApi.with_token(address, "t", "ns").close()


# ---------------------------------------------------------------- standing

READY = {"updatedReplicas": 1, "availableReplicas": 1, "replicas": 1, "observedGeneration": 2}


def workload(image="registry/server:1", **status):
    pod = {
        "containers": [{"name": "sidecar", "image": "s"}, {"name": "classifier", "image": image}]
    }
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": 1, "template": {"spec": pod}},
        "status": {**READY, **status},
    }


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"observedGeneration": 1}, "not seen"),
        ({"updatedReplicas": 0}, "0 of 1 pods are up to date, 1 available"),
        ({"availableReplicas": 0}, "1 of 1 pods are up to date, 0 available"),
        ({"replicas": 2}, "old pods"),
        (
            {
                "availableReplicas": 0,
                "conditions": [{"reason": "ProgressDeadlineExceeded", "message": "timed out"}],
            },
            "is stuck: timed out",
        ),
    ],
)
def test_a_deployment_waits_for_what_kubectl_would_wait_for(status, reason):
    assert reason in rollout_waits("d", workload(**status))[0]
    assert rollout_waits("d", workload()) == []


def route_rule(routes):
    return {
        "route": [
            {"destination": {"host": f"m-{v}"}} | ({} if w is None else {"weight": w})
            for v, w in routes.items()
        ]
    }


def stands(traffic, *, routes, grpc_routes=None, reported=True, **pods):
    deployment = new_deployment("m", 1, spec_of(traffic))
    names = [f"m-{v}-0-classifier" for v in (traffic.stable, traffic.candidate) if v]
    deployment["status"] = {
        "state": "Available",
        "deploymentStatus": {name: {} for name in names} if reported else {},
    }
    rules = [route_rule(r) for r in (routes, grpc_routes) if r is not None]
    return standing(
        deployment,
        {name: workload(**pods) for name in names},
        [{"spec": {"http": rules}}] if routes else [],
        name="m",
        container="classifier",
    )


def test_only_all_three_together_are_live():
    asked = Traffic("1-a", "2-b", 25)
    routed = {"1-a": 75, "2-b": 25}
    assert stands(asked, routes=routed).live == asked
    assert stands(asked, routes=routed, reported=False).live is None
    assert stands(asked, routes=routed, availableReplicas=0).live is None
    older = stands(asked, routes=routed, image="registry/server:0")
    assert "Deployment m-1-a-0-classifier still runs registry/server:0" in older.waiting
    assert stands(asked, routes={"1-a": 100}).live is None
    assert stands(asked, routes=routed, grpc_routes=routed).live == asked
    lags = stands(asked, routes=routed, grpc_routes={"1-a": 100})
    assert lags.waiting == ("a route still carries 1-a 100 %",), "each protocol has its own"
    assert stands(asked, routes={}).waiting == ("no VirtualService routes to it yet",)


def test_seldon_4067_weights_that_were_lost_on_the_way_are_not_live():
    """A weight of 0 that is dropped gave each of two versions half of the requests."""
    asked = Traffic("1-a", "2-b", 0)
    assert stands(asked, routes={"1-a": 100, "2-b": 0}).live == asked
    assert stands(asked, routes={"1-a": 100, "2-b": None}).live == asked
    assert stands(asked, routes={"1-a": None, "2-b": None}).live is None
    assert [p["name"] for p in spec_of(Traffic("1-a"))["predictors"]] == ["1-a"]


def test_a_lone_destination_needs_no_weight():
    assert stands(Traffic("1-a"), routes={"1-a": None}).live == Traffic("1-a")


def test_a_spec_of_another_hand_is_no_split_of_ours():
    three = {"predictors": [predictor("1-a", 50), predictor("2-b", 25), predictor("3-c", 25)]}
    assert spec_traffic(three) is None
    read = standing({"spec": three}, {}, [], name="m", container="classifier")
    assert read.live is None and "another split" in read.waiting[0]
