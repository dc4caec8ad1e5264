"""The parcels: scikit-learn's 1,797 scanned digits, in two halves that never meet.

One half, with the meta plans, serves learning before the stream; the stream draws from the other
half. Every appearance of an image has fresh noise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PIXELS = 64
NOISE = 0.1
"""Standard deviation of the scanner's noise, in units of full ink."""

Pixels = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """One half of the images.

    Attributes:
        pixels: ``(n, 64)``, in [0, 1].
        digits: ``(n,)`` what is written on each.
        names: ``n`` names, unique over both halves: the ``group`` of an image's events.
    """

    pixels: Pixels
    digits: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Both halves: images known before the stream, and those that only the stream shows."""

    learning: Half
    stream: Half


@dataclass(frozen=True, slots=True)
class Light:
    """How bright and how even the scanner's lamp is: pixel -> gain x pixel + glare."""

    gain: float = 1.0
    glare: float = 0.0


DAYLIGHT = Light()
DIM = Light(gain=0.85, glare=0.04)
"""Weaker contrast on a grey ground; every stroke is still plain to see."""


def split_images(seed: int) -> Images:
    """Return the halves, drawn anew for every seed."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    found = load_digits()
    pixels = np.asarray(found.data, np.float64) / 16.0
    digits = np.asarray(found.target, np.int64)
    order = np.random.default_rng([seed, 2]).permutation(len(pixels))
    middle = len(order) // 2
    halves = [
        Half(pixels[part], digits[part], tuple(f"scan-{i:04d}" for i in part.tolist()))
        for part in (order[:middle], order[middle:])
    ]
    return Images(*halves)


def scanned(pixels: Pixels, light: Light, rng: np.random.Generator) -> Pixels:
    """Return images as the scanner sees them, ``(n, 64)``, with fresh noise."""
    noise = rng.normal(0.0, NOISE, pixels.shape)
    seen: Pixels = np.round(light.gain * pixels + light.glare + noise, 3)
    return seen
