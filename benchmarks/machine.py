"""What a benchmark's numbers were measured on."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

SERVICE = ("metadrift", "kafka-python", "torch", "river", "numpy", "msgspec")
"""What a daemon's numbers depend on."""


def machine(*libraries: str) -> dict[str, str]:
    """Return date, cores, processor, Python and the versions of ``libraries``."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }


def _processor() -> str:
    """Return the processor's name, with its model number where the name says little."""
    described: dict[str, str] = {}
    source = Path("/proc/cpuinfo")
    for line in source.read_text(encoding="utf-8").splitlines() if source.exists() else ():
        key, _, value = line.partition(":")
        described.setdefault(key.strip(), value.strip())
    if "model name" not in described:
        return platform.processor() or platform.machine()
    return f"{described['model name']}, family {described['cpu family']} model {described['model']}"
