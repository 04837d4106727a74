"""Made-up pictures whose statistics are like those of photographs, from nothing but random numbers.

Two families, both studied as stand-ins for images by Baradad et al., "Learning to See by Looking at Noise" (2021,
arXiv 2106.05963): dead leaves (overlapping discs: edges and flat areas) and noise with a power spectrum 1/f^a.
"""

from __future__ import annotations

import numpy as np

from lpcc.runtime.spec import Array

_CHROMA = 0.35  # share of colour beside brightness: the channels of photographs are strongly correlated


def dead_leaves(rng: np.random.Generator, channels: int, height: int, width: int) -> Array:
    """Discs of random size, place and colour on top of each other; float32 (C, H, W) in [0, 1].

    Radii are distributed as r^-3, which makes the picture look the same at every scale (Lee, Mumford and Huang 2001).
    """
    longest = max(height, width)
    smallest, largest = max(longest / 64, 1.0), longest / 2
    count = 250
    u = rng.random(count)
    # The inverse of the distribution function of r^-3 between the two limits.
    radii = 1 / np.sqrt(u / largest**2 + (1 - u) / smallest**2)
    xs, ys = rng.uniform(0, width, count), rng.uniform(0, height, count)
    colours = _colours(rng, count + 1, channels)
    image = np.empty((channels, height, width), np.float32)
    image[:] = colours[-1][:, np.newaxis, np.newaxis]
    for x, y, radius, colour in zip(xs, ys, radii, colours, strict=False):
        top, bottom = max(0, int(y - radius)), min(height, int(y + radius) + 1)
        left, right = max(0, int(x - radius)), min(width, int(x + radius) + 1)
        rows, columns = np.ogrid[top:bottom, left:right]
        inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        image[:, top:bottom, left:right][:, inside] = colour[:, np.newaxis]
    grain = power_noise(rng, channels, height, width, 1.0) - np.float32(0.5)
    return np.clip(image + np.float32(0.3) * grain, 0, 1)


def power_noise(rng: np.random.Generator, channels: int, height: int, width: int, exponent: float) -> Array:
    """Gaussian noise whose amplitude falls with the frequency as 1/f^exponent; float32 (C, H, W) in [0, 1]."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)[np.newaxis])
    frequency[0, 0] = np.inf  # no mean: it is drawn below
    falloff = frequency**-exponent
    waves = np.fft.rfft2(rng.standard_normal((channels + 1, height, width))) * falloff
    maps = np.fft.irfft2(waves, s=(height, width))
    maps /= np.maximum(maps.std(axis=(1, 2), keepdims=True), 1e-12)
    mixed = np.sqrt(1 - _CHROMA**2) * maps[:1] + _CHROMA * maps[1:]
    means = rng.normal(0.5, 0.1, (1, 1, 1)) + _CHROMA * rng.normal(0, 0.1, (channels, 1, 1))
    contrast = rng.uniform(0.12, 0.3)
    return np.clip(means + contrast * mixed, 0, 1).astype(np.float32)


def _colours(rng: np.random.Generator, count: int, channels: int) -> Array:
    """Colours around a mood that the whole picture shares; float32 (count, C)."""
    bright = rng.uniform(0.25, 0.75) + rng.uniform(0.15, 0.45) * rng.uniform(-1, 1, (count, 1))
    tint = _CHROMA * (rng.uniform(-0.4, 0.4, (1, channels)) + rng.uniform(-0.5, 0.5, (count, channels)))
    colours: Array = np.clip(bright + (tint if channels > 1 else 0), 0, 1).astype(np.float32)
    return colours
