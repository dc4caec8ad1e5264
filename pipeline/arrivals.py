"""Models that were made outside the loop wait in the state folder until the daemon takes them."""

import json
from pathlib import Path

from pipeline.core_state import Core
from pipeline.records import ModelsFound

ARRIVALS = "arrivals.json"


def announce(state_dir: Path, found: ModelsFound) -> None:
    """Leave models for the next start; what is empty keeps what lay there before."""
    before = read(state_dir)
    merged = {
        "champion": found.champion or before.champion,
        "recipe": found.recipe if found.champion else before.recipe,
        "losses": list(found.losses if found.champion else before.losses),
        "meta_init": found.meta_init or before.meta_init,
        "recommended": found.recommended if found.meta_init else before.recommended,
    }
    state_dir.mkdir(parents=True, exist_ok=True)
    scratch = state_dir / f"{ARRIVALS}.new"
    scratch.write_text(json.dumps(merged), encoding="utf-8")
    scratch.replace(state_dir / ARRIVALS)


def read(state_dir: Path) -> ModelsFound:
    """Return what waits; nothing at all when there is no file."""
    path = state_dir / ARRIVALS
    if not path.exists():
        return ModelsFound("")
    facts = json.loads(path.read_text(encoding="utf-8"))
    return ModelsFound(
        champion=facts["champion"],
        recipe=facts["recipe"],
        losses=tuple(facts["losses"]),
        meta_init=facts["meta_init"],
        recommended=facts["recommended"],
    )


def new_to(core: Core, found: ModelsFound) -> bool:
    """Whether the state has not taken them yet."""
    champion = bool(found.champion) and not core.versions
    return champion or (bool(found.meta_init) and found.meta_init != core.meta_init)
