"""The API server with Seldon's definitions, once per run; a namespace for each test."""

from collections.abc import Iterator

import pytest

from tests.deploy.seldon_cluster import SeldonWorld, load_definitions
from tests.servers.kube_admin import KubeAdmin
from tests.servers.kube_api_server import KubeApiServer
from tests.servers.seldon_definitions import seldon_definitions


@pytest.fixture(scope="session")
def seldon_definition_list() -> list[dict[str, object]]:
    """Seldon's and Istio's definitions, asked for before a server is started."""
    return seldon_definitions()


@pytest.fixture(scope="session")
def seldon_server(
    seldon_definition_list: list[dict[str, object]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[KubeApiServer]:
    """The run's API server, knowing Seldon's and Istio's resources."""
    server = KubeApiServer(tmp_path_factory.mktemp("kubernetes"))
    try:
        server.start()
        with KubeAdmin(server) as admin:
            load_definitions(admin, seldon_definition_list)
        yield server
    finally:
        server.stop()


@pytest.fixture
def world(seldon_server: KubeApiServer) -> Iterator[SeldonWorld]:
    """A namespace of the test's own."""
    with SeldonWorld(seldon_server) as made:
        yield made
