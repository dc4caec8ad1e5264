"""The demo without its processes: the real engine, state file and bake-offs on a simulated clock.

A poll every 0.2 s of stream time, and adaptation answers a second after they were asked for. What
is left out against ``metadrift demo``: Kafka, the daemon's shell, MLflow, and waiting.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from adapters.bake_off import run_bake_off
from adapters.bake_off_codec import decode_request, decode_results, encode_results
from adapters.meta_init import MetaInit
from adapters.model_file import Model
from pipeline.adaptation_worker import Answer
from pipeline.demo.collect import fitted_models
from pipeline.demo.config import demo_config
from pipeline.demo.record import Record
from pipeline.demo.script import Message, Script, write_script
from pipeline.fold import Fold, shelf_of, state_path
from pipeline.messages import Decision, Prediction
from pipeline.records import Chunk, ModelsFound, Outcome, Poll
from pipeline.settings import parse_settings
from pipeline.standing import standing
from pipeline.state_file import StateFile

BEGAN_MS = 1_700_000_000_000
POLL_S = 0.2
ANSWER_S = 1.0
SETTLE_S = 5.0
STREAMS = ("events", "labels", "control")


@dataclass(slots=True)
class Heard:
    """What the daemon would have published."""

    decisions: list[Decision] = field(default_factory=list)
    served: dict[str, str] = field(default_factory=dict)

    def take(self, outcome: Outcome) -> None:
        """Take one step's messages."""
        self.decisions += outcome.decisions
        for _, message in outcome.predictions:
            answer = msgspec.json.decode(message, type=Prediction)
            self.served[answer.id] = str(answer.prediction)


def simulate(seed: int, champion: Model, init: MetaInit) -> Record:
    """Return the record of one simulated demo."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = parse_settings(demo_config(Path(scratch), "127.0.0.1:9092"))
        file = StateFile(state_path(settings.state_dir), settings.model.name)
        try:
            file.acquire(0.0)
            shelf = shelf_of(settings.state_dir)
            fold = Fold(settings, file, shelf, lambda: 0.0)
            return _play(fold, write_script(seed), seed, champion, init)
        finally:
            file.close()


def _play(fold: Fold, script: Script, seed: int, champion: Model, init: MetaInit) -> Record:
    heard, shelf = Heard(), fold.shelf
    losses = champion.info["holdout_losses"]
    found = ModelsFound(
        champion=shelf.put_model(champion),
        losses=tuple(losses) if isinstance(losses, list) else (),
        meta_init=shelf.put_meta_init(init),
        recommended=init.recommended,
        state_id="simulated",
    )
    heard.take(fold.step(found))
    offsets = dict.fromkeys(STREAMS, 0)
    messages = list(reversed(script.messages))
    waiting: tuple[float, Answer] | None = None
    for turn in range(1, int((script.ends_s + SETTLE_S) / POLL_S) + 1):
        now_s = turn * POLL_S
        arrived: list[Message] = []
        while messages and messages[-1].at_s <= now_s:
            arrived.append(messages.pop())
        chunks = [_chunk(name, arrived, offsets) for name in STREAMS]
        kept = tuple(c for c in chunks if c.values)
        if kept:
            heard.take(fold.step(Poll(kept, _ms(now_s))))
        if waiting is not None and waiting[0] <= now_s:
            answer, waiting = waiting[1], None
            heard.take(fold.step(fold.answer(answer)))
        wanted = fold.request() if waiting is None else None
        if wanted is not None:
            key, request = wanted
            packed = encode_results(run_bake_off(decode_request(request)))
            waiting = (now_s + ANSWER_S, Answer(key, packed, ""))
    core = fold.state.core
    digests = {str(d.facts["result"]) for d in heard.decisions if d.facts.get("result")}
    rate_ms = [_ms(m.at_s) for m in script.messages if m.topic == "events"]
    return Record(
        script=script,
        event_ms=rate_ms,
        sent_ms={k: _ms(at_s) for k, at_s in script.labelled.items()},
        answers=[heard.served.get(name) for name in script.ids],
        decisions=heard.decisions,
        standing=standing(core, "demo"),
        models={v.name: shelf.model(v.digest) for v in core.versions.values()},
        first=core.versions[1].name,
        fitted=fitted_models(script, seed),
        bake_offs={digest: decode_results(shelf.result(digest), shelf.model) for digest in digests},
        counts=core.counts,
    )


def _chunk(name: str, arrived: list[Message], offsets: dict[str, int]) -> Chunk:
    own = [m for m in arrived if m.topic == name]
    first = offsets[name]
    offsets[name] += len(own)
    return Chunk(
        "events" if name == "events" else "labels" if name == "labels" else "control",
        name,
        0,
        list(range(first, first + len(own))),
        [_ms(m.at_s) for m in own],
        [m.value for m in own],
    )


def _ms(at_s: float) -> int:
    return BEGAN_MS + round(at_s * 1000)
