"""One simulated demo with a meta-init of a few steps: the record becomes a valid report.

Whether the claims hold is measured with the demo's own meta-training (benchmarks.demo_seeds).
"""

from functools import cache
from io import StringIO
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
from rich.console import Console

from adapters.meta_settings import MetaTrainSettings
from adapters.meta_training import meta_train
from benchmarks.demo_simulation import simulate
from pipeline.demo.config import demo_config
from pipeline.demo.evidence import new_lane, spans, tell
from pipeline.demo.images import split_images
from pipeline.demo.learning import fitted_to, meta_examples
from pipeline.demo.live_view import LiveView, Look, render
from pipeline.demo.plans import NEW_LANE, draw_plans
from pipeline.demo.record import Record
from pipeline.demo.summary import boundaries, draw, report_of
from pipeline.report.report_schema import decode_report, encode_report, report_json_schema
from pipeline.settings import parse_settings

FEW = MetaTrainSettings(maml_steps=40, reptile_steps=60, validation_episodes=4, processes=1)


@cache
def record() -> Record:
    plans, half = draw_plans(0), split_images(0).learning
    init = meta_train(meta_examples(plans.meta[:12], half, 0), FEW)
    return simulate(0, fitted_to(plans.first, half, 0), init)


def test_every_event_is_answered_and_every_label_joined() -> None:
    assert None not in record().answers
    assert record().counts["labels"] == 1150
    assert record().counts["corrected_labels"] > 50
    assert record().counts.get("dead_letters", 0) == 0


def test_every_claim_is_told_with_evidence() -> None:
    claims = tell(record())
    assert [c.claim[0] for c in claims] == list("12222334444455667777")
    assert all(c.evidence for c in claims)
    assert claims[0].held  # a steady stream needs no meta-init


def test_the_summary_follows_the_published_schema(tmp_path: Path) -> None:
    settings = parse_settings(demo_config(tmp_path, "127.0.0.1:9092"))
    report = report_of(record(), settings, 0, {"python": "3"})
    packed = encode_report(report)
    jsonschema.validate(msgspec.json.decode(packed), report_json_schema())
    assert decode_report(packed) == report
    assert [b.position for b in report.boundaries] == list(record().script.starts[1:-1])
    oracles = [b.oracle for b in boundaries(record())]
    assert [k for k, found in enumerate(oracles) if found is not None] == [0, 4, 5, 6]
    assert oracles[6] is not None and oracles[6] > 0.9  # fitted to the new lane, too
    assert report.story == tell(record())
    draw(tmp_path / "timeline.png", report, record(), 0)
    assert (tmp_path / "timeline.png").stat().st_size > 20_000


def test_the_champion_in_force_answers_between_rollouts() -> None:
    first = spans(record())[0]
    assert record().in_force(first.end) == record().first
    model = record().models[record().first]
    losses = record().losses_of(model, first.start, first.end)
    assert np.array_equal(losses, record().served_losses()[first.start : first.end])


def test_the_live_view_shows_the_last_decisions() -> None:
    seen = Look("2 a new plan", 500, 5750, 50.0, 0.9, 0.5, "watching", record().decisions[:5])
    console = Console(width=120, record=True, file=StringIO())
    console.print(render(seen))
    text = console.export_text()
    assert "2 a new plan" in text and "90 %" in text and record().decisions[4].kind in text
    with LiveView(console) as view:
        view.show(seen)
        view.show(seen)
    lines = console.export_text().splitlines()
    assert sum("episode-opened" in line for line in lines) <= 1


def test_the_new_lane_is_told_from_what_was_served_after_the_promotion() -> None:
    opened, span = new_lane(record(), spans(record())[-1]), spans(record())[-1]
    assert opened.signalled is not None and opened.promoted is not None
    assert span.start < opened.signalled < opened.promoted < span.end
    after = range(opened.promoted, span.end)
    own = [record().answers[k] == NEW_LANE for k in after if record().script.truth[k] == NEW_LANE]
    assert opened.recall == np.mean(own)
    assert NEW_LANE in record().models[record().in_force(span.end)].class_names
    assert NEW_LANE not in record().models[record().in_force(opened.promoted - 1)].class_names
    sent = [m for m in record().script.messages if m.topic == "labels"]
    first = {m.key: msgspec.json.decode(m.value)["label"] for m in reversed(sent)}
    by_number = [first[key] for key in dict.fromkeys(m.key for m in sent)]
    asked = [d for d in record().decisions if d.kind == "bake-off" and d.facts["new_classes"]]
    made = [d for d in asked if d.position <= opened.promoted][-1].facts["labels"]
    assert isinstance(made, dict)
    assert opened.support == [by_number[n] for n in made["support"]].count(NEW_LANE) > 0
