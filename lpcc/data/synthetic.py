"""Samples made up for a model whose data is not at hand.

A batch norm remembers the mean and variance that its input had over the training images. Images are good stand-ins when
they give the same moments. ZeroQ (Cai et al. 2020, arXiv 2001.00281) finds such images by gradient descent on the
pixels; here no gradients are needed: pictures of natural statistics (see `lpcc.data.textures`) are scaled and shifted,
``x = scale * pixel + offset[channel]``, and the family of pictures, the scale and the offsets are searched so that

    mean over batch norms and channels of  min(((m - mu) / sigma)^2 + log(s / sigma)^2, 9)

is least, where (mu, sigma) are the remembered moments and (m, s) those that the pictures cause. That is enough to learn
how the network's images were normalised, which decides the ranges of all its activations.

A network without batch norm says nothing about its images: they are then taken to have mean 0 and variance 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcc.data.rows import without_axis
from lpcc.data.source import Block
from lpcc.data.textures import dead_leaves, power_noise
from lpcc.errors import DataError, ModelError
from lpcc.runtime.spec import Array, TensorSpec

if TYPE_CHECKING:
    import onnx

    from lpcc.runtime.session import Session


@dataclass(frozen=True)
class Look:
    """What the made-up images are like."""

    exponent: float | None = None
    """Of the noise's spectrum; None for dead leaves."""
    scale: float = 4.4
    offset: tuple[float, ...] = (-2.1,)
    """One number for all channels, or one per channel. These defaults give mean about 0 and variance about 1."""

    def __str__(self) -> str:
        kind = "dead leaves" if self.exponent is None else f"1/f^{self.exponent:g} noise"
        low, high = min(self.offset), max(self.offset) + self.scale
        return f"{kind} in [{low:.3g}, {high:.3g}]"

    def draw(self, rng: np.random.Generator, channels: int, height: int, width: int) -> Array:
        """An image, float32 (C, H, W)."""
        if self.exponent is None:
            pixels = dead_leaves(rng, channels, height, width)
        else:
            pixels = power_noise(rng, channels, height, width, self.exponent)
        offset = np.asarray(self.offset, np.float32)[:, np.newaxis, np.newaxis]
        image: Array = np.float32(self.scale) * pixels + offset
        return image


_STARTS = tuple(
    Look(scale=scale, offset=(offset,))
    for scale, offset in ((4.4, -2.1), (1.0, 0.0), (2.0, -1.0), (255.0, 0.0), (255.0, -128.0))
)
_EXPONENTS = (0.75, 1.0, 1.5)
_PROBES = 8  # images per candidate
_WORST = 9.0  # a channel that is further off than this counts no more: dead channels have no spread to speak of


class SyntheticSource:
    """Made-up samples for inputs of any type: images where an input looks like one, else random values.

    The n-th sample depends on the seed and n alone, and is made when it is asked for.
    """

    labelled = False

    def __init__(
        self, inputs: Sequence[TensorSpec], model: onnx.ModelProto | None, count: int, seed: int, size: int
    ) -> None:
        if count < 1:
            raise DataError(f"synthesised data: {count} samples asked for; it takes at least 1")
        self._count = count
        self._seed = seed
        self._look = Look()
        self._limits: dict[str, int] = {}
        self._rows = _sized(without_axis(inputs), size)
        self.description = f"{count} synthesised samples"
        images = [spec for spec in self._rows if _channel_axis(spec) is not None]
        if model is not None:
            self._limits = _table_sizes(model)
            if images:
                self._match(model, inputs, images)
        if images:
            self.description += f" ({self._look})"

    def __len__(self) -> int:
        return self._count

    def blocks(self, size: int) -> Iterator[Block]:
        """The samples in order, `size` at a time, fewer in the last block."""
        for start in range(0, self._count, size):
            samples = [self._sample(self._look, index) for index in range(start, min(start + size, self._count))]
            yield Block({spec.name: np.stack([s[spec.name] for s in samples]) for spec in self._rows}, None)

    def _sample(self, look: Look, index: int) -> dict[str, Array]:
        sample = {}
        for place, spec in enumerate(self._rows):
            rng = np.random.default_rng([self._seed, index, place])
            sample[spec.name] = _value(rng, spec, look, self._limits.get(spec.name, 10))
        return sample
