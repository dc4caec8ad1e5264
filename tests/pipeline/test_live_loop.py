"""The whole loop over real events: Kafka in, a better model out, the registry told."""

import csv
import io
import lzma
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from adapters.examples import Examples
from adapters.feature_schema import Feature, FeatureSchema, Rows
from adapters.model_file import Model, lineage_key
from adapters.training import fit_joint
from tests.pipeline.live_daemon import LiveModel
from tests.pipeline.state_tables import FOLDED
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.mlflow_server import MLflowServer

pytestmark = pytest.mark.integration

DATA = Path(os.environ.get("METADRIFT_DATA", Path(__file__).parents[3] / "shared" / "data"))
GAS = DATA / "gas_drift" / "gas_drift_b1-6.csv.xz"
MOST_OF_BATCH = 600  # enough for a promotion after each boundary
PLANS = ({0, 1, 2, 3}, {0, 1, 6, 7, 8})


@dataclass(frozen=True)
class Story:
    """What the champion learns from, and the stream with its true boundaries."""

    champion: Model
    rows: np.ndarray
    labels: list[str]
    boundaries: tuple[int, ...]


def champion_of(schema: FeatureSchema, rows: np.ndarray, labels: list[str]) -> Model:
    keys = np.array([lineage_key(f"train-{i}") for i in range(len(rows))], np.uint64)
    return fit_joint(schema, Examples(Rows(rows), tuple(labels), keys=keys))


def gas() -> Story:
    """Gas sensors: a model of the first batch, then batches 2 to 6, shuffled inside each."""
    with lzma.open(GAS, "rt") as file:
        table = list(csv.DictReader(io.StringIO(file.read())))
    names = [f"f{i}" for i in range(1, 129)]
    batches: dict[str, list[dict[str, str]]] = {}
    for row in table:
        batches.setdefault(row["batch"], []).append(row)
    rng = random.Random(0)
    for batch in batches.values():
        rng.shuffle(batch)
    learned = [*batches["1"], *batches["2"]]
    stream = [r for b in ("3", "4", "5", "6") for r in batches[b][:MOST_OF_BATCH]]
    calm = learned[len(learned) * 3 // 4 :]
    stream = [*calm, *stream]
    learned = learned[: len(learned) * 3 // 4]
    third = len(calm)
    sixth = third + sum(len(batches[b][:MOST_OF_BATCH]) for b in ("3", "4", "5"))

    def numbers(rows: list[dict[str, str]]) -> np.ndarray:
        return np.array([[float(r[n]) for n in names] for r in rows])

    schema = FeatureSchema(tuple(Feature(n, "number") for n in names))
    champion = champion_of(schema, numbers(learned), [r["gas"] for r in learned])
    return Story(champion, numbers(stream), [r["gas"] for r in stream], (third, sixth))


def digits() -> Story:
    """Scanned digits in two lanes; the plan that says which changes once, and back."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data.data))
    images, kinds = data.data[order] / 16, data.target[order]
    names = [f"p{i}" for i in range(64)]
    schema = FeatureSchema(tuple(Feature(n, "number") for n in names))
    learned = [("B" if k in PLANS[0] else "A") for k in kinds[:900]]
    at = rng.integers(900, len(images), 3000)
    rows = images[at] * rng.normal(1, 0.1, (3000, 64))  # what is blank stays blank
    labels = ["B" if k in PLANS[int(600 <= i < 2000)] else "A" for i, k in enumerate(kinds[at])]
    return Story(champion_of(schema, images[:900], learned), rows, labels, (600, 2000))


@pytest.fixture
def story() -> Story:
    return gas() if GAS.is_file() else digits()


@pytest.fixture
def live(
    story: Story, broker: KafkaBroker, mlflow_server: MLflowServer, tmp_path: Path
) -> Iterator[LiveModel]:
    losses = story.champion.info["holdout_losses"]
    assert isinstance(losses, list)
    made = LiveModel(
        tmp_path,
        broker,
        mlflow_server.uri,
        story.champion,
        losses,
        detect={"confidence": True, "features": True},
        episode={"support": 60, "query": 30, "holdout": 30},
        gate={"target_from": 0.3, "target_to": 0.1},
        rollout={"probation_labels": 50},
    )
    yield made
    made.close()


def test_the_whole_loop_over_real_events_with_kills(live: LiveModel, story: Story) -> None:
    """All labels come, 40 events late; two SIGKILLs; the stream waits while a bake-off runs.

    Some hundred events a second are months in a minute; at that rate a bake-off of a second would
    take as long as a change.
    """
    names = [f.name for f in story.champion.schema.features]
    n, at_once, late = len(story.labels), 50, 40
    live.start()
    kills = {n // 3 // at_once, 2 * n // 3 // at_once}
    for turn, low in enumerate(range(0, n, at_once)):
        high = min(n, low + at_once)
        live.send(
            "events",
            [
                {"id": f"e{i}", "features": dict(zip(names, story.rows[i].tolist(), strict=True))}
                for i in range(low, high)
            ],
            flush=False,
        )
        due = range(max(0, low - late), max(0, high - late))
        live.send("labels", [{"id": f"e{i}", "label": story.labels[i]} for i in due])
        if turn in kills:
            live.kill()
            live.start()
        time.sleep(0.1)
        live.wait(lambda high=high: settled(live, high), "the bake-off")  # type: ignore[misc]
    live.send("labels", [{"id": f"e{i}", "label": story.labels[i]} for i in range(n - late, n)])
    live.wait(live.consumed(n, n), "all events and labels")
    live.wait(lambda: live.outbox() == 0, "an empty outbox", within_s=90)
    assert live.stop() == 0

    import msgspec

    published = live.predictions()
    assert sorted(published) == sorted(f"e{i}" for i in range(n))
    assert all(len(set(values)) == 1 for values in published.values())
    core, decisions = live.core(), live.decisions()
    assert core.counts["labels"] == core.counts["served_labelled"] == n
    promotions = [d for d in decisions if d.kind == "promotion"]
    signals = [d for d in decisions if d.kind == "signal"]
    assert promotions, [d.reason for d in decisions]
    for start in story.boundaries:
        assert min(s.position for s in signals if s.position >= start) < start + 400
    assert promotions[-1].position > story.boundaries[-1]

    answers = [msgspec.json.decode(published[f"e{i}"][0])["prediction"] for i in range(n)]
    served = np.array([a == b for a, b in zip(answers, story.labels, strict=True)])
    frozen = story.champion.predict(Rows(story.rows)).labels
    unmoved = np.array([a == b for a, b in zip(frozen, story.labels, strict=True)])
    after = promotions[0].position
    assert served[after:].mean() > unmoved[after:].mean() + 0.05
    assert served.mean() > unmoved.mean()

    told_registry(live)
    ours, again = live.tables(), live.refolded()
    for table in FOLDED:
        assert again[table] == ours[table], table


def settled(live: LiveModel, events: int) -> bool:
    """Whether these events were taken and no bake-off runs."""
    core = live.core()
    episode = core.routes["*"].episode
    return core.next >= events and (episode is None or episode.phase != "adapting")


def told_registry(live: LiveModel) -> None:
    """Check what MLflow knows against what was decided."""
    from mlflow import MlflowClient

    client = MlflowClient(live.settings.registry.tracking_uri)
    core = live.core()
    champion = client.get_model_version_by_alias(live.name, "champion")
    assert champion.version == core.versions[core.routes["*"].champion].registered
    versions = client.search_model_versions(f"name = '{live.name}'")
    assert len(versions) == len(core.versions)
    experiment = client.get_run(champion.run_id).info.experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    ended = [d for d in live.decisions() if d.kind == "episode-ended"]
    episodes = {
        r.data.tags["mlflow.parentRunId"] for r in runs if "mlflow.parentRunId" in r.data.tags
    }
    assert len(episodes) == len([d for d in ended if d.facts["recipes"]])
    assert episodes <= {r.info.run_id for r in parents}
