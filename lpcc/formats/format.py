"""What a number format is: the protocol that compression and retraining share.

A format says how many different numbers there are and how they lie; its scales, which are found for given weights, say
where. With both, ``encode`` turns real numbers into small integers and ``decode`` turns these back. Retraining rounds
with the same two and takes, in the place of the derivative of rounding, which is zero, `Format.slope`: the
straight-through estimator of Bengio et al. (2013), 1 where a number is within reach of the format and 0 beyond it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any, Generic, TypeVar

import numpy as np

from lpcc.formats.affine import SMALLEST

Array = np.ndarray[Any, Any]
Codes = tuple[Array, ...]
"""Integers that stand for numbers, in arrays of the shape of the numbers: one, or one for each term of a sum."""


@dataclass(frozen=True)
class Layout:
    """Which numbers of a tensor share their scales: a row of them.

    All of the tensor where `axis` is None; those with the same index of `axis`; with a `block`, that many neighbours
    along `axis`, at every place of the other axes (as DequantizeLinear takes blocks; the last may be shorter).
    """

    axis: int | None = None
    block: int = 0

    def rows(self, values: Array) -> Array:
        """The numbers as a matrix with a row for each scale; the last block is filled up with zeros."""
        if self.axis is None:
            return values.reshape(1, -1)
        moved = np.moveaxis(values, self.axis, 0)
        if not self.block:
            return moved.reshape(len(moved), prod(moved.shape[1:]))
        lacking = -len(moved) % self.block
        filled = np.concatenate([moved, np.zeros((lacking, *moved.shape[1:]), dtype=moved.dtype)])
        blocks = filled.reshape(-1, self.block, *moved.shape[1:])
        return np.moveaxis(blocks, 1, -1).reshape(-1, self.block)

    def shape(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales of a tensor of that shape, as DequantizeLinear takes them."""
        if self.axis is None:
            return ()
        if not self.block:
            return (values[self.axis],)
        return tuple(-(-size // self.block) if i == self.axis else size for i, size in enumerate(values))

    def spread(self, per_row: Array, shape: tuple[int, ...]) -> Array:
        """A number for each row as an array that broadcasts against a tensor of that shape."""
        if self.axis is None:
            return per_row.reshape([1] * len(shape))
        if not self.block:
            return per_row.reshape([-1 if i == self.axis else 1 for i in range(len(shape))])
        first = np.moveaxis(np.empty(self.shape(shape), dtype=bool), self.axis, 0).shape
        blocks = np.moveaxis(per_row.reshape(first), 0, self.axis)
        wide = np.repeat(blocks, self.block, axis=self.axis)
        return np.take(wide, np.arange(shape[self.axis]), axis=self.axis)


TENSOR = Layout()
"""One scale for all."""


@dataclass(frozen=True, eq=False)
class Scales:
    """What a format found for given numbers: a scale for each row (rows,), float32."""

    layout: Layout
    scale: Array

    def spread(self, per_row: Array, like: Array) -> Array:
        """A number for each row as an array that broadcasts against `like`."""
        return self.layout.spread(per_row, like.shape)


S = TypeVar("S", bound=Scales)


class Format(ABC, Generic[S]):
    """A number format. Subclasses are frozen dataclasses: their fields say which one of a family it is.

    Numbers are float32 arrays of any shape; codes have that shape too. All results depend on the arguments alone.
    """

    @property
    @abstractmethod
    def ends(self) -> tuple[int, int]:
        """Least and greatest code."""

    @abstractmethod
    def fit(self, values: Array, layout: Layout = TENSOR) -> S:
        """The scales that fit these numbers."""

    @abstractmethod
    def encode(self, values: Array, scales: S) -> Codes:
        """Codes of the numbers."""

    @abstractmethod
    def decode(self, codes: Codes, scales: S) -> Array:
        """The numbers, float32, that codes stand for."""

    @abstractmethod
    def levels(self, scales: S) -> Array:
        """All numbers that can be expressed, sorted: (rows, levels); some may occur twice."""

    @abstractmethod
    def bits(self, scales: S) -> float:
        """Bits of a code on average over the tensor, without its share of the scales."""

    def limits(self, scales: S) -> tuple[Array, Array]:
        """For each row the least and the greatest number that the straight-through estimator lets pass."""
        levels = self.levels(scales)
        return levels[:, 0], levels[:, -1]

    def slope(self, values: Array, scales: S) -> Array:
        """What the straight-through estimator takes for the derivative of rounding at each number."""
        low, high = (scales.spread(ends, values) for ends in self.limits(scales))
        passes: Array = ((values >= low) & (values <= high)).astype(np.float32)
        return passes

    def round(self, values: Array, scales: S) -> Array:
        """The numbers as the format expresses them: ``decode(encode(values))``."""
        return self.decode(self.encode(values, scales), scales)


def as_scale(scale: Array) -> Array:
    """Scales in float32; 1 for rows that are all zero."""
    return np.where(np.isfinite(scale) & (scale >= SMALLEST), scale, 1.0).astype(np.float32)
