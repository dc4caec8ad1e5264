"""A daemon over a list of inputs, killed at named places and started again until it is done.

``python -m tests.pipeline.crash_runner FOLDER``: ``FOLDER/story.json`` holds settings, records,
inputs and, per plan, the places at which its successive lives end. Each life is a forked process
with ``METADRIFT_CRASH_AT`` set that ends by SIGKILL. It takes the daemon's steps in the daemon's
order, with a file in the place of Kafka's topics and of the registry.
"""

import base64
import importlib
import json
import os
import signal
import sys
from pathlib import Path

import msgspec

from pipeline import crash_points
from pipeline.crash_points import crash_point
from pipeline.engine_state import EngineState
from pipeline.fold import Fold, shelf_of, state_path
from pipeline.journal import read_entry, write_entry
from pipeline.records import BakeOffDone, Input, Outcome, Poll, RouteAdapted
from pipeline.settings import Settings, parse_settings
from pipeline.state_file import StateFile
from tests.pipeline.loop_driver import Loop, answer_of
from tests.pipeline.loop_inputs import Topics
from tests.pipeline.small_worlds import lane_champion, lane_start

EFFECTS = ("decision", "episode", "version", "alias", "rollout", "review-answer")


def tell(folder: Path, loop: Loop, content: dict[str, object], plans: dict[str, list[str]]) -> None:
    """Write down a loop's outside inputs, for lives to repeat.

    Args:
        folder: Of the story.
        loop: It has run.
        content: Its settings.
        plans: Places of death by plan.
    """
    story = {
        "settings": content,
        "records": {
            stream: [[t, None if v is None else base64.b64encode(v).decode()] for t, v in records]
            for stream, records in loop.topics.records.items()
        },
        "inputs": [
            base64.b64encode(write_entry(i)).decode()
            for i in loop.inputs
            if not isinstance(i, BakeOffDone | RouteAdapted)
        ],
        "plans": plans,
    }
    (folder / "story.json").write_text(json.dumps(story))


class Life:
    """One process's life over a state folder."""

    def __init__(self, settings: Settings, topics: Topics, inputs: list[bytes]) -> None:
        self._topics, self._inputs = topics, inputs
        self._world = settings.state_dir / "world.jsonl"
        self._file = StateFile(state_path(settings.state_dir), settings.model.name)
        if not self._file.acquire(0.0):
            raise RuntimeError("the dead owner was not replaced at once")
        shelf = shelf_of(settings.state_dir)
        shelf.put_model(lane_champion())
        shelf.put_meta_init(lane_start())
        self._fold = Fold(settings, self._file, shelf, lambda: 0.0)

    def run(self) -> None:
        """Go on where the last life ended, to the end."""
        begun = self._file.intent()
        if begun is not None:
            self._fold.step(read_entry(begun, self._topics.read), self._publish)
        while True:
            self._answer()
            self._act()
            done = sum(_name(e) not in ("bake-off", "route") for e in self._file.journal())
            if done == len(self._inputs):
                return
            happened: Input = read_entry(self._inputs[done], self._topics.read)
            crash_point("after-poll")
            self._fold.step(happened, self._publish if isinstance(happened, Poll) else None)

    def _publish(self, outcome: Outcome, _: EngineState) -> None:
        crash_point("after-intent")
        self._write([("prediction", k.decode(), v.decode()) for k, v in outcome.predictions])
        self._write(
            [("dead letter", f"{d.topic}/{d.offset}", d.message) for d in outcome.dead_letters]
        )
        crash_point("after-publish")

    def _answer(self) -> None:
        wanted = self._fold.request()
        if wanted is not None:
            done = self._fold.answer(answer_of(*wanted))
            crash_point("after-bake-off")
            self._fold.step(done)

    def _act(self) -> None:
        queued = self._file.pending(EFFECTS)
        if queued:
            crash_point("before-effect")
            effects = [q.effect for q in queued]
            self._write([(e.kind, e.key, json.dumps(e.payload)) for e in effects])
            crash_point("after-effect")
            self._file.done(queued)

    def _write(self, happened: list[tuple[str, str, str]]) -> None:
        with self._world.open("a") as world:
            world.writelines(json.dumps(h) + "\n" for h in happened)


def _name(entry: bytes) -> str:
    name, *_ = msgspec.msgpack.decode(entry)
    return str(name)


def lives(folder: Path, story: dict[str, object], name: str, deaths: list[str]) -> int:
    """Live one plan to its end; return how often it was killed."""
    content, records, inputs = story["settings"], story["records"], story["inputs"]
    assert isinstance(content, dict)
    assert isinstance(records, dict)
    assert isinstance(inputs, list)
    topics = Topics()
    for stream, kept in records.items():
        topics.records[stream] = [(t, None if v is None else base64.b64decode(v)) for t, v in kept]
    settings = parse_settings({**content, "state_dir": str(folder / name)})
    (folder / name).mkdir()
    killed = 0
    for crash_at in [*deaths, ""]:
        child = os.fork()
        if child == 0:
            os.environ["METADRIFT_CRASH_AT"] = crash_at
            importlib.reload(crash_points)  # as at the start of a process
            Life(settings, topics, [base64.b64decode(i) for i in inputs]).run()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            killed += 1
        elif code != 0:
            raise RuntimeError(f"plan {name}: a life with {crash_at!r} ended with {code}")
    return killed


def main() -> None:
    """Live every plan; write how often each was killed."""
    import torch

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports for seconds, once for all
    folder = Path(sys.argv[1])
    story = json.loads((folder / "story.json").read_text())
    killed = {name: lives(folder, story, name, deaths) for name, deaths in story["plans"].items()}
    (folder / "killed.json").write_text(json.dumps(killed))


if __name__ == "__main__":
    main()
