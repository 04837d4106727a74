"""The arithmetic of quantisation: scales, zero points, integer weights and biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_INT32 = 2**31 - 1
SMALLEST = float(np.finfo(np.float32).tiny) * 2**24
"""Scales below this lose precision, as products with them are denormal."""


@dataclass(frozen=True)
class Params:
    """How a tensor is quantised: ``real = scale * (integer - zero_point)``."""

    scale: np.float32
    zero_point: int
    dtype: np.dtype[Any]

    @property
    def low(self) -> float:
        """Least number that can be expressed."""
        return float(self.scale) * (int(np.iinfo(self.dtype).min) - self.zero_point)

    @property
    def high(self) -> float:
        """Greatest number that can be expressed."""
        return float(self.scale) * (int(np.iinfo(self.dtype).max) - self.zero_point)


def activation_params(low: float, high: float, dtype: np.dtype[Any]) -> Params:
    """Asymmetric parameters for the range ``low <= 0 <= high``; zero is expressed exactly.

    The range is met from within, so that an activation that limits to it has no effect left: the zero point is the
    least integer where `low` is zero, and ``Params.high`` does not exceed `high` then. A range without extent (a tensor
    that is all zero) gets scale 1.
    """
    info = np.iinfo(dtype)
    levels = int(info.max) - int(info.min)
    if not high - low > SMALLEST * levels:
        return Params(np.float32(1.0), int(info.min) if low == 0 else 0, dtype)
    scale = np.float32((high - low) / levels)
    if float(scale) * levels > high - low:
        scale = np.nextafter(scale, np.float32(0))
    zero = int(np.clip(np.rint(info.min - low / float(scale)), info.min, info.max))
    return Params(scale, zero, dtype)


def symmetric_params(magnitude: float, dtype: np.dtype[Any]) -> Params:
    """Symmetric parameters for ``[-magnitude, magnitude]``, with the zero point in the middle of the integers.

    That is 0 for signed integers, 128 for uint8. The least integer of all is not needed.
    """
    info = np.iinfo(dtype)
    half = (int(info.max) - int(info.min)) // 2
    zero = int(info.max) - half
    if not magnitude > SMALLEST * half:
        return Params(np.float32(1.0), zero, dtype)
    return Params(np.float32(magnitude / half), zero, dtype)


def quantize(values: Array, params: Params) -> Array:
    """Integers of `values`: rounded half to even, as QuantizeLinear does, and clipped."""
    info = np.iinfo(params.dtype)
    integers = np.rint(np.asarray(values, dtype=np.float32) / params.scale) + params.zero_point
    result: Array = np.clip(integers, info.min, info.max).astype(params.dtype)
    return result


@dataclass(frozen=True)
class Weights:
    """Integer weights with zero point 0, and their scales: one for each index of `axis`, or one where that is None."""

    integers: Array
    scales: Array
    axis: int | None

    @property
    def values(self) -> Array:
        """The numbers that the integers stand for, float64."""
        shape = [-1 if i == self.axis else 1 for i in range(self.integers.ndim)] if self.axis is not None else []
        result: Array = self.integers * self.scales.astype(np.float64).reshape(shape)
        return result


def quantize_weights(
    values: Array,
    axis: int | None,
    largest: int,
    bias: Array | None = None,
    input_scale: float = 1.0,
    magnitudes: Array | None = None,
) -> Weights:
    """Symmetric int8 weights within ``[-largest, largest]``, a scale for each index of `axis` or one for all.

    `magnitudes` are what `largest` stands for: by default the largest magnitudes of the weights, none is clipped then.
    The bias is to be an int32 of scale ``input_scale * scale``. Where that would overflow (tiny weights under a large
    bias), the scale of that channel is widened until it does not.
    """
    values = np.asarray(values, dtype=np.float32)
    others = tuple(i for i in range(values.ndim) if i != axis)
    if magnitudes is None:
        magnitudes = np.abs(values).max(axis=others if axis is not None else None)
    scales = np.maximum(np.asarray(magnitudes, dtype=np.float64) / largest, least_scales(axis, bias, input_scale))
    scales = np.where(scales < SMALLEST, 1.0, scales).astype(np.float32)  # of a channel that is all zero
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    spread = scales.reshape(shape) if axis is not None else scales
    integers = np.clip(np.rint(values / spread), -largest, largest).astype(np.int8)
    return Weights(integers, scales, axis)


def least_scales(axis: int | None, bias: Array | None, input_scale: float) -> Array:
    """The least scales of weights with which the bias fits into int32, for each index of `axis` or one for all.

    A bit is left for the products that are added to the bias.
    """
    if bias is None:
        return np.zeros(())
    needed = np.abs(np.asarray(bias, dtype=np.float64)).reshape(-1) / (input_scale * (_INT32 // 2))
    return np.asarray(needed if axis is not None else needed.max(initial=0.0))


def quantize_bias(bias: Array, input_scale: np.float32, weights: Weights) -> tuple[Array, Array]:
    """The bias as int32 and its scales, ``input_scale * weight scale``."""
    scales = (input_scale * weights.scales).astype(np.float32)
    integers = np.rint(np.asarray(bias, dtype=np.float64) / scales.astype(np.float64))
    return np.clip(integers, -_INT32, _INT32).astype(np.int32), scales
