"""Made-up pictures whose statistics are like those of photographs, from nothing but random numbers.

Two families, both studied as stand-ins for images by Baradad et al., "Learning to See by Looking at Noise" (2021,
arXiv 2106.05963): dead leaves (overlapping discs: edges and flat areas) and noise with a power spectrum 1/f^a; and both
in one, leaves of several shapes that are filled with noise and stripes.
All pictures are float32 (C, H, W) with values in [0, 1].
"""

from __future__ import annotations

import numpy as np

from lpcc.runtime.spec import Array

_CHROMA = 0.35  # share of colour beside brightness: the channels of photographs are strongly correlated
_LEAVES = 250  # enough to cover the ground
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_FABRICS = (4, 3)  # how many fillings of a collage are noise, how many stripes


def scene(rng: np.random.Generator, channels: int, height: int, width: int) -> Array:
    """A picture filled to its edges: dead leaves, sharp or soft, or noise; of more or less contrast."""
    kind = rng.integers(3)
    if kind == 0:
        picture = power_noise(rng, channels, height, width, 1.5)
    else:
        picture = dead_leaves(rng, channels, height, width, softness=float(kind))
    return _contrasted(rng, picture)


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


def collage(rng: np.random.Generator, channels: int, height: int, width: int) -> Array:
    """Dead leaves that have fabrics: ellipses and boxes, turned, each filled with noise or stripes and shaded.

    Photographs are full of texture at all scales. Plain leaves lack it: what reads edges and stripes stays too quiet.
    Contrast between neighbours is half as much again as in photographs.
    """
    longest = max(height, width)
    radii = _radii(rng, max(longest / 24, 1.0), max(longest / 2, 2.0))
    noises, stripes = _FABRICS
    fabrics = [_spectrum(rng, height, width, exponent) for exponent in rng.uniform(0.3, 1.8, noises)]
    fabrics += [_stripes(rng, height, width) for _ in range(stripes)]
    bright, spread = rng.uniform(0.3, 0.65), rng.uniform(0.25, 0.5)
    colourful = channels > 1
    mood = rng.uniform(-0.175, 0.175, channels) * colourful
    softness = np.exp(rng.uniform(np.log(0.7), np.log(2.5)))

    def fill(rows: slice, columns: slice, slope: Array | float) -> Array:
        colour = bright + spread * rng.uniform(-1, 1) + mood + _CHROMA * rng.uniform(-0.5, 0.5, channels) * colourful
        fabric = fabrics[rng.integers(len(fabrics))][rows, columns]
        relief = np.float32(0.2 * rng.exponential(0.6)) * fabric + np.float32(rng.normal(0, 0.25)) * slope
        tints = 1 + 0.3 * rng.uniform(-1, 1, channels) * colourful
        filled: Array = colour.astype(np.float32)[:, None, None] + relief * tints.astype(np.float32)[:, None, None]
        return filled

    image = fill(slice(None), slice(None), 0.0)
    for radius in radii:
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        angle, squeeze, box = rng.uniform(0, np.pi), rng.uniform(0.5, 1), rng.random() < 0.4
        reach = radius * (np.sqrt(2) if box else 1) + softness
        rows = slice(max(0, int(y - reach)), min(height, int(y + reach) + 1))
        columns = slice(max(0, int(x - reach)), min(width, int(x + reach) + 1))
        down, right = np.ogrid[rows, columns]
        down, right = (down - y).astype(np.float32), (right - x).astype(np.float32)
        sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
        along, across = right * cosine + down * sine, (down * cosine - right * sine) / np.float32(squeeze)
        distance = np.maximum(np.abs(along), np.abs(across)) if box else np.hypot(along, across)
        cover = np.clip((np.float32(radius) - distance) / np.float32(softness) + _HALF, 0, 1)
        patch = image[:, rows, columns]
        patch += cover * (fill(rows, columns, along / np.float32(radius)) - patch)
    image += np.float32(rng.uniform(0, 0.03)) * _spectrum(rng, height, width, rng.uniform(0, 1))
    return _contrasted(rng, image)


def dead_leaves(rng: np.random.Generator, channels: int, height: int, width: int, softness: float) -> Array:
    """Discs of random size, place and colour on top of each other, their edges `softness` pixels wide, with some grain.

    Radii are distributed as r^-3, which makes the picture look the same at every scale (Lee, Mumford and Huang 2001).
    """
    longest = max(height, width)
    smallest, largest = max(longest / 16, 1.0), max(longest / 2, 2.0)
    radii = _radii(rng, smallest, largest)
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


def _contrasted(rng: np.random.Generator, picture: Array) -> Array:
    """The picture with more or less contrast, within [0, 1]."""
    contrast = np.float32(rng.uniform(0.7, 1.3))
    scaled: Array = np.clip((picture - _HALF) * contrast + _HALF, 0, 1)
    return scaled


def _radii(rng: np.random.Generator, smallest: float, largest: float) -> Array:
    """Radii distributed as r^-3 between the two: by the inverse of the distribution function."""
    u = rng.random(_LEAVES)
    radii: Array = 1 / np.sqrt(u / largest**2 + (1 - u) / smallest**2)
    return radii


def _spectrum(rng: np.random.Generator, height: int, width: int, exponent: float) -> Array:
    """A map of noise 1/f^exponent of mean 0 and deviation 1, float32 (H, W)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)[np.newaxis])
    frequency[0, 0] = np.inf
    waves = np.fft.rfft2(rng.standard_normal((height, width))) * frequency**-exponent
    noise = np.fft.irfft2(waves, s=(height, width))
    scaled: Array = (noise / max(noise.std(), 1e-12)).astype(np.float32)
    return scaled


def _stripes(rng: np.random.Generator, height: int, width: int) -> Array:
    """Stripes of one width and direction, soft or sharp, straight or bent, in [-1.2, 1.2], float32 (H, W)."""
    down, right = np.ogrid[0:height, 0:width]
    angle = rng.uniform(0, np.pi)
    period = np.exp(rng.uniform(np.log(2.5), np.log(max(3.0, min(height, width) / 4))))
    phase = (right * np.cos(angle) + down * np.sin(angle)) * (2 * np.pi / period) + rng.uniform(0, 2 * np.pi)
    bent = phase + rng.uniform(0, 2) * _spectrum(rng, height, width, 1.5)
    stripes: Array = (1.2 * np.clip(rng.uniform(1, 4) * np.sin(bent), -1, 1)).astype(np.float32)
    return stripes


def _colours(rng: np.random.Generator, count: int, channels: int) -> Array:
    """Colours around a mood that the whole picture shares; float32 (count, C)."""
    bright = rng.uniform(0.25, 0.75) + rng.uniform(0.15, 0.45) * rng.uniform(-1, 1, (count, 1))
    tint = _CHROMA * (rng.uniform(-0.4, 0.4, (1, channels)) + rng.uniform(-0.5, 0.5, (count, channels)))
    colours: Array = np.clip(bright + (tint if channels > 1 else 0), 0, 1).astype(np.float32)
    return colours
