"""What the daemon's own Role allows: enough for its work, and nothing else at all."""

import pytest

from tests.deploy.seldon_cluster import NAME, SeldonWorld, manifest
from tests.servers.kube_admin import KubeAdmin, RefusedError
from tests.servers.kube_api_server import KubeApiServer

pytestmark = pytest.mark.integration

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
BY_NAME = {"get", "update", "patch", "delete"}
OTHER = "somebody-else"
# What Kubernetes grants to every account: questions about itself. They change nothing.
EVERYBODYS = {
    ("create", f"authorization.k8s.io/{kind}")
    for kind in ("selfsubjectaccessreviews", "selfsubjectrulesreviews")
} | {("create", "authentication.k8s.io/selfsubjectreviews")}


def granted(file: str) -> set[tuple[str, str, str]]:
    """Verb, resource and name of all that a Role of the manifests grants; name * is any."""
    (role,) = (d for d in manifest(file) if d["kind"] == "Role")
    return {
        (verb, f"{group}/{resource}", name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ["*"])
    }


def resources(admin: KubeAdmin) -> set[str]:
    """Every resource that the server knows, as ``group/resource[/subresource]``."""
    groups = [g["preferredVersion"]["groupVersion"] for g in admin.call("GET", "/apis")["groups"]]
    found = {f"/{r['name']}" for r in admin.call("GET", "/api/v1")["resources"]}
    for version in groups:
        group = version.partition("/")[0]
        listed = admin.call("GET", f"/apis/{version}")["resources"]
        found |= {f"{group}/{r['name']}" for r in listed}
    return found


def allowed(world: SeldonWorld, namespace: str, verb: str, resource: str, name: str) -> bool:
    """Ask the server's own authoriser about the daemon's service account."""
    group, _, rest = resource.partition("/")
    plain, _, sub = rest.partition("/")
    home = world.namespace
    spec = {
        "user": f"system:serviceaccount:{home}:metadrift",
        "groups": [
            *("system:authenticated", "system:serviceaccounts"),
            f"system:serviceaccounts:{home}",
        ],
        "resourceAttributes": {
            "namespace": namespace,
            "verb": verb,
            "group": group,
            "resource": plain,
            "subresource": sub,
            "name": name,
        },
    }
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = world.admin.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


SELDON, ISTIO = "machinelearning.seldon.io/seldondeployments", "networking.istio.io/virtualservices"
LEASES, CORE2 = "coordination.k8s.io/leases", "mlops.seldon.io"
ROUTES = (NAME, f"{NAME}-http", f"{NAME}-grpc")
NEEDED = {
    "base/access.yaml": {
        *((verb, SELDON, NAME) for verb in ("get", "patch")),
        ("create", SELDON, "*"),
        *(("get", ISTIO, name) for name in ROUTES),
        ("get", "apps/deployments", "*"),
        ("list", "/pods", "*"),
        *((verb, LEASES, NAME) for verb in ("get", "patch")),
        ("create", LEASES, "*"),
    },
    "core2/access.yaml": {
        *((verb, f"{CORE2}/experiments", NAME) for verb in ("get", "patch")),
        ("create", f"{CORE2}/experiments", "*"),
        *((verb, f"{CORE2}/models", "*") for verb in ("get", "list", "create", "delete")),
    },
}


@pytest.mark.parametrize("file", NEEDED)
def test_the_roles_grant_what_the_backends_call_and_nothing_beside_it(file: str) -> None:
    """The other tests of the backends run under these Roles, so all of it is needed."""
    assert granted(file) == NEEDED[file]


def test_of_every_call_that_there_is_only_the_roles_own_are_allowed(world: SeldonWorld) -> None:
    grants = granted("base/access.yaml")
    seen = set()
    for resource in sorted(resources(world.admin)):
        for verb in VERBS:
            for name in (NAME, OTHER) if verb in BY_NAME else ("",):
                if (verb, resource) in EVERYBODYS:
                    continue
                wanted = any((verb, resource, n) in grants for n in ("*", name))
                answer = allowed(world, world.namespace, verb, resource, name)
                assert answer == wanted, (verb, resource, name)
                if wanted:
                    seen.add((verb, resource))
    assert seen == {(verb, resource) for verb, resource, _ in grants}
    for verb, resource, name in grants:
        assert not allowed(world, "kube-system", verb, resource, "" if name == "*" else name)


REFUSED = (
    ("GET", "/api/v1/namespaces/{n}/secrets"),
    ("GET", "/api/v1/namespaces/{n}/pods/x"),
    ("GET", "/api/v1/namespaces/{n}/pods/x/log"),
    ("GET", "/api/v1/namespaces/default/pods"),
    ("DELETE", "/api/v1/namespaces/{n}/pods/x"),
    ("POST", "/api/v1/namespaces/{n}/pods/x/exec"),
    ("POST", "/api/v1/namespaces/{n}/pods"),
    ("POST", "/api/v1/namespaces/{n}/serviceaccounts/metadrift/token"),
    ("GET", "/api/v1/namespaces"),
    ("GET", "/api/v1/nodes"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/{n}/rolebindings"),
    ("POST", "/apis/apps/v1/namespaces/{n}/deployments"),
    ("DELETE", "/apis/apps/v1/namespaces/{n}/deployments/x"),
    ("GET", "/apis/machinelearning.seldon.io/v1/namespaces/{n}/seldondeployments"),
    ("GET", "/apis/machinelearning.seldon.io/v1/namespaces/{n}/seldondeployments/other"),
    ("DELETE", "/apis/machinelearning.seldon.io/v1/namespaces/{n}/seldondeployments/{name}"),
    ("PUT", "/apis/machinelearning.seldon.io/v1/namespaces/{n}/seldondeployments/{name}"),
    ("GET", "/apis/machinelearning.seldon.io/v1/namespaces/default/seldondeployments/{name}"),
    ("PUT", "/apis/networking.istio.io/v1beta1/namespaces/{n}/virtualservices/{name}"),
    ("GET", "/apis/networking.istio.io/v1beta1/namespaces/{n}/virtualservices/other"),
    ("DELETE", "/apis/coordination.k8s.io/v1/namespaces/{n}/leases/{name}"),
    ("GET", "/apis/mlops.seldon.io/v1alpha1/namespaces/{n}/experiments/{name}"),
)


@pytest.mark.parametrize(("method", "path"), REFUSED)
def test_a_call_outside_the_role_is_refused(
    world: SeldonWorld, seldon_server: KubeApiServer, method: str, path: str
) -> None:
    with KubeAdmin(seldon_server, world.token) as daemon, pytest.raises(RefusedError) as caught:
        daemon.call(method, path.format(n=world.namespace, name=NAME), {})
    assert caught.value.status == 403
