"""Made-up pictures whose statistics are like those of photographs, from nothing but random numbers.

Two families, both studied as stand-ins for images by Baradad et al., "Learning to See by Looking at Noise" (2021,
arXiv 2106.05963): dead leaves (overlapping discs: edges and flat areas) and noise with a power spectrum 1/f^a.
All pictures are float32 (C, H, W) with values in [0, 1].
"""

from __future__ import annotations

import numpy as np

from lpcc.runtime.spec import Array

_CHROMA = 0.35  # share of colour beside brightness: the channels of photographs are strongly correlated
_LEAVES = 250  # enough to cover the ground
_ONE = np.float32(1)


def scene(rng: np.random.Generator, channels: int, height: int, width: int) -> Array:
    """A picture filled to its edges: dead leaves, sharp or soft, or noise; of more or less contrast."""
    kind = rng.integers(3)
    if kind == 0:
        picture = power_noise(rng, channels, height, width, 1.5)
    else:
        picture = dead_leaves(rng, channels, height, width, softness=float(kind))
    contrast = np.float32(rng.uniform(0.7, 1.3))
    half = np.float32(0.5)
    scaled: Array = np.clip((picture - half) * contrast + half, 0, 1)
    return scaled


def thing(rng: np.random.Generator, channels: int, height: int, width: int) -> Array:
    """A blob in the middle of a black ground, filled with dead leaves."""
    picture = dead_leaves(rng, channels, height, width, softness=1.0)
    rows, columns = np.ogrid[0:height, 0:width]
    inside = np.zeros((height, width), bool)
    for _ in range(3):
        y, x = rng.normal(0.5, 0.12, 2) * (height, width)
        ry, rx = rng.uniform(0.15, 0.42, 2) * (height, width)
        inside |= ((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 < 1
    return picture * inside


def dead_leaves(rng: np.random.Generator, channels: int, height: int, width: int, softness: float) -> Array:
    """Discs of random size, place and colour on top of each other, their edges `softness` pixels wide, with some grain.

    Radii are distributed as r^-3, which makes the picture look the same at every scale (Lee, Mumford and Huang 2001).
    """
    longest = max(height, width)
    smallest, largest = max(longest / 16, 1.0), max(longest / 2, 2.0)
    u = rng.random(_LEAVES)
    # The inverse of the distribution function of r^-3 between the two limits.
    radii = 1 / np.sqrt(u / largest**2 + (1 - u) / smallest**2)
    xs, ys = rng.uniform(0, width, _LEAVES), rng.uniform(0, height, _LEAVES)
    colours = _colours(rng, _LEAVES + 1, channels)
    image = np.empty((channels, height, width), np.float32)
    image[:] = colours[-1][:, np.newaxis, np.newaxis]
    for x, y, radius, colour in zip(xs, ys, radii, colours[:-1], strict=True):
        reach = radius + softness
        top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 1)
        left, right = max(0, int(x - reach)), min(width, int(x + reach) + 1)
        rows, columns = np.ogrid[top:bottom, left:right]
        distance = np.sqrt((rows - y) ** 2 + (columns - x) ** 2).astype(np.float32)
        cover = np.clip((np.float32(radius) - distance) / np.float32(softness) + np.float32(0.5), 0, 1)
        patch = image[:, top:bottom, left:right]
        patch *= _ONE - cover
        patch += cover * colour[:, np.newaxis, np.newaxis]
    grain = power_noise(rng, channels, height, width, 1.0) - np.float32(0.5)
    leaves: Array = np.clip(image + np.float32(0.1) * grain, 0, 1)
    return leaves


def power_noise(rng: np.random.Generator, channels: int, height: int, width: int, exponent: float) -> Array:
    """Gaussian noise whose amplitude falls with the frequency as 1/f^exponent."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)[np.newaxis])
    frequency[0, 0] = np.inf  # no mean: it is drawn below
    falloff = frequency**-exponent
    waves = np.fft.rfft2(rng.standard_normal((channels + 1, height, width))) * falloff
    maps = np.fft.irfft2(waves, s=(height, width))
    maps /= np.maximum(maps.std(axis=(1, 2), keepdims=True), 1e-12)
    mixed = np.sqrt(1 - _CHROMA**2) * maps[:1] + _CHROMA * maps[1:]
    means = rng.normal(0.5, 0.1, (1, 1, 1)) + _CHROMA * rng.normal(0, 0.1, (channels, 1, 1))
    contrast = rng.uniform(0.12, 0.3)
    noise: Array = np.clip(means + contrast * mixed, 0, 1).astype(np.float32)
    return noise


def _colours(rng: np.random.Generator, count: int, channels: int) -> Array:
    """Colours around a mood that the whole picture shares; float32 (count, C)."""
    bright = rng.uniform(0.25, 0.75) + rng.uniform(0.15, 0.45) * rng.uniform(-1, 1, (count, 1))
    tint = _CHROMA * (rng.uniform(-0.4, 0.4, (1, channels)) + rng.uniform(-0.5, 0.5, (count, channels)))
    colours: Array = np.clip(bright + (tint if channels > 1 else 0), 0, 1).astype(np.float32)
    return colours
