"""A process that takes one tick towards a split for each line that it reads, to be killed at any.

The first line of its input says how to reach the API server, each further one is a Traffic. For
each it prints whether that is live.
"""

import json
import sys

from deploy.controller import reconcile
from deploy.kubernetes_api import KubernetesApi
from deploy.rollout_plan import Traffic
from deploy.seldon_kubernetes import SeldonBackend
from tests.deploy.seldon_cluster import NAME, TEMPLATE


def main() -> None:
    """Tick until the input ends."""
    address, token, namespace = json.loads(sys.stdin.readline())
    with KubernetesApi.with_token(address, token, namespace, timeout_s=60.0) as api:
        backend = SeldonBackend(api, NAME, TEMPLATE, locate=lambda version: None, owner_epoch=1)
        for line in sys.stdin:
            print(reconcile(Traffic(**json.loads(line)), backend).live, flush=True)


if __name__ == "__main__":
    main()
