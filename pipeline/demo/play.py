"""The producer process: plays the demo's script into the topics, and keeps its own record.

Run as ``python -m pipeline.demo.play SEED CONFIG SENT``; it begins at the first line on its
standard input, so that loading libraries takes none of the stream's time.
"""

import json
import sys
import time
from pathlib import Path

from pipeline.demo.script import Message, Script, write_script
from pipeline.kafka_producer import KafkaOutlet
from pipeline.producer import StopClock, stopping_on_signals
from pipeline.settings import load_settings


def main(arguments: list[str]) -> int:
    """Play the script; return the exit code."""
    seed, config, sent = int(arguments[0]), Path(arguments[1]), Path(arguments[2])
    kafka, script = load_settings(config).kafka, write_script(seed)
    clock = StopClock()
    with stopping_on_signals(clock), KafkaOutlet(kafka, ("events", "labels", "control")) as outlet:
        if not sys.stdin.readline():  # whoever started this is gone
            return 1
        record = play(script, outlet, clock)
    sent.write_text(json.dumps(record), encoding="utf-8")
    return 0


def play(script: Script, outlet: KafkaOutlet, clock: StopClock) -> dict[str, object]:
    """Send every message at its time; return when events and labels were sent, by position."""
    places = {name.encode(): k for k, name in enumerate(script.ids)}
    event_ms: list[int] = []
    label_ms: dict[int, int] = {}
    began_s = time.monotonic()
    for message in script.messages:
        late_s = time.monotonic() - began_s - message.at_s
        if late_s < 0 and clock.wait(-late_s):
            break
        _send(message, outlet, places, event_ms, label_ms)
    outlet.flush()
    return {"event_ms": event_ms, "label_ms": label_ms}


def _send(
    message: Message,
    outlet: KafkaOutlet,
    places: dict[bytes, int],
    event_ms: list[int],
    label_ms: dict[int, int],
) -> None:
    now_ms = time.time_ns() // 1_000_000
    outlet.send(message.topic, message.key, message.value)
    if message.topic == "events":
        event_ms.append(now_ms)
    elif message.topic == "labels" and message.key in places:
        label_ms.setdefault(places[message.key], now_ms)  # a correction is not the first label


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
