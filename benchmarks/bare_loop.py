"""The baseline of T12: poll, decode, one send per event, and nothing else.

Run as a program: prints one JSON line with events, CPU seconds and seconds spent collecting.
"""

import gc
import json
import resource
import sys
import time

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from pipeline.messages import Event, Prediction


def cpu_s() -> float:
    """Return user and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(bootstrap: str, prefix: str, events: int, warm_up: int, poll_size: int) -> None:
    """Read ``events`` events, counting CPU after the first ``warm_up``."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    partition = TopicPartition(f"{prefix}-events", 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        compression_type="lz4",
        batch_size=256 * 1024,
        linger_ms=1,
    )
    decode = msgspec.json.Decoder(Event).decode
    encode = msgspec.json.Encoder().encode
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    collecting, began = [0.0], [0.0]

    def watch(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            began[0] = time.perf_counter()
        else:
            collecting[0] += time.perf_counter() - began[0]

    gc.callbacks.append(watch)
    seen, start_cpu, start_seen, start_s = 0, 0.0, 0, 0.0
    deadline = time.monotonic() + 300
    while seen < events and time.monotonic() < deadline:
        if start_cpu == 0.0 and seen >= warm_up:
            start_cpu, start_seen, start_s, collecting[0] = cpu_s(), seen, time.perf_counter(), 0.0
        for records in consumer.poll(timeout_ms=100, max_records=poll_size).values():
            futures = []
            for record in records:
                event = decode(record.value)
                answer = Prediction(
                    id=event.id,
                    prediction="up",
                    model_version="1",
                    arm="stable",
                    route="*",
                    proba={"down": 0.25, "up": 0.75},
                )
                futures.append(producer.send(f"{prefix}-bare", encode(answer), event.id.encode()))
            producer.flush(timeout=30)
            seen += len(records)
    print(
        json.dumps(
            {
                "events": seen - start_seen,
                "cpu_s": cpu_s() - start_cpu,
                "wall_s": time.perf_counter() - start_s,
                "gc_s": collecting[0],
            }
        )
    )
    consumer.close(timeout_ms=2000)
    producer.close(timeout=2)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
