"""Integers of 1 to 16 bits, symmetric or with a zero point, and DoReFa's quantisers, which are integers too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lpcc.errors import UsageError
from lpcc.formats.format import TENSOR, Array, Codes, Format, Layout, Scales, as_scale
from lpcc.formats.search import ALONE, least_error, rounded

_MOST_BITS = 16
_STEPS = 24
_TURNS = 4


@dataclass(frozen=True, eq=False)
class AffineScales(Scales):
    """``number = scale * (code - offset)``; the offset is a whole number, or lies halfway between two."""

    offset: Array


def affine(codes: Codes, scales: AffineScales) -> Array:
    """The numbers of integer codes, in the order of operations that the graph has: subtract, multiply."""
    found = codes[0].astype(np.float32)
    if scales.offset.any():
        found = found - scales.spread(scales.offset, found)
    return np.asarray(found * scales.spread(scales.scale, found), dtype=np.float32)


@dataclass(frozen=True)
class Integer(Format[AffineScales]):
    """Integers of `bits`; symmetric ones within ``+-(2^(bits-1) - 1)``, others unsigned with a zero point.

    Zero is always expressed exactly. The range is that of least error: to clip a few numbers costs less than
    coarse steps cost all of them.
    """

    width: int = 8
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.width <= _MOST_BITS:
            raise UsageError(f"integers have 2 to {_MOST_BITS} bits, not {self.width}")

    @property
    def ends(self) -> tuple[int, int]:
        """Least and greatest code."""
        most = 2 ** (self.width - 1) - 1
        return (-most, most) if self.symmetric else (0, 2 * most + 1)

    def fit(self, values: Array, layout: Layout = TENSOR) -> AffineScales:
        """Scales of least error, on a grid of shares of the range of each row, then by turns."""
        rows = layout.rows(np.asarray(values, dtype=np.float32))
        least_share = max(0.15, 1.0 - 1.7 / self.width)
        shares = np.linspace(1.0, least_share, _STEPS)
        if self.symmetric:
            low, high = self.ends
            full = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64) / high
            scale = least_error(
                rows, (full * share for share in shares), lambda units: np.clip(np.rint(units), low, high), _TURNS
            )
            return AffineScales(layout, as_scale(scale), np.zeros(len(rows), dtype=np.float32))
        return self._asymmetric(rows, shares, layout)

    def _asymmetric(self, rows: Array, shares: Array, layout: Layout) -> AffineScales:
        _, most = self.ends
        low = np.minimum(rows.min(axis=1, initial=0.0), 0.0).astype(np.float64)
        high = np.maximum(rows.max(axis=1, initial=0.0), 0.0).astype(np.float64)
        best = np.ones(len(rows))
        zero = np.zeros(len(rows))
        error = np.full(len(rows), np.inf)
        for share in shares:
            scale = as_scale((high - low) * share / most).astype(np.float64)
            offset = np.clip(np.rint(-low * share / scale), 0, most)

            def nearest(units: Array, offset: Array = offset) -> Array:
                moved = offset[:, None].astype(np.float32)
                result: Array = np.clip(np.rint(units) + moved, 0, most) - moved
                return result

            found = ALONE.error(rows, rounded(rows, scale, nearest))
            best, zero = np.where(found < error, scale, best), np.where(found < error, offset, zero)
            error = np.minimum(found, error)
        return AffineScales(layout, as_scale(best), zero.astype(np.float32))

    def encode(self, values: Array, scales: AffineScales) -> Codes:
        """Nearest codes, halves to even."""
        low, high = self.ends
        units = np.rint(np.asarray(values, dtype=np.float32) / scales.spread(scales.scale, values))
        return (np.clip(units + scales.spread(scales.offset, values), low, high).astype(np.int32),)

    def decode(self, codes: Codes, scales: AffineScales) -> Array:
        """``scale * (code - offset)``."""
        return affine(codes, scales)

    def levels(self, scales: AffineScales) -> Array:
        """One for each code."""
        low, high = self.ends
        codes = np.arange(low, high + 1, dtype=np.float32)
        return np.asarray((codes - scales.offset[:, None]) * scales.scale[:, None], dtype=np.float32)

    def bits(self, scales: AffineScales) -> float:  # noqa: ARG002
        """`width`."""
        return float(self.width)


@dataclass(frozen=True, eq=False)
class DorefaScales(AffineScales):
    """Scales of DoReFa's weights; `peak` is the greatest |tanh| of all of them."""

    peak: np.float32


@dataclass(frozen=True)
class DorefaWeights(Format[DorefaScales]):
    """Weights of DoReFa-Net: ``2 round_k(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1`` in `width` = k bits.

    ``round_k(x) = round((2^k - 1) x) / (2^k - 1)``; one bit is ``sign(w) E|w|`` of the whole tensor. Zhou et al.,
    DoReFa-Net (2016), sections 2.3 and 2.4. These weights lie in [-1, 1] whatever they were, which a batch norm learns
    to live with; `rescaled` ones have the factor per row that brings them nearest to what they were.
    """

    width: int = 2
    rescaled: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 8:
            raise UsageError(f"DoReFa weights have 1 to 8 bits, not {self.width}")

    @property
    def ends(self) -> tuple[int, int]:
        """Least and greatest code."""
        return 0, int(2**self.width - 1)

    def fit(self, values: Array, layout: Layout = TENSOR) -> DorefaScales:
        """The greatest |tanh|, of all numbers, and the factor of each row."""
        values = np.asarray(values, dtype=np.float32)
        peak = np.abs(np.tanh(values)).max(initial=0.0) or 1.0
        offset = np.full(len(layout.rows(values)), self.ends[1] / 2, dtype=np.float32)
        plain = DorefaScales(
            layout, np.full(len(offset), 2.0 / self.ends[1], dtype=np.float32), offset, np.float32(peak)
        )
        factor = np.ones(len(offset))
        if self.rescaled:
            levels, rows = layout.rows(self.round(values, plain)), layout.rows(values)
            energy = np.square(levels).sum(axis=1, dtype=np.float64)
            factor = (rows * levels).sum(axis=1, dtype=np.float64) / np.where(energy > 0, energy, 1.0)
        elif self.width == 1:
            factor = np.full(len(offset), np.abs(values).mean() if values.size else 1.0)
        return DorefaScales(layout, (plain.scale * np.abs(factor)).astype(np.float32), offset, plain.peak)

    def encode(self, values: Array, scales: DorefaScales) -> Codes:
        """Codes of the squashed numbers."""
        squashed = np.tanh(np.asarray(values, dtype=np.float32)) / (2 * scales.peak) + np.float32(0.5)
        if self.width == 1:
            return ((squashed >= 0.5).astype(np.int32),)
        return (np.clip(np.rint(squashed * self.ends[1]), 0, self.ends[1]).astype(np.int32),)

    def decode(self, codes: Codes, scales: DorefaScales) -> Array:
        """``scale * (code - (2^k - 1) / 2)``."""
        return affine(codes, scales)

    def levels(self, scales: DorefaScales) -> Array:
        """One for each code; none of them is zero."""
        codes = np.arange(self.ends[1] + 1, dtype=np.float32)
        return np.asarray((codes - scales.offset[:, None]) * scales.scale[:, None], dtype=np.float32)

    def bits(self, scales: DorefaScales) -> float:  # noqa: ARG002
        """`width`."""
        return float(self.width)

    def limits(self, scales: DorefaScales) -> tuple[Array, Array]:
        """None: tanh squashes every number into reach."""
        ends = np.full(len(scales.scale), np.inf, dtype=np.float32)
        return -ends, ends

    def slope(self, values: Array, scales: DorefaScales) -> Array:
        """Derivative of what comes before rounding: ``scale (2^k - 1) (1 - tanh(w)^2) / (2 max |tanh(w)|)``."""
        inner = (1 - np.square(np.tanh(values))) / (2 * scales.peak)
        return np.asarray(scales.spread(scales.scale, values) * self.ends[1] * inner, dtype=np.float32)


@dataclass(frozen=True)
class UnitActivations(Format[AffineScales]):
    """Activations of DoReFa-Net: clipped to [0, 1], in ``2^width - 1`` equal steps. Zhou et al. (2016), section 2.5."""

    width: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.width <= _MOST_BITS:
            raise UsageError(f"activations have 1 to {_MOST_BITS} bits, not {self.width}")

    @property
    def ends(self) -> tuple[int, int]:
        """Least and greatest code."""
        return 0, int(2**self.width - 1)

    def fit(self, values: Array, layout: Layout = TENSOR) -> AffineScales:  # noqa: ARG002
        """The same for all numbers."""
        return AffineScales(TENSOR, np.array([1 / (2**self.width - 1)], dtype=np.float32), np.zeros(1, np.float32))

    def encode(self, values: Array, scales: AffineScales) -> Codes:  # noqa: ARG002
        """Nearest codes."""
        most = self.ends[1]
        return (np.rint(np.clip(np.asarray(values, dtype=np.float32), 0, 1) * most).astype(np.int32),)

    def decode(self, codes: Codes, scales: AffineScales) -> Array:
        """``code / (2^width - 1)``."""
        return affine(codes, scales)

    def levels(self, scales: AffineScales) -> Array:
        """From 0 to 1."""
        return np.asarray(np.arange(2**self.width, dtype=np.float32)[None] * scales.scale[:, None], dtype=np.float32)

    def bits(self, scales: AffineScales) -> float:  # noqa: ARG002
        """`width`."""
        return float(self.width)
