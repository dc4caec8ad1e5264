"""T12: the daemon's CPU per event against a bare kafka-python loop, in the same run.

Both read the same topic of a real Apache Kafka broker with the same poll size and collector
settings, and publish one prediction per event. The daemon does all it does in production: scores
with an MLP 8-64-64-2, joins labels of a tenth of the events, runs every default detector, writes
journal and state each poll. Its CPU is that of its main process (the loop); its two helper
processes are idle here.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from benchmarks.stage import fill, make_state, write_config
from tests.servers.kafka_broker import KafkaBroker
from tests.servers.leashed_process import LeashedProcess

WARM_UP = 20_000
POLL = 2_000
LONGEST_S = 300


def metric(text: str, name: str) -> float:
    """Return the first sample of a metric."""
    for line in text.splitlines():
        if line.startswith(name + "{"):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def bare(broker: KafkaBroker, prefix: str, events: int) -> dict[str, float]:
    """Run the baseline once."""
    program = [sys.executable, "-m", "benchmarks.bare_loop"]
    done = subprocess.run(
        [*program, broker.bootstrap_servers, prefix, str(events), str(WARM_UP), str(POLL)],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def daemon(config: Path, state: Path, log: Path, events: int) -> dict[str, float]:
    """Run the daemon over the whole topic once; count after the warm-up."""
    process = LeashedProcess(
        [str(Path(sys.executable).parent / "metadrift"), "run", "-c", str(config)], log=log
    )
    try:
        deadline, start = time.monotonic() + LONGEST_S, None
        while time.monotonic() < deadline and process.alive:
            time.sleep(0.5)  # a look at /metrics costs the daemon milliseconds
            try:
                address = json.loads((state / "http.json").read_text(encoding="utf-8"))
                text = httpx.get(f"http://127.0.0.1:{address['port']}/metrics", timeout=5).text
            except (OSError, ValueError, httpx.HTTPError):
                continue
            seen = metric(text, "metadrift_events_total")
            main = next(
                (
                    p
                    for p in psutil.process_iter(["cmdline"])
                    if _is_ours(p.info["cmdline"], config)
                ),
                None,
            )
            if main is None:
                continue
            used = main.cpu_times()
            now = (
                seen,
                used.user + used.system,
                time.perf_counter(),
                metric(text, "metadrift_gc_seconds"),
            )
            if start is None and seen >= WARM_UP:
                start = now
            if start is not None and seen >= events:
                return {
                    "events": now[0] - start[0],
                    "cpu_s": now[1] - start[1],
                    "wall_s": now[2] - start[2],
                    "gc_s": now[3] - start[3],
                    "labels": metric(text, "metadrift_labels_total"),
                }
        raise RuntimeError(f"the daemon did not get through: {process.output()[-2000:]}")
    finally:
        process.terminate(within_s=20)


def _is_ours(cmdline: list[str] | None, config: Path) -> bool:
    return bool(cmdline) and "python" in cmdline[0] and cmdline[-1] == str(config)


def measure(broker: KafkaBroker, folder: Path, events: int, rounds: int) -> dict[str, object]:
    """Return CPU per event of both, round by round, interleaved."""
    rows = []
    for number in range(rounds):
        prefix, state = f"cost{number}", folder / f"cost{number}"
        make_state(state)
        config = folder / f"cost{number}.yaml"
        write_config(config, broker, state, prefix)
        broker.create_topics({f"{prefix}-bare": 1})
        fill(broker, prefix, events, 0.1, seed=number)
        loop = bare(broker, prefix, events)
        ours = daemon(config, state, folder / f"cost{number}.log", events)
        rows.append({"bare": loop, "daemon": ours})
        b, d = (1e6 * r["cpu_s"] / r["events"] for r in (loop, ours))
        gc_us = [1e6 * r["gc_s"] / r["events"] for r in (loop, ours)]
        print(
            f"round {number}: bare {b:.1f} us of CPU an event, daemon {d:.1f} us, "
            f"ratio {d / b:.2f}; daemon {ours['events'] / ours['wall_s']:.0f} events/s; "
            f"collections {gc_us[0]:.2f} and {gc_us[1]:.2f} us"
        )
    return {"rounds": rows, "poll": POLL, "events": events}
