"""``make bench``: T11 and T12 against a real Apache Kafka broker, printed as they are.

Writes docs/results/speed.json and docs/results/speed.md.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks import daemon_cost, reaction_time, step_profile
from benchmarks.machine import SERVICE, machine
from benchmarks.results import keep, words
from tests.servers.kafka_broker import KafkaBroker


def main() -> None:
    """Run both, print, and keep the numbers."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--events", type=int, default=150_000, help="per round of T12")
    options.add_argument("--rounds", type=int, default=3, help="of T12")
    options.add_argument("--announcements", type=int, default=30, help="of T11")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "kafka").mkdir()
        broker = KafkaBroker(folder / "kafka")
        broker.start()
        try:
            print("T12: CPU per event against a bare kafka-python loop (target <= 1.6)")
            cost = daemon_cost.measure(broker, folder, chosen.events, chosen.rounds)
            print("\nT11: last needed label to first adapted answer (target p95 <= 1 s)")
            reaction = reaction_time.measure(broker, folder, chosen.announcements)
        finally:
            broker.stop()
        print("\nWhere a step's time goes")
        profile = step_profile.measure(folder)
    found = {"machine": machine(*SERVICE), "t12": cost, "t11": reaction, "profile": profile}
    keep("speed", page(found), found)


def page(found: dict) -> str:  # type: ignore[type-arg]
    """Return the results as a page."""
    cost, reaction, profile = found["t12"], found["t11"], found["profile"]
    lines = [
        "# Speed",
        "",
        "Command: `make bench`. " + words(found["machine"]) + ".",
        "",
        "## T12: CPU per event against a bare kafka-python loop",
        "",
        "| round | bare loop, us | daemon, us | ratio | daemon, events/s |",
        "|---|---|---|---|---|",
    ]
    for number, row in enumerate(cost["rounds"]):
        b, d = (1e6 * row[k]["cpu_s"] / row[k]["events"] for k in ("bare", "daemon"))
        rate = row["daemon"]["events"] / row["daemon"]["wall_s"]
        lines.append(f"| {number} | {b:.1f} | {d:.1f} | {d / b:.2f} | {rate:.0f} |")
    lines += [
        "",
        f"Polls of {cost['poll']}, {cost['events']} events a round, the first 20,000 not counted; "
        "a tenth of the labels; collector settings alike. Target: 1.6.",
        "",
        "## T11: last needed label to the first answer by the adapted model",
        "",
        f"Median {reaction['p50_s'] * 1000:.0f} ms, p95 {reaction['p95_s'] * 1000:.0f} ms over "
        f"{len(reaction['seconds'])} announced tasks ({reaction['refused']} more were refused by "
        "the gate). Target: p95 1 s.",
        "",
        "## Where a step's time goes",
        "",
        f"In memory, without a broker: {profile['cpu_us_per_event']:.1f} us of CPU an event. "
        "Cumulative shares under cProfile:",
        "",
        "| share | function |",
        "|---|---|",
    ]
    lines += [f"| {share:.1%} | `{name}` |" for name, share in profile["shares"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
