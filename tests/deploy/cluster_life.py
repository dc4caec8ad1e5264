"""A process that takes one tick towards a split for each line that it reads, to be killed at any.

The first line of its input names the dialect and how to reach the API server, each further one is a
Traffic. For each it prints whether that is live.
"""

import json
import sys

from deploy.controller import ServingBackend, reconcile
from deploy.kubernetes_api import KubernetesApi
from deploy.rollout_plan import Traffic
from deploy.seldon_core2 import SeldonCore2Backend
from deploy.seldon_kubernetes import SeldonBackend
from tests.deploy.seldon_cluster import NAME, TEMPLATE, in_bucket


def main() -> None:
    """Tick until the input ends."""
    dialect, address, token, namespace = json.loads(sys.stdin.readline())
    with KubernetesApi.with_token(address, token, namespace, timeout_s=60.0) as api:
        backend = _core2(api) if dialect == "core2" else _v1(api)
        for line in sys.stdin:
            print(reconcile(Traffic(**json.loads(line)), backend).live, flush=True)


def _v1(api: KubernetesApi) -> ServingBackend:
    return SeldonBackend(api, NAME, TEMPLATE, locate=lambda version: None, owner_epoch=1)


def _core2(api: KubernetesApi) -> ServingBackend:
    return SeldonCore2Backend(api, NAME, locate=in_bucket, requirements=("python",), owner_epoch=1)


if __name__ == "__main__":
    main()
