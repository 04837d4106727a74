"""Constants of integers that are trained: weights in 2 to 16 bits, and biases of integer kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import nn

from lpcc.analysis.packed import Part
from lpcc.formats.affine import least_scales
from lpcc.train.latents.latent import Array, Latent, Tensor
from lpcc.train.latents.scale import Scale
from lpcc.train.operators.rounding import FakeQuantize, Through, spread
from lpcc.train.tensors import array_of, tensor_of

_MOST_BIAS = 2**31 - 1
_CELL = 0.499  # how far from its integer a weight may start, in steps


@dataclass(frozen=True, eq=False)
class Integers:
    """Integers as the graph holds them: its constants, each with its indices along `split`, and what they stand for.

    ``number = scale * (integer - zero)``, with a scale for each index of `axis`, or for each `block` of them.
    """

    parts: tuple[Part, ...]
    split: int
    values: Array
    """All of them, int64."""
    low: Array
    high: Array
    """Ends of the range, in shapes that broadcast against the values."""
    zero: Array
    """The same, float32."""
    axis: int
    block: int

    def constants(self, integers: Array) -> dict[str, Array]:
        """The constants that hold these integers, in their types."""
        return {
            str(part.stored.name): np.take(integers, part.places, self.split).astype(np.dtype(part.stored.dtype))
            for part in self.parts
        }


class IntegerWeight(Latent):
    """``scale * round(clip(w / scale, low, high))`` of a float weight w, by Learned step size quantization.

    w gets the gradient of the number that it is rounded to while it is within the range, the scale that of the paper's
    equation 3; see `lpcc.train.operators.rounding`.
    """

    def __init__(self, name: str, integers: Integers, scale: Scale, start: Array | None = None) -> None:
        """`start` are the weights before they were rounded, where these are known.

        They start no further from the integers of the graph than half a step, so that the graph is at first what it is.
        """
        super().__init__()
        self.name, self.scale, self._integers = name, scale, integers
        for key, ends in (("_low", integers.low), ("_high", integers.high)):
            self.register_buffer(key, tensor_of((ends - integers.zero).astype(np.float32)), persistent=False)
        units = integers.values - integers.zero
        steps = array_of(self._spread(scale()), np.float32)
        if start is not None:
            at_low, at_high = integers.values <= integers.low, integers.values >= integers.high
            least = np.where(at_low, -np.inf, units - _CELL)
            most = np.where(at_high, np.inf, units + _CELL)
            units = np.clip(start / steps, least, most)
        self.weight = nn.Parameter(tensor_of((units * steps).astype(np.float32)))

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The float weight."""
        return {self.name: self.weight}

    @property
    def others(self) -> dict[str, nn.Parameter]:
        """The scale."""
        return self.scale.others

    def forward(self) -> Tensor:
        """The numbers that the integers stand for."""
        return FakeQuantize.apply(self.weight, self._spread(self.scale()), self._low, self._high)

    def stored(self) -> dict[str, Array]:
        """The integers of each constant, and the scale."""
        with torch.no_grad():
            units = torch.clamp(self.weight / self._spread(self.scale()), self._low, self._high).round()
            found = array_of(units, np.int64) + self._integers.zero.astype(np.int64)
        return self._integers.constants(found) | self.scale.stored()

    def _spread(self, scale: Tensor) -> Tensor:
        if scale.ndim == self._integers.values.ndim and not self._integers.block:
            return scale
        return spread(scale, self._integers.values.shape, self._integers.axis, self._integers.block)


class Bias(Latent):
    """An int32 bias, whose scale is the product of those of a layer's input and weights and follows them.

    Integer kernels add it to their sums. Its steps are so fine that only the float number behind it is trained, with
    the gradient of the rounded one.
    """

    def __init__(
        self, name: str, names: tuple[str, str], integers: Array, steps: Array, scales: Sequence[Scale]
    ) -> None:
        """`names` are the constants of the integers and of their scale, `scales` the factors of the latter.

        Without factors the scale stays `steps`, what it is in the graph.
        """
        super().__init__()
        self.name, self._names = name, names
        self._scales = nn.ModuleList(scales)
        self.register_buffer("_steps", tensor_of(steps.astype(np.float32)), persistent=False)
        found = array_of(self._scale(), np.float64)
        self.bias = nn.Parameter(tensor_of((integers * found).astype(np.float32)))

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    @property
    def others(self) -> dict[str, nn.Parameter]:
        """The float bias."""
        return {self.name: self.bias}

    def forward(self) -> Tensor:
        """The numbers that the integers stand for."""
        with torch.no_grad():
            scale = self._scale()
            rounded = self._units(scale).float() * scale
        return Through.apply(self.bias, rounded)

    def stored(self) -> dict[str, Array]:
        """The integers and their scale."""
        with torch.no_grad():
            scale = self._scale()
            integers = array_of(self._units(scale), np.int32)
        return {self._names[0]: integers, self._names[1]: array_of(scale, np.float32)}

    def _units(self, scale: Tensor) -> Tensor:
        return (self.bias.detach().double() / scale.double()).round().clamp(-_MOST_BIAS, _MOST_BIAS)

    def _scale(self) -> Tensor:
        if not self._scales:
            return self._steps
        with torch.no_grad():
            return prod(scale() for scale in self._scales).reshape(self._steps.shape)


def least_steps(bias: Array | None, input_scale: Array | None, axis: int | None) -> Array | float:
    """The least scales of weights, for each index of `axis`, with which a bias that doubles still fits into int32."""
    if bias is None or input_scale is None or input_scale.size != 1:
        return 0.0
    return 2 * least_scales(axis, bias, float(input_scale.reshape(())))


def limits_of(parts: Sequence[Part], split: int, values: Array, largest: int) -> tuple[Array, Array]:
    """Least and greatest integer along `split`, as the constants and the integers in them show.

    Signed ones are symmetric unless they use the least integer of their type; 8-bit ones are within `largest`, which is
    less than 127 where sums of 16 bits would saturate.
    """
    low, high = np.zeros(values.shape[split]), np.zeros(values.shape[split])
    for part in parts:
        name = np.dtype(part.stored.dtype).name
        top = 2**part.bits - 1 if name.startswith("u") else 2 ** (part.bits - 1) - 1
        bottom = 0 if name.startswith("u") else -top
        if name == "int8" and largest < top:
            bottom, top = -largest, largest
        elif bottom < 0 and (np.take(values, part.places, split) < bottom).any():
            bottom = -top - 1
        low[part.places], high[part.places] = bottom, top
    shape = [-1 if i == split else 1 for i in range(values.ndim)]
    return low.reshape(shape), high.reshape(shape)
