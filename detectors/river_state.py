"""A River detector's fields as plain data and back, without pickle.

What is filled is a fresh detector made with the same parameters, so its nested objects (running
means, deques, the Rust windows) exist already and only take their values.
"""

import random
import types
from collections import deque
from typing import Protocol, cast

import numpy as np

from detectors.snapshot_format import State


class _Rust(Protocol):
    def __getstate__(self) -> bytes: ...

    def __setstate__(self, state: bytes) -> None: ...


def fields_of(thing: object) -> dict[str, object]:
    """The fields that make up its state."""
    # A bound method (PageHinkley's test) follows from the parameters.
    return {
        key: value for key, value in vars(thing).items() if not isinstance(value, types.MethodType)
    }


def pack_field(value: object) -> State:
    """A field as plain data: scalars as they are, all else as a map with one tag."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, deque):
        return {"deque": [pack_field(item) for item in value], "maxlen": value.maxlen}
    if isinstance(value, random.Random):
        version, words, gauss = value.getstate()
        return {"random": [version, list(words), gauss]}
    if type(value).__module__.startswith("river._river_rust"):
        return {"rust": cast("_Rust", value).__getstate__()}
    if any(kind.__module__.startswith("river.") for kind in type(value).__mro__):
        return {"object": {key: pack_field(item) for key, item in fields_of(value).items()}}
    raise TypeError(f"a River detector keeps a {type(value)!r}; teach river_state.py it")


def fill(thing: object, fields: dict[str, object]) -> None:
    """Give a fresh object the packed fields; nested objects are filled in place."""
    present = vars(thing)
    for key, packed in fields.items():
        if not isinstance(packed, dict):
            present[key] = packed
        elif "deque" in packed:
            present[key] = deque(packed["deque"], maxlen=packed["maxlen"])
        elif "random" in packed:
            version, words, gauss = packed["random"]
            present[key].setstate((version, tuple(words), gauss))
        elif "rust" in packed:
            cast("_Rust", present[key]).__setstate__(packed["rust"])
        else:
            fill(present[key], packed["object"])
