"""The daemon on a real broker compacts beside its work, is killed in it, and can be repeated."""

from contextlib import closing
from pathlib import Path

import pytest

from pipeline.checkpoints import checkpoints
from pipeline.fold import state_path
from pipeline.replay_journal import repeat
from pipeline.state_file import StateFile
from tests.pipeline.live_daemon import LiveModel
from tests.pipeline.live_stream import Stream
from tests.pipeline.small_worlds import first, lane_champion, second
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer

pytestmark = pytest.mark.integration


def test_a_compacting_daemon_is_killed_goes_on_and_can_be_repeated(
    broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path
) -> None:
    live = LiveModel(
        tmp_path, broker, mlflow_server.uri, lane_champion(), keep={"journal_entries": 12}
    )
    state_dir = live.settings.state_dir
    try:
        stream = Stream(live)
        for crash_at, concept in (("after-checkpoint:1", first), ("inside-drop:1", second)):
            live.start(crash_at)
            stream.play_to_death(concept)
        live.start()
        stream.play(400, first, pause_s=0.05)
        live.wait(live.consumed(stream.next, stream.labels), "all events and labels")
        core = live.core()
        assert core.next == core.counts["events"] == stream.next
        assert core.labels == core.counts["labels"] == stream.labels
        status, metrics = live.page("/metrics")
        assert status == 200
        assert f'metadrift_journal_entries{{model="{live.name}"}}' in metrics
        assert live.stop() == 0
    finally:
        live.close()
    with closing(StateFile(state_path(state_dir), live.name)) as file:
        first_entry, last = file.entries()
    assert first_entry > 1
    assert last - first_entry < 40
    assert len(checkpoints(state_path(state_dir))) == 2
    found = repeat(live.settings, state_dir)
    assert found["same"], found["first_difference"]
    begins, steps = found["begins"], found["steps"]
    assert isinstance(begins, int)
    assert isinstance(steps, int)
    assert 1 < first_entry <= begins
    assert begins + steps - 1 == last
