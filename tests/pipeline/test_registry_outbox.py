"""What the registry's outbox does with an effect that can never succeed."""

from pathlib import Path

from pipeline.core_state import Core, encode_core
from pipeline.engine_state import EngineState
from pipeline.fold import shelf_of
from pipeline.records import Effect
from pipeline.registry_outbox import RegistryOutbox
from pipeline.registry_process import JobDone, RegistryJob, Watch
from pipeline.state_changes import Changes
from pipeline.state_file import StateFile, wall_s
from tests.pipeline.loop_inputs import quick_settings


class ObedientProcess:
    """Carries out whatever it is given, at once."""

    away, ready = "", True

    def __init__(self) -> None:
        self.jobs: list[RegistryJob] = []
        self._done: list[JobDone] = []

    def submit(self, job: RegistryJob) -> None:
        self.jobs.append(job)
        self._done.append(JobDone(job.number, ""))

    def collect(self) -> list[JobDone]:
        done, self._done = self._done, []
        return done

    def watch(self, what: Watch) -> None:
        pass

    def close(self) -> None:
        pass


def test_an_alias_of_a_version_that_was_never_registered_is_dropped_and_counted(
    tmp_path: Path,
) -> None:
    settings = quick_settings(tmp_path)
    file = StateFile(tmp_path / "state.sqlite", "small")
    try:
        assert file.acquire(wall_s())
        effects = [
            Effect("never", "alias", {"alias": "champion", "number": 7}),
            Effect("nobody", "alias", {"alias": "candidate", "number": 0}),
        ]
        changes = Changes(core=encode_core(Core()), effects=effects)
        file.commit(b"\x91\xa4tick", changes, wall_s())
        dropped: list[int] = []
        process = ObedientProcess()
        outbox = RegistryOutbox(file, shelf_of(tmp_path), process, lambda: dropped.append(1))
        state = EngineState(settings)
        for _ in range(5):
            outbox.turn(state)
        assert len(dropped) == 1
        assert [job.kind for job in process.jobs] == ["alias"]
        assert file.outbox_depth() == 0
    finally:
        file.close()
