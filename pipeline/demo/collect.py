"""Gathers a run's record from the producer, the predictions topic, the state file and the shelf."""

import json
from collections.abc import Mapping

import msgspec

from adapters.bake_off_codec import decode_results
from adapters.model_file import Model
from pipeline.core_state import Core
from pipeline.demo.chapters import Lanes
from pipeline.demo.folder import DemoFolder
from pipeline.demo.images import split_images
from pipeline.demo.learning import fitted_to
from pipeline.demo.record import Record
from pipeline.demo.script import Script
from pipeline.fold import shelf_of, state_path
from pipeline.messages import Decision
from pipeline.settings import Settings
from pipeline.standing import standing
from pipeline.state_glimpse import glimpse
from pipeline.status import core_of

MOST_DECISIONS = 10_000


def look(settings: Settings, decisions: int = MOST_DECISIONS) -> tuple[Core, list[Decision], int]:
    """Return the daemon's small state, its last decisions, and how many effects wait outside.

    Raises:
        StateError: There is no state file that this release reads.
    """
    seen = glimpse(state_path(settings.state_dir), decisions)
    found = [msgspec.json.decode(document, type=Decision) for document in seen.decisions]
    return core_of(settings, seen), found, seen.outbox


def fitted_models(script: Script, seed: int) -> list[Model]:
    """Return a model fitted to each stretch's lanes with every label of the learning half."""
    half = split_images(seed).learning
    made: dict[Lanes, Model] = {}
    for stretch in script.stretches:
        if stretch.lanes not in made:
            made[stretch.lanes] = fitted_to(stretch.plan, half, seed, stretch.opened)
    return [made[stretch.lanes] for stretch in script.stretches]


def gather(
    folder: DemoFolder,
    settings: Settings,
    script: Script,
    served: Mapping[str, str | float | None],
    fitted: list[Model],
) -> Record:
    """Return the record of a run whose processes have ended.

    Raises:
        OSError: The producer left no record.
    """
    sent = json.loads(folder.sent.read_text(encoding="utf-8"))
    core, decisions, _ = look(settings)
    shelf = shelf_of(settings.state_dir)
    digests = {str(d.facts["result"]) for d in decisions if d.facts.get("result")}
    return Record(
        script=script,
        event_ms=sent["event_ms"],
        sent_ms={int(k): int(ms) for k, ms in sent["label_ms"].items()},
        answers=[_text(served.get(name)) for name in script.ids],
        decisions=decisions,
        standing=standing(core, settings.model.name),
        models={v.name: shelf.model(v.digest) for v in core.versions.values()},
        first=core.versions[1].name,
        fitted=fitted,
        bake_offs={digest: decode_results(shelf.result(digest), shelf.model) for digest in digests},
        counts=core.counts,
    )


def _text(answer: str | float | None) -> str | None:
    return None if answer is None else str(answer)
