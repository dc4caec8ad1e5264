"""Records and model folders for the registry's tests."""

import hashlib
from pathlib import Path

from deploy.registry_records import (
    EpisodeRecord,
    GateRecord,
    ModelVersionRecord,
    OffsetRange,
    RecipeRecord,
    SignalRecord,
    SplitRecord,
    StandingRecord,
    TaskRecord,
)
from deploy.review_packet import packet_digest, packet_html

AT_MS = 1_750_000_000_000


def episode(key: str = "sorting/episode/1") -> EpisodeRecord:
    return EpisodeRecord(
        key=key,
        model="sorting",
        route="*",
        at_ms=AT_MS,
        position=1250,
        labels=240,
        task_type="classification",
        champion="1",
        signal=SignalRecord("error", "HDDMA", 1200, 1010, 0.31, 0.12, "error rose from .05 to .36"),
        offsets=(OffsetRange("events", 0, 1010, 1249), OffsetRange("labels", 0, 80, 239)),
        splits=(
            SplitRecord("support", 40, "sha256:aa"),
            SplitRecord("query", 20, "sha256:bb"),
            SplitRecord("holdout", 40, "sha256:cc"),
        ),
        recipes=(
            RecipeRecord("frozen", True, query_loss=0.45, holdout_loss=0.4, accuracy=0.6),
            RecipeRecord(
                "maml",
                False,
                query_loss=0.05,
                holdout_loss=0.075,
                accuracy=0.925,
                seconds=0.21,
                curve=((0, 0.5), (1, 0.2), (5, 0.05)),
                params={"steps": 5},
            ),
            RecipeRecord("scratch", False, outcome="diverged", message="loss became nan <at> 3"),
        ),
        winner="maml",
        outcome="candidate",
        reason="maml: query loss .05 against .45 of frozen",
        gate=GateRecord("pass", 40, 26, 0.4, 0.075, 14, 1, 0.0005, "better beyond doubt"),
        candidate_digest="sha256:" + "d" * 64,
        seeds={"bake_off": 7},
        versions={"torch": "2.13.0"},
        settings={"least_effect": 0.1},
        config_fingerprint="sha256:ff",
        task=TaskRecord(
            "recurring",
            "1-aa",
            "the champion loses 0.400; 1-aa loses 0.050 and explains them",
            0.05,
            50.0,
            StandingRecord("2-bb", 0.06, 50, 0.4, 0.01, 3e6, "fails", 0.7),
            (StandingRecord("1-aa", None, 50, None, 80.0, 0.2, "explains"),),
        ),
    )


def model_folder(folder: Path, content: bytes = b"{}") -> tuple[Path, str]:
    """Write a folder that looks like a model's; return it with its digest."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(content)
    (folder / "weights.safetensors").write_bytes(b"weights")
    return folder, f"sha256:{hashlib.sha256(content).hexdigest()}"


def version_record(
    key: str, digest: str, *, episode_record: EpisodeRecord | None = None
) -> ModelVersionRecord:
    packet = packet_digest(packet_html(episode_record)) if episode_record else None
    return ModelVersionRecord(
        key=key,
        run_key=episode_record.recipe_key("maml") if episode_record else key,
        at_ms=AT_MS,
        digest=digest,
        recipe="maml",
        reason="maml: query loss .05 against .45 of frozen",
        parent="1",
        packet_digest=packet,
        facts={"route": "*", "episode": episode_record.key if episode_record else ""},
    )
