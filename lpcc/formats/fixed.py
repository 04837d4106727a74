"""Fixed point with any number of integer and fraction bits, and dynamic fixed point, whose point follows the values.

    number = code * 2^-fraction,   -2^(bits-1) <= code < 2^(bits-1)

Courbariaux, Bengio, David: Training deep neural networks with low precision multiplications, arXiv 1412.7024. Their
dynamic fixed point watches how many numbers overflow: it doubles the scale where they are more than a given share, and
halves it where they would not be even then. Where that comes to rest for given numbers is what `fit` finds at once. In
few bits it pays to let more overflow than that; without such a share the point is that of least error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lpcc.errors import UsageError
from lpcc.formats.format import TENSOR, Array, Codes, Format, Layout
from lpcc.formats.integer import AffineScales, affine
from lpcc.formats.search import least_error

_MOST_BITS = 24
"""A float32 holds no more digits than that."""
_EXPONENTS = (-100, 100)
_FINER = 5  # how many places the point may move from where nothing overflows


@dataclass(frozen=True)
class Fixed(Format[AffineScales]):
    """Fixed point of `width` bits, sign included.

    `fraction` of them are behind the point, which may be more than there are, or fewer than none. None stands for
    dynamic fixed point: as many as let at most a share `overflow` of each row's numbers overflow (1e-4 in the paper),
    or, where that is None too, as many as have the least error.
    """

    width: int = 8
    fraction: int | None = None
    overflow: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.width <= _MOST_BITS:
            raise UsageError(f"fixed point has 2 to {_MOST_BITS} bits, not {self.width}")
        if self.fraction is not None and not _EXPONENTS[0] <= self.fraction <= _EXPONENTS[1]:
            raise UsageError(f"fraction bits are between {_EXPONENTS[0]} and {_EXPONENTS[1]}, not {self.fraction}")

        if self.overflow is not None and not 0 <= self.overflow < 1:
            raise UsageError(f"the share that may overflow is between 0 and 1, not {self.overflow}")

    @property
    def ends(self) -> tuple[int, int]:
        """Least and greatest code."""
        return -(2 ** (self.width - 1)), 2 ** (self.width - 1) - 1

    def fit(self, values: Array, layout: Layout = TENSOR) -> AffineScales:
        """Where the point stands for each row."""
        rows = layout.rows(np.asarray(values, dtype=np.float32))
        if self.fraction is not None:
            scale = np.full(len(rows), 2.0**-self.fraction)
        elif self.overflow is not None:
            scale = self._covering(rows, int(self.overflow * rows.shape[1]))
        else:
            widest = self._covering(rows, 0)
            finer = (np.maximum(widest / 2**i, 2.0 ** _EXPONENTS[0]) for i in range(_FINER))
            scale = least_error(rows, finer, lambda units: np.clip(np.rint(units), *self.ends), 0)
        return AffineScales(layout, scale.astype(np.float32), np.zeros(len(rows), dtype=np.float32))

    def _covering(self, rows: Array, allowed: int) -> Array:
        """The least power of two for each row with which no more than so many numbers overflow."""
        if not rows.shape[1]:
            return np.ones(len(rows))
        top = np.partition(np.abs(rows), -1 - allowed, axis=1)[:, -1 - allowed].astype(np.float64)
        wanted = top / (self.ends[1] + 0.5)  # what rounds to the last code does not overflow
        exponent = np.ceil(np.log2(np.where(wanted > 0, wanted, 1.0)))
        scale: Array = np.exp2(np.clip(exponent, *_EXPONENTS))
        return scale

    def encode(self, values: Array, scales: AffineScales) -> Codes:
        """Nearest codes, halves to even."""
        units = np.rint(np.asarray(values, dtype=np.float32) / scales.spread(scales.scale, values))
        return (np.clip(units, *self.ends).astype(np.int32),)

    def decode(self, codes: Codes, scales: AffineScales) -> Array:
        """``code * 2^-fraction``."""
        return affine(codes, scales)

    def levels(self, scales: AffineScales) -> Array:
        """One for each code."""
        codes = np.arange(self.ends[0], self.ends[1] + 1, dtype=np.float32)
        return np.asarray(codes * scales.scale[:, None], dtype=np.float32)

    def limits(self, scales: AffineScales) -> tuple[Array, Array]:
        """The ends of the range."""
        return self.ends[0] * scales.scale, self.ends[1] * scales.scale

    def bits(self, scales: AffineScales) -> float:  # noqa: ARG002
        """`width`."""
        return float(self.width)
