"""A daemon that comes and goes beside its servers: what it keeps of them, and what it leaves."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.serving_environment import environment_folder
from tests.pipeline.live_daemon import LiveModel
from tests.pipeline.small_worlds import lane_champion
from tests.servers.haproxy import make_sure_of_haproxy
from tests.servers.kafka_broker import KafkaBroker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture
def live(broker: KafkaBroker, tmp_path: Path) -> Iterator[LiveModel]:
    """A model whose servers end as soon as they begin."""
    make_sure_of_haproxy()
    environment = environment_folder(tmp_path / "cache")
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to("/bin/false")
    (environment / "made").touch()
    made = LiveModel(
        tmp_path,
        broker,
        f"sqlite:///{tmp_path}/mlflow.db",
        lane_champion(),
        serving={"backend": "local", "environment": str(tmp_path / "cache")},
    )
    yield made
    made.close()


def failures(live: LiveModel) -> int:
    """Return how often the champion's server has failed, as the state has it."""
    seen = live.core().serving
    return 0 if seen is None else sum(f.count for f in seen.failures.values())


def test_failures_outlive_the_daemon_and_an_old_address_does_not(live: LiveModel) -> None:
    live.start()
    address = live.settings.state_dir / "serving.json"
    live.wait(lambda: failures(live) >= 3, "three failures")
    where = json.loads(address.read_text())
    live.kill()
    before = failures(live)

    live.start()
    assert failures(live) >= before, "a new owner begins where the old one was"
    live.wait(lambda: failures(live) > before, "one more failure")
    assert json.loads(address.read_text())["port"] != where["port"]
    assert live.stop() == 0

    content = yaml.safe_load(live.config.read_text())
    del content["serving"]
    live.config.write_text(yaml.safe_dump(content))
    live.start()
    assert not address.exists(), "nothing answers there any more"
    assert live.core().serving is None
    assert live.stop() == 0
