import json
from collections.abc import Sequence

import jsonschema
import msgspec
import numpy as np
import pytest

from pipeline.messages import Decision
from pipeline.report.assemble import Boundary, assemble
from pipeline.report.report_schema import (
    Claim,
    Report,
    decode_report,
    encode_report,
    report_json_schema,
)
from tests.pipeline.sample_run import (
    BOUNDARIES,
    EVENTS,
    LABELS_AT,
    decision,
    episode,
    rollout,
    sample_decisions,
    sample_facts,
    sample_losses,
    sample_report,
    signal,
)


def one_regime(decisions: Sequence[Decision], boundary: Boundary = Boundary(300)) -> Report:  # noqa: B008
    return assemble(
        sample_facts(),
        sample_losses(),
        decisions,
        (boundary,),
    )


def test_a_report_follows_its_published_schema_and_reads_back() -> None:
    report = sample_report()
    document = encode_report(report)
    jsonschema.Draft202012Validator.check_schema(report_json_schema())
    jsonschema.validate(json.loads(document), report_json_schema())
    assert decode_report(document) == report
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(document), "overall": 3}, report_json_schema())
    with pytest.raises(msgspec.ValidationError, match="metadrift-report/1"):
        decode_report(document.replace(b"metadrift-report/1", b"metadrift-report/0"))


def test_published_decisions_and_structs_give_the_same_report() -> None:
    published = [json.loads(msgspec.json.encode(d)) for d in sample_decisions()]
    again = assemble(sample_facts(), sample_losses(), published, BOUNDARIES)
    assert encode_report(again) == encode_report(sample_report())


def test_quality_is_counted_on_the_same_events() -> None:
    report, losses = sample_report(), sample_losses()
    whole = report.overall.whole
    assert whole.served.events == whole.frozen.events == EVENTS
    assert whole.served.accuracy == pytest.approx(1 - losses.served.mean())
    starts = [b.position for b in BOUNDARIES]
    first = np.concatenate([losses.frozen[s : s + 50] for s in starts])
    assert report.overall.first_50.frozen.accuracy == pytest.approx(1 - first.mean())
    assert report.overall.first_100.served.events == 500
    last = report.boundaries[0].last_quarter.served
    assert last.events == 250
    assert last.accuracy == pytest.approx(1 - losses.served[1050:1300].mean())


def test_a_boundary_tells_alarm_delay_labels_and_outcome() -> None:
    first, light, wrong, _, announced = sample_report().boundaries
    assert (first.outcome, first.alarm, first.alarm_by, first.delay) == (
        "decided",
        445,
        "HDDMA",
        145,
    )
    assert (first.promoted, first.concluded) == (930, ["promoted 2-bbbb"])
    # labels arrive at 305, 310, ..., 930: after the boundary and up to the promotion
    assert first.labels_used == int(((LABELS_AT > 300) & (LABELS_AT <= 930)).sum()) == 126
    assert (light.concluded, light.promoted) == (["frozen wins"], None)
    assert wrong.concluded == ["rejected 3-cccc"]
    # announced as it takes force: its position is the boundary itself
    assert (announced.alarm, announced.delay, announced.promoted) == (3400, 0, 3540)


def test_too_few_labels() -> None:
    silent = one_regime([], Boundary(EVENTS - 100))
    assert silent.boundaries[0].outcome == "too few labels"
    assert one_regime([]).boundaries[0].outcome == "decided"  # labels enough, nothing to do
    still_open = one_regime(
        [signal(400, "error", "HDDMA", "Start"), *episode(1, 400, 500, "maml")][:2]
    )
    assert still_open.boundaries[0].outcome == "too few labels"
    canary = one_regime([*episode(1, 400, 500, "maml"), *rollout(1, 1, {500: 5})])
    assert canary.boundaries[0].outcome == "too few labels"
    gave_up = decision("episode-ended", 700, episode=1, outcome="too few labels")
    given_up = one_regime([episode(1, 400, 500, "maml")[0], gave_up])
    assert given_up.boundaries[0].outcome == "too few labels"


def test_an_alarm_before_the_boundary_is_not_its_alarm() -> None:
    report = one_regime([signal(300, "error", "HDDMA", "Start")])
    assert report.boundaries[0].alarm is None
    report = one_regime([signal(301, "error", "HDDMA", "Start")])
    assert report.boundaries[0].delay == 1


def test_what_a_detector_saw_is_told_apart_from_what_it_was_told() -> None:
    told, saw = signal(310, "new_task", "novelty", "Start"), signal(350, "features", "lf", "Hold")
    (row,) = one_regime([told, saw]).boundaries
    assert (row.alarm, row.alarm_by, row.delay) == (310, "novelty", 10)
    assert (row.detected, row.detected_by, row.detection_delay) == (350, "lf", 50)
    (row,) = one_regime([told]).boundaries
    assert (row.detected, row.detection_delay) == (None, None)


def test_episodes_gates_and_rollouts() -> None:
    report = sample_report()
    first = report.episodes[0]
    assert (first.opened, first.ended, first.winner, first.outcome) == (
        445,
        770,
        "maml",
        "candidate",
    )
    assert (first.support, first.query, first.holdout) == (40, 20, 20)
    assert [r.name for r in first.recipes if r.winner] == ["maml"]
    assert first.recipes[0].holdout_loss is None  # NaN was published
    gate = report.gates[0]
    assert (gate.verdict, gate.n, gate.n_min, gate.champion_loss) == ("pass", 20, 18, 0.5)
    moved = report.rollouts[0]
    assert [(w.position, w.weight_pct) for w in moved.weights] == [
        (770, 5),
        (830, 25),
        (890, 50),
        (930, 100),
    ]
    assert (moved.promoted, moved.ended, moved.labels, moved.wrong_served) == (930, 930, 25, 3)
    suspect = report.rollouts[1]
    assert [(p.position, p.until, p.cause) for p in suspect.pauses] == [
        (2420, 2760, "labels suspect")
    ]
    assert (suspect.promoted, suspect.ended, suspect.phase) == (None, 2760, "rejected")
    assert (report.counts.promotions, report.counts.rollbacks) == (3, 0)


def test_a_promotion_that_is_taken_back() -> None:
    steps = [*episode(1, 400, 500, "maml"), *rollout(1, 1, {500: 5}, promoted=600)]
    back = decision("rollback", 800, "worse", rollout=1, champion="1-aaaa", former="2-bbbb")
    report = one_regime([*steps, back])
    assert report.boundaries[0].concluded == ["promoted 2-bbbb", "rolled back 2-bbbb"]
    assert (report.counts.promotions, report.counts.rollbacks) == (1, 1)
    assert (report.rollouts[0].ended, report.rollouts[0].rolled_back) == (600, 800)


def test_bare_decisions_are_read_with_nulls() -> None:
    bare = [{"kind": k, "position": 10} for k in ("signal", "gate", "episode-opened", "promotion")]
    report = assemble(sample_facts(), sample_losses(), bare)
    assert (report.signals[0].kind, report.signals[0].at) == ("unknown", 10)
    assert (report.gates[0].n, report.episodes[0].outcome) == (None, None)
    assert report.boundaries == []
    with pytest.raises(msgspec.ValidationError, match="kind"):
        assemble(sample_facts(), sample_losses(), [{"position": 10}])


def test_regression_has_losses_and_no_accuracy() -> None:
    report = assemble(sample_facts(task_type="regression"), sample_losses(), [], BOUNDARIES)
    assert report.overall.whole.served.accuracy is None
    assert report.overall.whole.served.loss is not None
    assert report.overall.kappa_temporal is None


def test_a_story_and_wrong_boundaries() -> None:
    claim = Claim(claim="steady", held=True, evidence="0 promotions")
    assert assemble(sample_facts(), sample_losses(), [], (), [claim]).story == [claim]
    with pytest.raises(ValueError, match=r"must rise within 1\.\.3749"):
        assemble(sample_facts(), sample_losses(), [], (Boundary(9), Boundary(EVENTS)))
