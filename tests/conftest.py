"""The real servers, started once per test run when the first test asks, ended with the run.

``broker`` and ``mlflow_server`` are shared: a test uses topic and model names of its own, and
leaves the server running. A test that stops, kills or restarts a server makes one for itself.
"""

from collections.abc import Iterator

import pytest

from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """The run's Apache Kafka broker."""
    server = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """The run's MLflow server."""
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
