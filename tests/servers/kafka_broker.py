"""A real Apache Kafka broker for the tests: one node, KRaft, loopback only."""

import base64
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from tests.servers.kafka_jars import java, kafka_jars
from tests.servers.leashed_process import LeashedProcess
from tests.servers.ports import LOOPBACK, free_ports

_JVM = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
_FORMAT_S = 60.0
_START_S = 90.0  # after a SIGKILL the broker first recovers its logs: 12 s measured
_STOP_S = 30.0
_CALL_MS = 15_000


class KafkaBroker:
    """Start, stop, SIGKILL and restart one broker; port and data stay over restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: LeashedProcess | None = None
        self.port, self._controller_port = free_ports(2)
        self.bootstrap_servers = f"{LOOPBACK}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the broker runs."""
        return self._process is not None and self._process.alive

    def start(self) -> None:
        """Start the broker and wait until it serves.

        Raises:
            MissingToolError: Java or Maven is missing.
            ServerError: It did not come up.
        """
        if self.alive:
            return
        classpath = f"{kafka_jars()}/*"
        configuration = self._folder / "server.properties"
        if not configuration.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            configuration.write_text(self._properties())
            # "M" first: an id that begins with a dash would be taken for an option.
            cluster = "M" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
            tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(configuration)]
            subprocess.run(
                [java(), *_JVM, "-cp", classpath, *tool],
                check=True,
                capture_output=True,
                timeout=_FORMAT_S,
            )
        process = LeashedProcess(
            [java(), *_JVM, "-cp", classpath, "kafka.Kafka", str(configuration)],
            log=self._folder / "broker.log",
        )
        self._process = process
        try:
            process.wait_for(
                lambda: "Kafka Server started" in process.output(),
                what="starting",
                within_s=_START_S,
            )
        except BaseException:
            process.kill()
            raise

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self._process is not None and self._process.alive:
            self._process.terminate(within_s=_STOP_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def create_topics(self, partitions: Mapping[str, int]) -> None:
        """Make topics, each with the given number of partitions."""
        from kafka.admin import KafkaAdminClient  # every test loads conftest, few need Kafka

        admin = KafkaAdminClient(
            bootstrap_servers=self.bootstrap_servers, request_timeout_ms=_CALL_MS
        )
        try:
            admin.create_topics(
                {name: {"num_partitions": count} for name, count in partitions.items()},
                timeout_ms=_CALL_MS,
            )
        finally:
            admin.close()

    def _properties(self) -> str:
        listener = f"PLAINTEXT://{LOOPBACK}:{self.port}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{LOOPBACK}:{self._controller_port}",
            "listeners": f"{listener},CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": listener,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": self._folder / "data",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "default.replication.factor": 1,
            "min.insync.replicas": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())
