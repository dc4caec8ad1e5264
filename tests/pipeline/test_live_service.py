"""The daemon as a service: the registry away, a person's tag, SIGTERM, poison, health."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.pipeline.live_daemon import LiveModel, wait_until
from tests.pipeline.live_stream import Stream
from tests.pipeline.small_worlds import Generator, features, first, lane_champion, second
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer

pytestmark = pytest.mark.integration


@contextmanager
def living(
    folder: Path, broker: KafkaBroker, uri: str, **sections: dict[str, object]
) -> Iterator[LiveModel]:
    live = LiveModel(folder, broker, uri, lane_champion(), **sections)
    try:
        yield live
    finally:
        live.close()


def metrics(live: LiveModel) -> dict[str, float]:
    """Return the metrics by name; of several series the sum."""
    _, text = live.page("/metrics")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["model"] == live.name
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_the_registry_may_be_away_and_a_person_answers_in_it(
    broker: KafkaBroker, tmp_path: Path
) -> None:
    """MLflow stops; the loop goes on to a candidate; MLflow is caught up with; a tag approves."""
    from mlflow import MlflowClient

    server = MLflowServer(tmp_path / "mlflow")
    server.start()
    try:
        with living(tmp_path, broker, server.uri, rollout={"mode": "recommend"}) as live:
            client = MlflowClient(server.uri)
            live.start()
            stream = Stream(live)
            live.wait(lambda: live.outbox() == 0, "version 1 in the registry")
            assert client.get_model_version_by_alias(live.name, "champion").version == "1"
            server.stop()
            stream.play(150, first, pause_s=0.05)
            for _ in range(40):
                if "rollout-awaiting-approval" in live.kinds():
                    break
                stream.play(25, second, pause_s=0.2)
            live.wait(lambda: "rollout-awaiting-approval" in live.kinds(), "a candidate that waits")
            live.wait(live.consumed(stream.next), "events while the registry is away")
            assert live.outbox() > 0
            live.wait(lambda: metrics(live)["metadrift_registry_up"] == 0, "the registry's absence")
            server.start()
            live.wait(lambda: live.outbox() == 0, "catching up with the registry")
            live.wait(lambda: metrics(live)["metadrift_registry_up"] == 1, "the registry's return")
            candidate = client.get_model_version_by_alias(live.name, "candidate")
            core = live.core()
            assert core.versions[2].registered == candidate.version
            digest = core.packets[core.versions[2].episode or 0]
            tag = f"approve {digest[:8]} ann reads well"
            client.set_model_version_tag(live.name, candidate.version, "metadrift.review", tag)
            live.wait(lambda: "rollout-canary" in live.kinds(), "the person's word")
            (review,) = [d for d in live.decisions() if d.kind == "review"]
            assert (review.facts["by"], review.facts["verb"]) == ("ann", "approve")
            for _ in range(20):
                if "promotion" in live.kinds():
                    break
                stream.play(25, second, pause_s=0.2)
            live.wait(lambda: "promotion" in live.kinds(), "the promotion")
            live.wait(lambda: live.outbox() == 0, "the registry's last word")
            champion = client.get_model_version_by_alias(live.name, "champion")
            assert champion.version == candidate.version
            assert champion.tags["metadrift.review_status"].startswith("done")
            runs = client.search_runs([client.get_run(champion.run_id).info.experiment_id])
            children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
            assert {"frozen", "fine_tune", "scratch"} <= {
                r.info.run_name.split()[-1].split("/")[-1] for r in children
            }
    finally:
        server.stop()


def test_sigterm_drains_in_time_and_a_restart_answers_in_time(
    broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path
) -> None:
    """Both bounds hold for the process alone; a busy machine gets three tries to show it."""
    with living(tmp_path, broker, mlflow_server.uri) as live:
        live.start()
        stream = Stream(live)
        stream.play(200, first)
        took: list[tuple[float, float]] = []
        for _ in range(3):
            began = time.monotonic()
            assert live.daemon is not None
            assert live.daemon.terminate(within_s=60) == 0
            drained = time.monotonic()
            stream.play(25, first)
            launched = time.monotonic()
            live.daemon = live.launch()
            live.wait(live.consumed(stream.next), "the first prediction")
            took.append((drained - began, time.monotonic() - launched))
            if took[-1][0] < 5.0 and took[-1][1] < 10.0:
                break
        assert min(drain_s for drain_s, _ in took) < 5.0, took
        assert min(restart_s for _, restart_s in took) < 10.0, took
        live.wait(live.consumed(stream.next, stream.labels), "the labels")
        assert live.stop() == 0
        assert sorted(live.predictions()) == sorted(f"e{i}" for i in range(stream.next))


POISON: list[tuple[bytes | None, str, str]] = [
    (b"\x00\xfe\xffgarbage", "undecodable", "malformed"),
    (None, "empty", "no value"),
    (b'{"id":"big","features":{},"pad":"' + b"a" * 2_000_000 + b'"}', "oversized", "2000"),
    (b'{"id":"nan","features":{"x0":NaN,"x1":1,"x2":1,"x3":1}}', "undecodable", "malformed"),
    (b'{"id":"shape","features":{"x0":[1,2],"x1":1,"x2":1,"x3":1}}', "features", "'x0'"),
    (b'{"id":"type","features":{"x0":"1","x1":1,"x2":1,"x3":1}}', "features", "'x0'"),
    (b'{"id":"missing","features":{"x0":1}}', "features", "'x1'"),
    (b'{"id":7,"features":{}}', "wrong-type", "id"),
    (b"[" * 100_000, "wrong-type", "object"),
    (b'{"id":"deep","more":' + b"[" * 100_000, "undecodable", ""),
]


def test_poison_is_set_aside_with_its_reason_and_the_stream_goes_on(
    broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path
) -> None:
    with living(tmp_path, broker, mlflow_server.uri) as live:
        rows = Generator(3).rows(len(POISON) + 1)
        live.start()
        assert live.page("/healthz") == (200, "ok\n")
        assert live.page("/readyz") == (200, "ready\n")
        assert live.page("/nowhere")[0] == 404
        for i, (value, _, _) in enumerate(POISON):
            live.send("events", [{"id": f"g{i}", "features": features(rows[i])}, value])
        live.send("labels", [b'{"id":"g0"}', b'{"id":"g0","label":1.5}'])
        live.send("control", [b'{"verb":"dance","id":"1"}'])
        live.send("labels", [{"id": "g0", "label": "up"}])
        last = {"id": "last", "features": {**features(rows[-1]), "unknown": 1}}
        live.send("events", [last])
        live.wait(live.consumed(len(POISON) + 1, 1), "the good events")
        live.wait(lambda: live.core().counts["dead_letters"] == len(POISON) + 3, "dead letters")
        assert sorted(live.predictions()) == sorted(
            [*(f"g{i}" for i in range(len(POISON))), "last"]
        )

        letters = live.read("dead_letters")
        found = {h["error"].decode() for _, _, h in letters}
        assert found == {error for _, error, _ in POISON} | {"bad-label"}
        for value, error, says in POISON:
            kept = b"" if value is None else value[: 64 * 1024]
            (headers,) = [h for _, v, h in letters if v == kept and says in h["message"].decode()]
            assert headers["error"].decode() == error
            assert headers["topic"].decode() == live.topics["events"]
            assert int(headers["partition"]) in range(3)
            assert int(headers["offset"]) >= 0
            assert ("tombstone" in headers) == (value is None)
            if value is not None and len(value) > 64 * 1024:
                assert int(headers["length"]) == len(value)
                assert len(headers["sha256"]) == 64

        wait_until(lambda: metrics(live)["metadrift_events_total"] == len(POISON) + 1, "metrics")
        seen = metrics(live)
        assert seen["metadrift_dead_letters_total"] == len(POISON) + 3
        assert seen["metadrift_labels_total"] == 1
        assert seen["metadrift_champion_version"] == 1
        assert seen["metadrift_polls_total"] >= 1
        assert seen["metadrift_step_seconds_count"] >= 1
        assert live.stop() == 0
        assert live.daemon is not None
        lines = [json.loads(x) for x in live.daemon.output().splitlines() if x.startswith("{")]
        assert {"owner", "ready", "draining"} <= {x["event"] for x in lines}
