"""Where a step's time goes: the engine and its commit over polls from memory, by part.

The profiler inflates small calls, so read the shares, not the sums.
"""

import cProfile
import gc
import pstats
import shutil
import time
from pathlib import Path

import msgspec

from benchmarks.stage import labelled_rows, make_state
from pipeline import arrivals
from pipeline.fold import Fold, shelf_of, state_path
from pipeline.messages import Event, Label
from pipeline.records import Chunk, Poll
from pipeline.settings import parse_settings
from pipeline.state_file import StateFile

POLL = 2_000


def polls(events: int) -> list[Poll]:
    """Return polls of 2,000 events with a tenth of the labels a poll later."""
    x, labels = labelled_rows(events, 1)
    encode = msgspec.json.Encoder().encode
    made: list[Poll] = []
    late: list[bytes] = []
    for start in range(0, events, POLL):
        stop, now = min(start + POLL, events), 1_700_000_000_000 + start
        values = [
            encode(
                Event(
                    id=f"e-{i}",
                    features={f"f{k}": round(v, 6) for k, v in enumerate(x[i].tolist())},
                )
            )
            for i in range(start, stop)
        ]
        chunks = [Chunk("events", "e", 0, list(range(start, stop)), [now] * (stop - start), values)]
        if late:
            chunks.append(Chunk("labels", "l", 0, list(range(len(late))), [now] * len(late), late))
        made.append(Poll(tuple(chunks), now))
        late = [encode(Label(id=f"e-{i}", label=labels[i])) for i in range(start, stop, 10)]
    return made


def measure(folder: Path, events: int = 100_000) -> dict[str, object]:
    """Fold the polls twice, timed and then profiled; print both."""
    batches = polls(events)
    timings = []
    profile = cProfile.Profile()
    for profiled in (False, True):
        state = folder / f"profile{profiled}"
        shutil.rmtree(state, ignore_errors=True)
        make_state(state)
        settings = parse_settings({"model": {"name": "profile"}, "state_dir": str(state)})
        file = StateFile(state_path(state), "profile")
        file.acquire(time.time())
        fold = Fold(settings, file, shelf_of(state), time.time)
        fold.step(arrivals.read(state))
        gc.collect()
        gc.freeze()
        gc.set_threshold(200_000, 50, 100)
        began = time.process_time()
        if profiled:
            profile.enable()
        for poll in batches:
            fold.step(poll)
        if profiled:
            profile.disable()
        timings.append(1e6 * (time.process_time() - began) / events)
        file.close()
    stats = pstats.Stats(profile)
    total = stats.total_tt  # type: ignore[attr-defined]
    rows = [
        (Path(name).name, function, calls, own, whole)
        for (name, _, function), (_, calls, own, whole, _) in stats.stats.items()  # type: ignore[attr-defined]
    ]
    print(f"in memory, no broker: {timings[0]:.1f} us of CPU an event ({timings[1]:.1f} profiled)")
    print(f"{'share':>6} {'own':>6}  function")
    top = sorted(rows, key=lambda r: -r[4])[:45]
    for file_name, function, calls, own, whole in top:
        print(f"{whole / total:6.1%} {own / total:6.1%}  {file_name}:{function} ({calls} calls)")
    shares = {f"{f}:{fn}": round(whole / total, 4) for f, fn, _, _, whole in top}
    return {"cpu_us_per_event": timings[0], "shares": shares}


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch))
