"""What happens before the stream: topics, first champion and meta-training, by the commands."""

import time

import yaml

from pipeline.demo.config import GROUP, LABEL, MODEL, TASK, demo_config
from pipeline.demo.folder import DemoFolder
from pipeline.demo.images import split_images
from pipeline.demo.learning import FEATURE, fitted_to, meta_examples
from pipeline.demo.plans import draw_plans
from pipeline.demo.processes import metadrift

COMMAND_S = 60.0
META_SECONDS = 40
"""Budget of each algorithm; a slow machine takes fewer meta-steps."""


def write_files(folder: DemoFolder, seed: int, bootstrap_servers: str) -> None:
    """Write the configuration, the rows of meta-training and the first champion's folder."""
    import pandas as pd

    from adapters.model_file import save_model

    # A broker that outlives the demo may hold an earlier demo's topics.
    prefix = f"{MODEL}-{time.time_ns() // 1_000_000_000:x}"
    config = demo_config(folder.state.resolve(), bootstrap_servers, prefix)
    folder.config.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    plans, half = draw_plans(seed), split_images(seed).learning
    data = meta_examples(plans.meta, half, seed)
    pixels = data.examples.rows.numbers
    rows = pd.DataFrame(pixels, columns=[f"{FEATURE}.{i}" for i in range(pixels.shape[1])])
    rows[LABEL], rows[TASK] = data.examples.labels, data.tasks
    rows[GROUP] = list(half.names) * len(plans.meta)
    rows.to_parquet(folder.learning)
    save_model(folder.champion, fitted_to(plans.first, half, seed))


def make_topics(folder: DemoFolder) -> None:
    """Make the topics, one partition each: the demo's claims count events in their order."""
    metadrift(
        "init", "--topics", "--partitions", "1", "-c", str(folder.config), timeout_s=COMMAND_S
    )


def import_champion(folder: DemoFolder) -> None:
    """Bring in the first champion."""
    metadrift(
        "model", "import", str(folder.champion), "-c", str(folder.config), timeout_s=COMMAND_S
    )


def meta_train(folder: DemoFolder, seed: int) -> None:
    """Meta-train Reptile and MAML in two processes, and register the meta-init."""
    metadrift(
        *("meta-train", str(folder.learning), "--label", LABEL, "--task", TASK, "--group", GROUP),
        *("--seed", str(seed), "--max-seconds", str(META_SECONDS), "--processes", "2"),
        *("-c", str(folder.config), "--json"),
        timeout_s=5 * COMMAND_S,
    )
