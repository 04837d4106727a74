"""Samples made up for a model whose data is not at hand.

A batch norm remembers the mean and variance that its input had over the training images. Images are good stand-ins when
they give the same moments. ZeroQ (Cai et al. 2020, arXiv 2001.00281) finds such images by gradient descent on the
pixels; here no gradients are needed: pictures of natural statistics (see `lpcc.data.textures`) are scaled and shifted,
``x = scale * pixel + offset[channel]``, and the kind of picture, the scale and the offsets are searched so that

    mean over batch norms and channels of  min(((m - mu) / sigma)^2 + log(s / sigma)^2, 9)

is least, where (mu, sigma) are the remembered moments and (m, s) those that the pictures cause. That is enough to learn
how the network's images were normalised, which decides the ranges of all its activations.

Where batch norms are folded away, activations with an upper limit, such as ReLU6, still tell images of variance about 1
from bytes: too small a scale leaves them idle, too large a one drives them into their limits (see `lpcc.data.limits`).
What they do not tell apart is covered by one range for all: [-2.1, 2.3] holds [0, 1] and [-1, 1] too, [-128, 256] all
bytes. Activations quantised for too wide a range lose little; for one too narrow, much. That is also why these pictures
are full of texture (collages): without it early layers stay quieter than on photographs, and no batch norm would tell.
A preprocessing that the user states says more than either. A network of which nothing is known says nothing about its
images: they are taken to have mean 0 and variance 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from lpcc.data.limits import LimitProbe
from lpcc.data.moments import MomentProbe
from lpcc.data.rows import sample_axis, without_axis
from lpcc.data.source import Block
from lpcc.data.textures import collage, scene, thing
from lpcc.errors import DataError, ModelError
from lpcc.runtime.spec import Array, TensorSpec

if TYPE_CHECKING:
    import onnx

    from lpcc.data.preprocess import Preprocess


Kind = Literal["scene", "thing", "collage"]
_DRAW = {"scene": scene, "thing": thing, "collage": collage}
Picture = Callable[[Kind, int, int], Array]
"""The picture of a kind for the input at a place and the sample of an index."""


@dataclass(frozen=True)
class Look:
    """What the made-up images are like."""

    kind: Kind = "scene"
    scale: float = 4.4
    offset: tuple[float, ...] = (-2.1,)
    """One number for all channels, or one per channel. These defaults give mean about 0 and variance about 1."""

    def __str__(self) -> str:
        return f"{self.kind}s in [{min(self.offset):.3g}, {max(self.offset) + self.scale:.3g}]"

    @classmethod
    def stated(cls, recipe: Preprocess) -> Look:
        """What pixels of 0 to 255 become by a preprocessing; one scale for all channels, their mean."""
        std = np.asarray(recipe.std, np.float64)
        offset = -np.asarray(recipe.mean, np.float64) / std
        return cls(scale=float((255 / recipe.divide / std).mean()), offset=tuple(np.atleast_1d(offset).tolist()))

    def develop(self, pixels: Array) -> Array:
        """A picture as the model takes it, float32 (..., C, H, W)."""
        offset = np.asarray(self.offset, np.float32)[:, np.newaxis, np.newaxis]
        image: Array = np.float32(self.scale) * pixels + offset
        return image


_STARTS = tuple(
    Look(scale=scale, offset=(offset,))
    for scale, offset in ((4.4, -2.1), (1.0, 0.0), (2.0, -1.0), (255.0, 0.0), (255.0, -128.0))
)
_GENEROUS = (Look("collage"), Look("collage", scale=384.0, offset=(-128.0,)))
"""Looks that hold all the usual ones of their scale, and texture that wakes what reads it."""
_PROBES = 8  # images per candidate, fewer of large ones
_PROBE_VALUES = 1_200_000
_SIZES = (256, 320, 128, 64, 32, 16, 8)  # tried in turn when the model does not run with the size asked for
_STEPS = (0.35, 0.2, 0.1)  # of the refinement, relative to the scale
_MUCH_BETTER = 0.6  # share of the scenes' mismatch below which things are believed: most networks look at scenes


class SyntheticSource:
    """Made-up samples for inputs of any type: images where an input looks like one, else random values.

    The n-th sample depends on the seed and n alone, and is made when it is asked for. Raises DataError for inputs that
    cannot be made up.
    """

    labelled = False

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        model: onnx.ModelProto | None,
        count: int,
        seed: int,
        size: int,
        recipe: Preprocess | None = None,
        limits: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """Make up samples with the `recipe` by which images become inputs, or by what the model tells of them.

        `limits` gives, by name of an activation, the least and the greatest number that it can hold.
        """
        if count < 1:
            raise DataError(f"synthesised data: {count} samples asked for; it takes at least 1")
        self._count = count
        self._seed = seed
        self._rows = _sized(inputs, size)
        self._limits = {} if model is None else _table_sizes(model)
        self._stated = recipe is not None
        self._look = Look() if recipe is None else Look.stated(recipe)
        self._clipped = dict(limits or {})
        self.description = f"{count} synthesised samples"
        images = [spec for spec in self._rows if _channel_axis(spec) is not None]
        if images and model is not None:
            self._match(model, inputs, size)
        if images:
            self.description += f": {self._look}"

    def __len__(self) -> int:
        return self._count

    def blocks(self, size: int) -> Iterator[Block]:
        """The samples in order, `size` at a time, fewer in the last block."""
        for start in range(0, self._count, size):
            stop = min(start + size, self._count)
            yield Block(self._samples(self._look, start, stop, self._picture), None)

    def _samples(self, look: Look, start: int, stop: int, picture: Picture) -> dict[str, Array]:
        arrays = {}
        for place, spec in enumerate(self._rows):
            axis = _channel_axis(spec)
            if axis is None:
                samples = [self._value(place, index) for index in range(start, stop)]
            else:
                used = look if spec.dtype != np.uint8 else replace(look, scale=255.0, offset=(0.0,))
                images = [used.develop(picture(look.kind, place, index)) for index in range(start, stop)]
                samples = [np.moveaxis(image, 0, axis).astype(spec.dtype) for image in images]
            arrays[spec.name] = np.stack(samples)
        return arrays

    def _picture(self, kind: Kind, place: int, index: int) -> Array:
        """The picture behind sample `index` of the input at `place`: float32 (C, H, W) in [0, 1]."""
        spec = self._rows[place]
        shape = _fixed(spec)
        channels, height, width = shape if _channel_axis(spec) == 0 else (shape[2], shape[0], shape[1])
        return _DRAW[kind](self._rng(place, index), channels, height, width)

    def _value(self, place: int, index: int) -> Array:
        """Sample `index` of the input at `place`, which is no image."""
        spec, rng = self._rows[place], self._rng(place, index)
        shape, dtype = _fixed(spec), np.dtype(spec.dtype)
        if dtype.kind == "b":
            return rng.random(shape) < 0.5
        if dtype.kind in "iu":
            limit = min(self._limits.get(spec.name, 10), np.iinfo(dtype).max)
            return rng.integers(0, limit, shape).astype(dtype)
        return np.asarray(rng.standard_normal(shape)).astype(dtype)

    def _rng(self, place: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, index, place])

    def _match(self, model: onnx.ModelProto, inputs: Sequence[TensorSpec], size: int) -> None:
        """Choose sizes that the model runs with, then the look that its batch norms know best."""
        sampled, fixed = sample_axis(inputs)
        picture: Picture = self._picture

        def batches(look: Look, count: int) -> Iterator[dict[str, Array]]:
            rows = (fixed or count) if sampled else 1
            for start in range(0, count, rows):
                arrays = self._samples(look, start, start + rows, picture)
                yield arrays if sampled else {name: array[0] for name, array in arrays.items()}

        try:
            probe = MomentProbe(model)
        except ModelError:
            return  # whoever runs the model next says why
        for other in (size, *_SIZES):  # sizes that are free by their type may be tied by what the model does
            self._rows = _sized(inputs, other)
            picture = lru_cache(maxsize=64)(self._picture)  # candidates differ in scale and offset: draw once
            try:
                probe.run(next(batches(self._look, 1)))
                break
            except ModelError:
                continue
        else:
            self._rows = _sized(inputs, size)
            return
        values = sum(math.prod(_fixed(spec)) for spec in self._rows)
        count = max(2, min(_PROBES, _PROBE_VALUES // values))

        def mismatch(look: Look) -> float:
            return probe.mismatch(batches(look, count))

        if len(probe) > 0 and self._stated:
            scenes, things = self._look, replace(self._look, kind="thing")
            self._look = things if mismatch(things) < _MUCH_BETTER * mismatch(scenes) else scenes
        elif len(probe) > 0:
            self._look, left = _search(mismatch, self._colours())
            self.description += f", matched to {len(probe)} batch norms (mismatch {left:.2f})"
        elif self._clipped and self._stated:
            self._look = replace(self._look, kind="collage")
        elif self._clipped:
            limited = LimitProbe(model, self._clipped)
            self._look = min(_GENEROUS, key=lambda look: limited.strain(batches(look, count)))
            self.description += f", scaled as suits {len(self._clipped)} limited activations"

    def _colours(self) -> int:
        """Channels of the image inputs where they agree, else 1."""
        axes = [(spec, _channel_axis(spec)) for spec in self._rows]
        counts = {_fixed(spec)[axis] for spec, axis in axes if axis is not None}
        return counts.pop() if len(counts) == 1 else 1


def _search(mismatch: Callable[[Look], float], channels: int) -> tuple[Look, float]:
    """The look of least mismatch, and the mismatch: the best start, refined for each kind of picture."""
    start, least = _best(mismatch, _STARTS, Look(), np.inf)
    best, least = _refined(mismatch, start, least, channels)
    other = replace(best, kind="thing")
    other, lesser = _refined(mismatch, other, mismatch(other), channels)
    return (other, lesser) if lesser < _MUCH_BETTER * least else (best, least)


def _refined(mismatch: Callable[[Look], float], best: Look, least: float, channels: int) -> tuple[Look, float]:
    """Small steps of scale and offset, all channels together, in the end each for itself."""
    together = [(1,) * channels]
    each = [tuple(int(c == k) for c in range(channels)) for k in range(channels)] if 1 < channels <= 4 else []
    for step in _STEPS:
        middle = [offset + best.scale / 2 for offset in best.offset]
        scales = [best.scale * (1 + step), best.scale / (1 + step)]
        # About the middle, so that contrast and brightness are apart.
        wider = [replace(best, scale=s, offset=tuple(m - s / 2 for m in middle)) for s in scales]
        best, least = _best(mismatch, wider, best, least)
        for direction in together + (each if step == _STEPS[-1] else []):
            shifts = [np.multiply(direction, sign * step / 2 * best.scale) for sign in (1, -1)]
            moved = [replace(best, offset=tuple(np.add(best.offset, shift).tolist())) for shift in shifts]
            best, least = _best(mismatch, moved, best, least)
    return best, least


def _best(
    mismatch: Callable[[Look], float], candidates: Sequence[Look], best: Look, least: float
) -> tuple[Look, float]:
    for look in candidates:
        found = mismatch(look)
        if found < least:
            best, least = look, found
    return best, least


def _one_at_a_time(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Inputs without a common sample axis: a free dimension in front is 1, as is any other of its name.

    So costs are told for them, too.
    """
    names = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)}

    def sized(spec: TensorSpec) -> TensorSpec:
        if spec.shape is None:
            return spec
        first = tuple(1 if not isinstance(d, int) else d for d in spec.shape[:1])
        return replace(spec, shape=(*first, *(1 if d in names else d for d in spec.shape[1:])))

    return tuple(map(sized, inputs))


def _sized(inputs: Sequence[TensorSpec], size: int) -> tuple[TensorSpec, ...]:
    """The inputs of one sample with every free dimension fixed: channels of images to 3, all others to `size`."""
    sampled, _ = sample_axis(inputs)
    rows = without_axis(inputs) if sampled else _one_at_a_time(inputs)
    sized = []
    for spec in rows:
        if spec.shape is None or spec.dtype is None or spec.dtype.hasobject:
            raise DataError(f"input `{spec}` cannot be made up: give data for it")
        shape = [d if isinstance(d, int) else size for d in spec.shape]
        if len(shape) == 3 and not isinstance(spec.shape[0], int) and spec.shape[2] not in (1, 3):
            shape[0] = 3
        sized.append(replace(spec, shape=tuple(shape)))
    return tuple(sized)


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(d for d in spec.shape or () if isinstance(d, int))


def _channel_axis(spec: TensorSpec) -> int | None:
    """Which axis of a sample of this shape is the channels, if it is an image: numbers in three dimensions."""
    shape = _fixed(spec)
    if len(shape) != 3 or spec.dtype is None or (spec.dtype.kind not in "fV" and spec.dtype != np.uint8):
        return None
    return 2 if shape[2] in (1, 3) and shape[0] not in (1, 3) else 0


def _table_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """For inputs that index a table of the model's (an embedding): how many rows it has."""
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    sizes = {}
    for node in model.graph.node:
        if node.op_type == "Gather" and len(node.input) == 2 and tables.get(node.input[0]):
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            sizes[node.input[1]] = int(tables[node.input[0]][axis])
    return sizes
