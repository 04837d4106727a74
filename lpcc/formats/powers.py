"""Sums of powers of two, which a datapath multiplies by with shifts and additions alone.

    number = scale * (t_1 + ... + t_k),   t_i = 0 or +-2^-e,  0 <= e < 2^(bits-1) - 1

LightNN (Ding, Liu, Marculescu, Blanton, GLSVLSI 2017) takes k = 1 or 2 for a whole network, chosen greedily: each term
is the power of two nearest to what the terms before it left. FLightNN (Ding, Liu, Chin, Marculescu, Blanton,
arXiv 1904.02835) lets each filter have as many as it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import numpy as np

from lpcc.errors import UsageError
from lpcc.formats.format import TENSOR, Array, Codes, Format, Layout, Scales, as_scale
from lpcc.formats.search import ALONE, least_error, rounded

_MOST_TERMS = 4
_PHASES = np.exp2(-np.arange(-2, 5) / 4)  # of a free scale: four in an octave, from above the largest number down
_TURNS = 4


@dataclass(frozen=True, eq=False)
class PowerScales(Scales):
    """Scales, and how many terms the numbers of each row have (rows,), int."""

    terms: Array


@dataclass(frozen=True)
class PowerOfTwo(Format[PowerScales]):
    """Sums of `k` powers of two, each in `width` bits: a sign and an exponent, and one code for zero.

    The scale of a row is a power of two itself (``power``: numbers are sums of powers of two as they stand), or any
    number (``free``: the sums are, and the scale of a filter belongs to its result, which is scaled anyway); either way
    that of least error (`lpcc.formats.search`).
    """

    k: int = 1
    width: int = 4
    scale: Literal["power", "free"] = "free"

    def __post_init__(self) -> None:
        if not 1 <= self.k <= _MOST_TERMS:
            raise UsageError(f"sums have 1 to {_MOST_TERMS} powers of two, not {self.k}")
        if not 2 <= self.width <= 5:
            raise UsageError(f"powers of two have 2 to 5 bits, not {self.width}")

    @property
    def ends(self) -> tuple[int, int]:
        """Least and greatest code."""
        return 0, int(2**self.width - 1)

    @property
    def table(self) -> Array:
        """The powers of two in units of the scale, by code: zero, positive ones from the greatest, zero, negative."""
        powers = np.exp2(-np.arange(2 ** (self.width - 1) - 1, dtype=np.float32)).astype(np.float32)
        zero = np.zeros(1, dtype=np.float32)
        return np.concatenate([zero, powers, zero, -powers])

    def fit(self, values: Array, layout: Layout = TENSOR) -> PowerScales:
        """The scale of each row for `k` terms."""
        rows = layout.rows(np.asarray(values, dtype=np.float32))
        return PowerScales(layout, self._scale(rows, self.k), np.full(len(rows), self.k))

    def _scale(self, rows: Array, k: int) -> Array:
        top = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
        if self.scale == "power":
            octave = np.exp2(np.floor(np.log2(np.where(top > 0, top, 1.0))))
            return as_scale(least_error(rows, (octave * 2.0, octave, octave / 2), partial(self._nearest, k=k), 0))
        return as_scale(least_error(rows, (top * phase for phase in _PHASES), partial(self._nearest, k=k), _TURNS))

    def _nearest(self, units: Array, k: int) -> Array:
        found: Array = self.table[np.stack(self._codes(units, k))].sum(axis=0)
        return found

    def _codes(self, units: Array, k: int) -> list[Array]:
        """Codes of k terms, greedily: each the nearest power of two to what is left."""
        half = len(self.table) // 2
        found: list[Array] = []
        left = units.astype(np.float32)
        for _ in range(k):
            size = np.abs(left)
            part, exponent = np.frexp(size)  # part * 2^exponent, of which 0.75 is halfway from one power to the next
            place: Array = np.clip((part < 0.75) - exponent, 0, half - 2)
            code = np.where(size < 0.5 * self.table[half - 1], 0, 1 + place + half * (left < 0)).astype(np.int32)
            left = left - self.table[code]
            found.append(code)
        return found

    def encode(self, values: Array, scales: PowerScales) -> Codes:
        """Codes of each term; those that a row has no use for are 0."""
        units = np.asarray(values, dtype=np.float32) / scales.spread(scales.scale, values)
        terms = scales.spread(scales.terms, values)
        return tuple(np.where(terms > i, code, 0) for i, code in enumerate(self._codes(units, self.k)))

    def decode(self, codes: Codes, scales: PowerScales) -> Array:
        """The sum of the terms, times the scale."""
        total = self.table[codes[0]]
        for code in codes[1:]:
            total = total + self.table[code]
        return np.asarray(total * scales.spread(scales.scale, total), dtype=np.float32)

    def levels(self, scales: PowerScales) -> Array:
        """All sums; those that a row with fewer terms cannot express are left out by repeating others."""
        rows = []
        sums = {k: _sums(self.table, k) for k in range(self.k + 1)}
        for scale, terms in zip(scales.scale, scales.terms, strict=True):
            own = sums[int(terms)]
            rows.append(np.pad(own, (0, len(sums[self.k]) - len(own)), mode="edge") * scale)
        return np.asarray(rows, dtype=np.float32)

    def limits(self, scales: PowerScales) -> tuple[Array, Array]:
        """The greatest sum, of as many terms as the format may have, so that a filter can win one back."""
        return -self.k * scales.scale, self.k * scales.scale

    def bits(self, scales: PowerScales) -> float:
        """`width` for each term, on average over the rows."""
        return self.width * float(scales.terms.mean()) if len(scales.terms) else 0.0


@dataclass(frozen=True)
class FLightNN(PowerOfTwo):
    """Sums of up to `k` powers of two, as many in each row as its numbers need.

    With a `threshold`, the fewest whose relative error, ``|w - q| / |w|``, is at most that; else `mean_k` on average
    over the rows, given one by one to that row whose error falls most. A row that is all zero has none.
    """

    k: int = 2
    mean_k: float = 1.5
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mean_k <= self.k:
            raise UsageError(f"the mean number of powers of two is between 0 and k = {self.k}, not {self.mean_k}")

    def fit(self, values: Array, layout: Layout = TENSOR) -> PowerScales:
        """Scales and numbers of terms of each row."""
        rows = layout.rows(np.asarray(values, dtype=np.float32))
        energy = np.square(rows).sum(axis=1, dtype=np.float64)
        scale, error = [np.ones(len(rows), dtype=np.float32)], [energy]
        for k in range(1, self.k + 1):
            found = self._scale(rows, k)
            scale.append(found)
            error.append(ALONE.error(rows, rounded(rows, found, partial(self._nearest, k=k))))
        errors = np.minimum.accumulate(np.stack(error), axis=0)  # (k + 1, rows)
        terms = self._within(errors, energy) if self.threshold is not None else self._budgeted(errors)
        return PowerScales(layout, np.stack(scale)[terms, np.arange(len(rows))], terms)

    def _within(self, errors: Array, energy: Array) -> Array:
        met = errors <= (self.threshold or 0.0) ** 2 * energy
        return np.where(met.any(axis=0), met.argmax(axis=0), self.k)

    def _budgeted(self, errors: Array) -> Array:
        """Terms one by one where they save most; what more than one at a time would save counts as its average."""
        terms = np.zeros(errors.shape[1], dtype=np.int64)
        left = int(self.mean_k * len(terms) + 1e-9)
        steps = []
        for row in range(len(terms)):
            k = 0
            while k < self.k:  # the upper hull: each step saves less for each term than the one before
                gains = [(errors[k, row] - errors[k + n, row]) / n for n in range(1, self.k - k + 1)]
                n = int(np.argmax(gains)) + 1
                steps.append((-gains[n - 1], row, k, n))
                k += n
        for gain, row, _, n in sorted(steps):
            if gain < 0 and n <= left:
                terms[row] += n
                left -= n
        return terms


def _sums(table: Array, k: int) -> Array:
    """All sums of k entries of the table, sorted."""
    if k == 0:
        return np.zeros(1, dtype=np.float32)
    return np.unique(np.array([sum(entries) for entries in product(np.unique(table), repeat=k)], dtype=np.float32))
